"""A consumer and a producer's stages: what was asked for is whole only when one of them had each layer."""

from dataclasses import replace

import pytest

from connector.cache.heads import sources
from connector.cache.stages import over_stages
from connector.control.messages import Done
from connector.mooncake.checksum import LayerChecksums
from tests.unit.connector.fake_layouts import HEADS, TARGET
from tests.unit.connector.fakes import ArrayMemory
from tests.unit.connector.scheduling.scheduled_consumer import RANKS, Consumer
from tests.unit.connector.scheduling.vllm_requests import PRODUCER, decode
from tests.unit.connector.transfer.consumer.consumer_rank import BLOCKS, Rank

TWO_STAGES = over_stages(sources(1, 1, {HEADS}), 1, 2)


def done(stage: int, filled: list[int] | None, checksum: int | None = None) -> Done:
    return Done("t1", stage, 48, 16, 2, 0.5, 0.1, "tcp", checksum, filled=filled)


@pytest.mark.parametrize("filled", [([0], [1]), ([1], [0]), ([0, 1], []), (None, []), ([], None)], ids=str)
def test_every_layer_was_had_by_a_stage(filled: tuple[list[int] | None, list[int] | None]) -> None:
    rank = Rank()
    rank.load(plan=TWO_STAGES)
    for stage, places in enumerate(filled):
        rank.consumer.on_message(done(stage, places))
    assert rank.consumer.take_finished(0.0) == {"r1"}
    assert rank.consumer.take_invalid_blocks() == set()
    assert rank.consumer.take_done()["r1"].bytes == 96
    rank.assert_nothing_left()


@pytest.mark.parametrize(
    ("filled", "lacking"),
    [
        (([0], []), "layer1"),
        (([0], [0]), "layer1"),
        (([], [1]), "layer0"),
        (([], []), "layer0, layer1"),
        (([0], [7]), "layer1"),  # no place of the registration
    ],
    ids=str,
)
def test_a_layer_that_no_stage_had(
    filled: tuple[list[int], list[int]], lacking: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Though every stage says that it is done."""
    rank = Rank()
    rank.load(plan=TWO_STAGES)
    for stage, places in enumerate(filled):
        rank.consumer.on_message(done(stage, places))
    assert rank.consumer.take_finished(0.0) == {"r1"}
    assert rank.consumer.take_invalid_blocks() == set(BLOCKS)
    assert rank.failures() == {"not whole": 1}
    assert f"failed after 0 of 3 blocks: not whole: no rank of the producer has {lacking}\n" in caplog.text
    rank.assert_nothing_left()


@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("right", [True, False])
def test_a_stage_s_checksum_is_of_its_layers(stage: int, right: bool) -> None:
    rank = Rank()
    rank.memory[:] = bytes(index % 251 for index in range(len(rank.memory)))
    sums = []
    for number, layer in enumerate(TARGET.layers):
        sent = LayerChecksums(len(TARGET.layers))  # of what was registered, of which a stage sends its layer alone
        addresses = [layer.address + block * layer.block_stride for block in BLOCKS]
        sent.add(number, ArrayMemory(rank.memory), addresses, layer.page)
        sums.append(sent.value())
    sums[stage] += 0 if right else 1
    rank.load(plan=TWO_STAGES)
    for number in range(2):
        rank.consumer.on_message(done(number, [number], sums[number]))
    assert rank.consumer.take_finished(0.0) == {"r1"}
    assert rank.failures() == ({} if right else {"checksum": 1})


def stages_of(ranks: int, stages: int) -> dict[str, object]:
    control = [f"tcp://p:{number}" for number in range(ranks)]
    return PRODUCER | {"control": control, "pipeline_parallel_size": stages}


def asked_by(consumer: Consumer, producer: dict[str, object]) -> list[tuple[str, int, int, list[tuple[str, int]]]]:
    """Where, for which rank of ours, of how many, which layers from which head on."""
    request = consumer.add(decode(producer=producer))
    consumer.scheduler.blocks_allocated(request, [[20, 21, 22]], 10)
    return [
        (there, asked.rank, asked.shares, [(place.name, place.first_head) for place in asked.layers])
        for there, asked in consumer.registers()
    ]


def test_every_stage_is_asked_for_all_that_a_rank_has() -> None:
    """Ours are two ranks with a head each; theirs two stages of two."""
    assert asked_by(Consumer(), stages_of(4, 2)) == [
        ("tcp://p:0", 0, 1, [("a", 0), ("b", 0)]),
        ("tcp://p:2", 0, 1, [("a", 0), ("b", 0)]),
        ("tcp://p:1", 1, 1, [("a", 1), ("b", 1)]),
        ("tcp://p:3", 1, 1, [("a", 1), ("b", 1)]),
    ]


def test_each_stage_of_ours_asks_for_its_own_layers() -> None:
    """Ours are two stages of a rank; one of theirs has both."""
    layouts = [replace(TARGET, layers=(layer,), stages=2) for layer in TARGET.layers]
    ours = [replace(rank, layout=layout) for rank, layout in zip(RANKS, layouts, strict=True)]
    assert asked_by(Consumer(ours), stages_of(1, 1)) == [
        ("tcp://p:0", 0, 2, [("layer0", 0)]),
        ("tcp://p:0", 1, 2, [("layer1", 0)]),
    ]


def test_ranks_that_are_no_pipeline(caplog: pytest.LogCaptureFixture) -> None:
    consumer = Consumer()
    one = consumer.add(decode(producer=stages_of(3, 2)))
    assert consumer.scheduler.tokens_from_producer(one, 0) == (0, False)
    assert "3 ranks are no pipeline of 2 stages" in caplog.text
