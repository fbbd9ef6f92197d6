"""The scheduler's side of a producer."""

from types import SimpleNamespace
from typing import Any

import pytest
from connector.transfer.scheduler import ProducerScheduler, digest_of_prompt

from connector.transfer.steps import Chunk, ProducerStep, Queued, Released
from tests.unit.connector.transfer.vllm_requests import PRODUCER, decode, output, prefill, request


def test_chunks_say_how_far_the_step_computes() -> None:
    scheduler = ProducerScheduler()
    one, plain = prefill(), request(2)
    scheduler.on_new_request(one)
    scheduler.on_new_request(plain)
    table = [5, 6]
    step = scheduler.build_step(output({"r1": 6, "r2": 3}, {"r1": table, "r2": [9]}))
    assert step == ProducerStep(
        False, [Chunk("t1", "r1", 10, [5, 6], 6, 6)], queued=[Queued("t1", "r1", digest_of_prompt(one))]
    )
    table.append(7)  # vLLM's own list, which goes on growing: what the workers hold must not
    assert step.chunks[0].block_ids == [5, 6]
    one.num_computed_tokens = 6
    assert scheduler.build_step(output({"r1": 4}, {"r1": table})).chunks == [Chunk("t1", "r1", 10, [5, 6, 7], 10, 4)]
    assert scheduler.build_step(output()) == ProducerStep(True)


def test_a_digest_tells_prompts_apart() -> None:
    """By one token of many; and a prompt of embeddings, which has no tokens, from none of its kind."""
    prompts = [[1, 2, 3], [1, 2, 4], [3, 2, 1], [1, 2], [1, 2, 3, 0], [2**31], None]
    requests = [SimpleNamespace(prompt_token_ids=tokens) for tokens in prompts]
    assert len({digest_of_prompt(each) for each in requests}) == len(prompts)
    assert digest_of_prompt(prefill(1)) == digest_of_prompt(decode(2))


def test_a_prefix_hit_counts_as_computed() -> None:
    scheduler = ProducerScheduler()
    one = prefill()
    scheduler.on_new_request(one)
    one.num_computed_tokens = 8
    (chunk,) = scheduler.build_step(output({"r1": 2}, {"r1": [1, 2, 3]})).chunks
    assert chunk.step_end == 10


@pytest.mark.parametrize(("computed", "complete"), [(0, False), (9, False), (10, True), (11, True)])
def test_an_ended_request_is_kept_until_the_workers_report_it(computed: int, complete: bool) -> None:
    scheduler = ProducerScheduler()
    one = prefill()
    scheduler.on_new_request(one)
    one.num_computed_tokens = computed
    assert scheduler.request_finished(one, [5, 6, 7]) is True
    assert scheduler.build_step(output()).released == [Released("t1", "r1", complete)]
    assert scheduler.build_step(output()) == ProducerStep(True)
    assert not scheduler._transfers


def test_preempted_requests_are_named_even_when_they_ended_meanwhile() -> None:
    scheduler = ProducerScheduler()
    one = prefill()
    scheduler.on_new_request(one)
    scheduler.request_finished(one, [])
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
    scheduler = ProducerScheduler()
    other = request(**params)
    scheduler.on_new_request(other)
    assert scheduler.build_step(output({"r1": 4}, {"r1": [1]})).chunks == []
    assert scheduler.request_finished(other, [5, 6, 7]) is False
    assert scheduler.build_step(output()).released == []
