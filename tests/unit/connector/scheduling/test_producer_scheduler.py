"""The scheduler's side of a producer."""

from typing import Any

import pytest

from connector.scheduling.producer_scheduler import ProducerScheduler
from connector.scheduling.request_params import digest_of_prompt
from connector.scheduling.steps import Chunk, ProducerStep, Queued, Released
from tests.unit.connector.scheduling.vllm_requests import PRODUCER, decode, output, prefill, request


def test_chunks_say_how_far_the_step_computes() -> None:
    scheduler = ProducerScheduler(left_out=0)
    one, plain = prefill(), request(2)
    scheduler.on_new_request(one)
    scheduler.on_new_request(plain)
    table = [5, 6]
    step = scheduler.build_step(output({"r1": 6, "r2": 3}, {"r1": table, "r2": [9]}))
    assert step == ProducerStep(
        False, [Chunk("t1", "r1", 10, ([5, 6],), 6, 6)], queued=[Queued("t1", "r1", digest_of_prompt(one))]
    )
    table.append(7)  # vLLM's own list, which goes on growing: what the workers hold must not
    assert step.chunks[0].block_ids == ([5, 6],)
    one.num_computed_tokens = 6
    assert scheduler.build_step(output({"r1": 4}, {"r1": table})).chunks == [Chunk("t1", "r1", 10, ([5, 6, 7],), 10, 4)]
    assert scheduler.build_step(output()) == ProducerStep(True)


def test_a_prefix_hit_counts_as_computed() -> None:
    scheduler = ProducerScheduler(left_out=0)
    one = prefill()
    scheduler.on_new_request(one)
    one.num_computed_tokens = 8
    (chunk,) = scheduler.build_step(output({"r1": 2}, {"r1": [1, 2, 3]})).chunks
    assert chunk.step_end == 10


@pytest.mark.parametrize(("computed", "complete"), [(0, False), (9, False), (10, True), (11, True)])
def test_an_ended_request_is_kept_until_the_workers_report_it(computed: int, complete: bool) -> None:
    scheduler = ProducerScheduler(left_out=0)
    one = prefill()
    scheduler.on_new_request(one)
    one.num_computed_tokens = computed
    assert scheduler.request_finished(one, ([5, 6, 7],)) is True
    assert scheduler.build_step(output()).released == [Released("t1", "r1", complete)]
    assert scheduler.build_step(output()) == ProducerStep(True)
    assert not scheduler._transfers


def test_preempted_requests_are_named_even_when_they_ended_meanwhile() -> None:
    scheduler = ProducerScheduler(left_out=0)
    one = prefill()
    scheduler.on_new_request(one)
    scheduler.request_finished(one, ([],))
    step = scheduler.build_step(output(preempted=["r1"]))
    assert step.preempted == ["r1"]
    assert step.released == [Released("t1", "r1", complete=False)]


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"transfer_id": "t1"},
        {"transfer_id": "t1", "do_remote_decode": False},
        {"do_remote_decode": True},
        {"do_remote_decode": True, "transfer_id": 5},
        {"do_remote_decode": "yes", "transfer_id": "t1"},
        {"do_remote_prefill": True, "transfer_id": "t1", "producer": PRODUCER},
    ],
)
def test_the_producer_leaves_other_requests_alone(params: dict[str, Any]) -> None:
    scheduler = ProducerScheduler(left_out=0)
    other = request(**params)
    scheduler.on_new_request(other)
    assert scheduler.build_step(output({"r1": 4}, {"r1": [1]})).chunks == []
    assert scheduler.request_finished(other, ([5, 6, 7],)) is False
    assert scheduler.build_step(output()).released == []


def test_every_group_has_a_block_table() -> None:
    scheduler = ProducerScheduler(left_out=0)
    scheduler.on_new_request(prefill())
    tables = ([5, 6], [0, 7], [9])
    step = scheduler.build_step(output({"r1": 6}, {"r1": tables}))
    assert step.chunks == [Chunk("t1", "r1", 10, ([5, 6], [0, 7], [9]), 6, 6)]
    for table in tables:
        table.append(3)
    assert step.chunks[0].block_ids == ([5, 6], [0, 7], [9])


def test_blocks_that_are_held_are_counted_in_every_group_without_the_null_ones() -> None:
    scheduler = ProducerScheduler(left_out=0)
    one, other = prefill(1), prefill(2)
    for each in (one, other):
        scheduler.on_new_request(each)
    scheduler.request_finished(one, ([5, 6, 7], [0, 0, 8], [0, 9]))
    scheduler.request_finished(other, ([3],))
    assert scheduler.held.blocks == 6
    scheduler.sent({"r1", "r7"})
    assert scheduler.held.blocks == 1
    scheduler.sent({"r2"})
    assert scheduler.held.blocks == 0


def test_the_last_token_is_left_out_and_the_digest_is_of_the_whole_prompt() -> None:
    """The consumer, who computes that token, has all of them."""
    scheduler = ProducerScheduler(left_out=1)
    one = prefill()
    whole = digest_of_prompt(prefill())
    scheduler.on_new_request(one)
    step = scheduler.build_step(output({"r1": 9}, {"r1": ([1, 2, 3], [4])}))
    assert step.queued == [Queued("t1", "r1", whole)]
    assert whole == digest_of_prompt(decode())
    assert digest_of_prompt(one) != whole
    assert step.chunks == [Chunk("t1", "r1", 9, ([1, 2, 3], [4]), 9, 9)]
    one.num_computed_tokens = 9
    scheduler.request_finished(one, ([1, 2, 3], [4]))
    assert scheduler.build_step(output()).released == [Released("t1", "r1", complete=True)]


@pytest.mark.parametrize(("prompt", "moved"), [(10, 8), (3, 1), (2, 1), (1, 1)])
def test_what_is_kept_back_is_computed_and_not_moved(prompt: int, moved: int) -> None:
    """A prompt that is shorter is not asked for."""
    scheduler = ProducerScheduler(left_out=0, kept_back=2)
    one = prefill(prompt=prompt)
    scheduler.on_new_request(one)
    assert one.num_prompt_tokens == prompt
    step = scheduler.build_step(output({"r1": prompt}, {"r1": [1, 2, 3]}))
    assert step.chunks == [Chunk("t1", "r1", moved, ([1, 2, 3],), prompt, prompt)]


def test_prompts_that_are_not_moved_stay_whole() -> None:
    scheduler = ProducerScheduler(left_out=1)
    plain = request(2)
    scheduler.on_new_request(plain)
    assert plain.num_prompt_tokens == len(plain.prompt_token_ids) == len(plain._all_token_ids) == 10
