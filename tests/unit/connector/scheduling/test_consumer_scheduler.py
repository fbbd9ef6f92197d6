"""The scheduler's side of a consumer."""

from typing import Any

import msgspec
import pytest

from connector.control.messages import (
    Cancel,
    Done,
    GroupBlocks,
    LayerPlace,
    Register,
)
from connector.scheduling.request_params import digest_of_prompt
from connector.scheduling.steps import ConsumerStep, Load
from tests.unit.connector.scheduling.scheduled_consumer import CONSUMER, DONE, RANKS, Consumer
from tests.unit.connector.scheduling.vllm_requests import CONTROL, PRODUCER, decode, output, request


def cancels(number: int = 1) -> list[tuple[str, Cancel]]:
    return [(there, Cancel(f"t{number}", CONSUMER[0])) for there in CONTROL]


@pytest.mark.parametrize("computed_here", [0, 4, 8])
def test_asking_is_free_of_side_effects(computed_here: int) -> None:
    consumer = Consumer()
    one = consumer.add(decode())
    for _ in range(3):
        assert consumer.scheduler.tokens_from_producer(one, computed_here) == (10 - computed_here, True)
    assert consumer.outbox.sent == []
    assert consumer.scheduler.build_step(output()) == ConsumerStep(True)


@pytest.mark.parametrize(
    ("prompt", "external", "table", "first", "wanted"),
    [
        (10, 10, [20, 21, 22], 0, [20, 21, 22]),
        (10, 6, [20, 21, 22], 1, [21, 22]),
        (10, 2, [20, 21, 22], 2, [22]),
        (8, 4, [20, 21], 1, [21]),
        (1, 1, [20], 0, [20]),
        (8, 8, [20, 21, 22], 0, [20, 21]),  # a block more than the prompt needs, for the first generated token
    ],
)
def test_every_rank_registers_the_blocks_that_it_awaits(
    prompt: int, external: int, table: list[int], first: int, wanted: list[int]
) -> None:
    consumer = Consumer()
    one = consumer.add(decode(prompt=prompt))
    consumer.scheduler.blocks_allocated(one, [table], external)
    assert consumer.outbox.sent == [
        (
            there,
            Register(
                transfer_id="t1",
                engine_id="p0",
                fingerprint="same",
                reply_to=rank.control,
                rank=number,
                shares=1,
                segments=rank.segments,
                host_identity="host",
                tokens=prompt,
                groups=[GroupBlocks(first, wanted)],
                layers=[LayerPlace(own.name, own.address, 64, number, 1) for own in rank.layout.layers],
                prompt=digest_of_prompt(one),
            ),
        )
        for number, (there, rank) in enumerate(zip(CONTROL, RANKS, strict=True))
    ]
    assert consumer.scheduler.held.blocks == len(wanted)
    asked = [{rank: message} for rank, (_, message) in enumerate(consumer.registers())]
    load = Load("t1", "r1", external, (wanted,), CONTROL, asked)
    assert consumer.scheduler.build_step(output({"r9": 1})) == ConsumerStep(False, [load])
    assert consumer.scheduler.build_step(output()).loads == []


def test_a_rank_with_a_new_segment_is_registered_under_it() -> None:
    consumer = Consumer()
    consumer.scheduler.set_segments(1, {"tcp": "d-1-new"})
    consumer.registered()
    segments = [message.segments for _, message in consumer.outbox.sent if isinstance(message, Register)]
    assert segments == [{"tcp": "d-0"}, {"tcp": "d-1-new"}]
    (load,) = consumer.scheduler.build_step(output()).loads
    assert [asked.segments for _, asked in load.addressed()] == segments


def test_a_load_happens_once() -> None:
    """vLLM calls the hook again, with nothing left to load, when the load is complete, and after a preemption."""
    consumer = Consumer()
    one = consumer.registered()
    sent = len(consumer.outbox.sent)
    consumer.scheduler.loaded({"r1"}, {"r1": [DONE, DONE]})
    consumer.scheduler.blocks_allocated(one, [[20, 21, 22]], 0)
    assert consumer.scheduler.tokens_from_producer(one, 0) == (0, False)
    assert len(consumer.outbox.sent) == sent


def test_a_load_that_vllm_decides_against_is_cancelled() -> None:
    consumer = Consumer()
    one = consumer.add(decode())
    assert consumer.scheduler.tokens_from_producer(one, 0) == (10, True)
    consumer.scheduler.blocks_allocated(one, [[20, 21, 22]], 0)
    assert consumer.outbox.sent == cancels()
    assert consumer.scheduler.request_finished(one) is None
    assert consumer.outbox.sent == cancels()
    consumer.assert_nothing_left()


def test_the_facts_of_the_load_are_in_the_answer() -> None:
    consumer = Consumer()
    one = consumer.registered()
    consumer.scheduler.build_step(output())
    consumer.scheduler.loaded({"r1"}, {"r1": [DONE, DONE]})
    facts = consumer.scheduler.request_finished(one)
    assert consumer.published == [facts]
    assert facts is not None
    assert (facts["transfer_id"], facts["bytes"], facts["tokens"], facts["transport"]) == ("t1", 192, 10, "tcp")
    consumer.assert_nothing_left()


def test_facts_of_ranks_that_ended_in_different_steps_add_up() -> None:
    consumer = Consumer()
    one = consumer.registered()
    consumer.scheduler.build_step(output())
    consumer.scheduler.loaded(set(), {"r1": [DONE]})
    consumer.scheduler.loaded({"r1"}, {"r1": [DONE]})
    facts = consumer.scheduler.request_finished(one)
    assert facts is not None
    assert facts["bytes"] == 192
    consumer.assert_nothing_left()


@pytest.mark.parametrize("facts", [{}, {"r1": [DONE]}], ids=["of every rank", "of one rank"])
def test_a_failed_load_has_no_facts(facts: dict[str, list[Done]]) -> None:
    consumer = Consumer()
    one = consumer.registered()
    consumer.scheduler.build_step(output())
    consumer.scheduler.loaded({"r1"}, facts)
    assert consumer.published == [{"transfer_id": "t1", "bytes": 0, "tokens": 0}]
    assert consumer.scheduler.request_finished(one) is None
    consumer.assert_nothing_left()


def test_an_abort_before_the_blocks_are_allocated_cancels() -> None:
    consumer = Consumer()
    assert consumer.scheduler.request_finished(consumer.add(decode())) is None
    assert consumer.outbox.sent == cancels()
    consumer.assert_nothing_left()


@pytest.mark.parametrize("facts", [{}, {"r1": [DONE, DONE]}], ids=["stopped in time", "arrived all the same"])
def test_an_abort_while_waiting_goes_to_the_workers_and_leaves_nothing(facts: dict[str, list[Done]]) -> None:
    consumer = Consumer()
    one = consumer.registered()
    sent = len(consumer.outbox.sent)
    assert consumer.scheduler.request_finished(one) is None
    assert consumer.scheduler.build_step(output()).aborted == ["t1"]
    assert len(consumer.outbox.sent) == sent  # the worker cancels: it alone knows whether the end is here already
    consumer.scheduler.loaded({"r1"}, facts)
    assert not consumer.published
    consumer.assert_nothing_left()


def test_a_producer_that_is_back_gets_again_what_is_awaited_of_it() -> None:
    consumer = Consumer()
    awaited, aborted, loaded = (consumer.registered(number) for number in (1, 2, 3))
    first = consumer.registers()[0]
    consumer.scheduler.build_step(output())
    consumer.scheduler.request_finished(aborted)
    consumer.scheduler.loaded({loaded.request_id}, {})
    sent = len(consumer.outbox.sent)
    consumer.scheduler.peer_back(first[0])
    consumer.scheduler.build_step(output())
    consumer.scheduler.build_step(output())
    assert consumer.outbox.sent[sent:] == [first]
    consumer.scheduler.request_finished(awaited)


def test_an_abort_after_the_load_is_none_of_the_workers_business() -> None:
    consumer = Consumer()
    one = consumer.registered()
    consumer.scheduler.build_step(output())
    consumer.scheduler.loaded({"r1"}, {"r1": [DONE, DONE]})
    consumer.scheduler.request_finished(one)
    consumer.assert_nothing_left()


def test_a_transfer_serves_one_request_at_a_time() -> None:
    """Until the workers have reported the first, even an aborted one: they know the transfer by its id alone."""
    consumer = Consumer()
    for taken in (consumer.add(decode(1, transfer="t")), None):
        second = consumer.add(decode(2, transfer="t"))
        assert consumer.scheduler.tokens_from_producer(second, 0) == (0, False)
        if taken is not None:
            consumer.scheduler.blocks_allocated(taken, [[20, 21, 22]], 10)
            assert consumer.scheduler.tokens_from_producer(consumer.add(decode(3, transfer="t")), 0) == (0, False)
            consumer.scheduler.request_finished(taken)
    consumer.scheduler.loaded({"r1"}, {})
    assert consumer.scheduler.tokens_from_producer(consumer.add(decode(4, transfer="t")), 0) == (10, True)


@pytest.mark.parametrize(
    ("control", "reason"),
    [([], "the producer has no rank"), (["tcp://p:1"] * 3, "2 KV heads cannot be spread evenly over 3 ranks")],
)
def test_ranks_that_do_not_fit_are_computed_here(
    control: list[str], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    consumer = Consumer()
    one = consumer.add(decode(producer=PRODUCER | {"control": control}))
    assert consumer.scheduler.tokens_from_producer(one, 0) == (0, False)
    consumer.scheduler.blocks_allocated(one, [[20, 21, 22]], 0)
    assert consumer.scheduler.request_finished(one) is None
    assert consumer.outbox.sent == []
    assert f"request r1: computed here, because of producer p0: {reason}" in caplog.text
    consumer.assert_nothing_left()


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"do_remote_prefill": False, "transfer_id": "t1", "producer": PRODUCER},
        {"do_remote_prefill": True, "producer": PRODUCER},
        {"do_remote_prefill": True, "transfer_id": "t1"},
        {"do_remote_prefill": True, "transfer_id": "t1", "producer": {"engine_id": "p0"}},
        {"do_remote_prefill": True, "transfer_id": "t1", "producer": {"engine_id": "p0", "control": "tcp://p:1"}},
        {"do_remote_prefill": True, "transfer_id": "t1", "producer": [1]},
        {"do_remote_decode": True, "transfer_id": "t1"},
    ],
)
def test_the_consumer_computes_requests_without_usable_parameters(params: dict[str, Any]) -> None:
    consumer = Consumer()
    one = consumer.add(request(**params))
    assert consumer.scheduler.tokens_from_producer(one, 0) == (0, False)
    consumer.scheduler.blocks_allocated(one, [[20, 21, 22]], 0)
    assert consumer.scheduler.request_finished(one) is None
    assert consumer.outbox.sent == []
    consumer.assert_nothing_left()


TIMELINE = "[[[0,1,96,-500,400,3]],[[10,-900,900]]]"


@pytest.mark.parametrize("asked", [True, False])
def test_a_timeline_is_asked_for_and_told_to_the_proxy_alone(asked: bool) -> None:
    consumer = Consumer()
    request = decode(1)
    request.kv_transfer_params["timeline"] = asked
    consumer.add(request)
    consumer.scheduler.blocks_allocated(request, [[20, 21, 22]], 10)
    assert {message.timeline for _, message in consumer.registers()} == {asked}
    done = msgspec.structs.replace(DONE, timeline=TIMELINE if asked else "")
    consumer.scheduler.loaded({"r1"}, {"r1": [done, done]})
    told = "[[[0,1,96,-500,400,3],[0,1,96,-500,400,3]],[[10,-900,900]]]"
    (published,) = consumer.published
    answer = consumer.scheduler.request_finished(request)
    assert answer is not None
    assert published == answer | ({"timeline": told} if asked else {})
