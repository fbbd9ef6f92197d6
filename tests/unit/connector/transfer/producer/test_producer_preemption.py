"""A preempted request's blocks are another's at once: no write may read them, no mark may count for the new ones."""

import threading

from connector.control.messages import Done, Failed
from connector.scheduling.steps import ProducerStep, Released
from tests.unit.connector.fake_layouts import LAYERS, PAGE, SOURCE, fill_page
from tests.unit.connector.fakes import LIMIT_S, LateFences, until
from tests.unit.connector.transfer.producer_rank import HERE, PROMPT, THERE, NewRank


def test_a_preemption_waits_for_the_write_under_way_and_then_starts_over(new_rank: NewRank) -> None:
    rank = new_rank()
    gate = rank.engine.hold("segment1")
    rank.register(1, THERE)
    rank.chunk(1, PROMPT, HERE[:2], 6)
    assert gate.entered.wait(LIMIT_S)
    drained = threading.Event()

    def preempt() -> None:
        rank.preempt("r1")
        drained.set()

    vllm = threading.Thread(target=preempt, daemon=True)
    vllm.start()
    until(lambda: rank.producer._transfers._under_way["t1"].prompt.block_ids == ())
    assert not drained.is_set()
    gate.opened.set()
    assert drained.wait(LIMIT_S)
    vllm.join()
    assert rank.engine.returned == len(rank.engine.writes)
    for layer in range(LAYERS):
        for block in HERE:
            fill_page(rank.engine.source, SOURCE, layer, block, b"\xff" * PAGE)  # another request's now
    rank.chunk(1, PROMPT, [40, 41, 42], 10)
    assert isinstance(rank.outbox.take_next(), Done)
    rank.assert_arrived(1, THERE)
    rank.release(1)
    rank.until_released("r1")


def test_what_the_gpu_had_still_to_finish_before_a_preemption_says_nothing_of_the_new_blocks(
    new_rank: NewRank,
) -> None:
    fences = LateFences()
    rank = new_rank(fences=fences)
    rank.chunk(1, PROMPT, HERE[:2], 8)
    rank.preempt("r1")
    rank.register(1, THERE)
    rank.chunk(1, PROMPT, [40, 41, 42], 4)
    fences.drain()
    assert rank.producer._transfers._under_way["t1"].prompt._computed == [4, 4]
    rank.chunk(1, PROMPT, [40, 41, 42], 10)
    fences.drain()
    assert isinstance(rank.outbox.take_next(), Done)
    rank.assert_arrived(1, THERE)


def test_a_request_preempted_and_aborted_before_the_next_step_is_waited_for(new_rank: NewRank) -> None:
    """vLLM preempts outside of a step too (reset_prefix_cache); its blocks are free although the request was held."""
    rank = new_rank()
    gate = rank.engine.hold("segment1")
    rank.register(1, THERE)
    rank.chunk(1, PROMPT, HERE[:2], 6)
    assert gate.entered.wait(LIMIT_S)
    step = ProducerStep(idle=False, preempted=["r1"], released=[Released("t1", "r1", complete=False)])
    drained = threading.Event()

    def next_step() -> None:
        rank.producer.rewrite_blocks_of(step.preempted)
        drained.set()
        rank.producer.begin_step(step)

    vllm = threading.Thread(target=next_step, daemon=True)
    vllm.start()
    until(lambda: rank.producer._transfers._under_way["t1"].prompt.block_ids == ())
    assert not drained.is_set()
    gate.opened.set()
    vllm.join(LIMIT_S)
    assert isinstance(rank.outbox.take_next(), Failed)
    rank.until_released("r1")
    rank.assert_nothing_left()
