"""The scheduler's side of a consumer with several groups of layers, and with more or fewer ranks than the producer."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from connector.cache.layout import CacheGroup, CacheLayer, Kind
from connector.control.messages import GroupBlocks, LayerPlace
from connector.scheduling.request_params import digest_of_prompt
from tests.unit.connector.fake_layouts import CHUNK, FULL, STATE, WINDOW
from tests.unit.connector.scheduling.scheduled_consumer import (
    DONE,
    HEAD,
    RANKS,
    Consumer,
    attention,
    rank_at,
)
from tests.unit.connector.scheduling.vllm_requests import CONTROL, PRODUCER, decode, output

ONE_RANK = PRODUCER | {"control": CONTROL[:1]}


def consumer_of(*groups: CacheGroup) -> Consumer:
    """One rank with a layer for each group."""
    layers = [CacheLayer(f"layer{number}", number, 1000 * number, 64, 16, 0, 1, 1) for number in range(len(groups))]
    return Consumer([rank_at(0, groups, layers)])


@pytest.mark.parametrize(
    ("groups", "left_out"),
    [([FULL], 0), ([FULL, FULL], 0), ([FULL, WINDOW], 1), ([FULL, CHUNK], 1), ([STATE], 1), ([FULL, STATE], 1)],
    ids=str,
)
def test_the_last_token_is_computed_here_unless_all_is_full_attention(groups: list[CacheGroup], left_out: int) -> None:
    consumer = consumer_of(*groups)
    one = consumer.add(decode(prompt=20, producer=ONE_RANK))
    for held in (0, 16):
        assert consumer.scheduler.tokens_from_producer(one, held) == (20 - left_out - held, True)


def test_what_a_draft_of_several_modules_rewrites_is_computed_here() -> None:
    """As the ranks have told it; of what is left the last block is filled in part."""
    rank = RANKS[0]
    consumer = Consumer([replace(rank, layout=replace(rank.layout, lookahead=4)), RANKS[1]])
    one = consumer.add(decode(prompt=12))
    assert consumer.scheduler.tokens_from_producer(one, 0) == (9, True)
    consumer.scheduler.blocks_allocated(one, [[20, 21, 22]], 9)
    assert {asked.tokens for _, asked in consumer.registers()} == {9}
    assert consumer.registers()[0][1].groups == [GroupBlocks(0, [20, 21, 22])]


@pytest.mark.parametrize(("prompt", "held", "tokens"), [(1, 0, 0), (2, 0, 1), (17, 16, 0), (18, 16, 1)])
def test_where_that_is_all_that_is_missing_nothing_comes_from_the_producer(prompt: int, held: int, tokens: int) -> None:
    consumer = consumer_of(FULL, STATE)
    one = consumer.add(decode(prompt=prompt, producer=ONE_RANK))
    assert consumer.scheduler.tokens_from_producer(one, held) == (tokens, tokens > 0)


@pytest.mark.parametrize(
    ("groups", "held", "tokens"),
    [
        ([FULL], 6, 0),
        ([FULL], 8, 32),
        ([FULL, WINDOW], 4, 0),
        ([FULL, WINDOW], 8, 31),
        ([FULL, STATE], 8, 0),
        ([FULL, STATE], 16, 23),
    ],
    ids=str,
)
def test_a_prefix_that_ends_inside_a_block_of_any_group_is_left_to_vllm(
    groups: list[CacheGroup], held: int, tokens: int
) -> None:
    """Other requests may share that block, and nobody may write into it."""
    consumer = consumer_of(*groups)
    one = consumer.add(decode(prompt=40, producer=ONE_RANK))
    assert consumer.scheduler.tokens_from_producer(one, held) == (tokens, tokens > 0)
    if not tokens:
        consumer.scheduler.blocks_allocated(one, [[20]] * len(groups), 0)
        assert consumer.registers() == []
        assert len(consumer.outbox.sent) == 1, "the producer is told not to wait"
        consumer.assert_nothing_left()


@pytest.mark.parametrize(("groups", "told"), [([FULL], {}), ([FULL, WINDOW], {"left_out": 1})], ids=str)
def test_the_facts_tell_of_tokens_that_neither_came_nor_were_held(
    groups: list[CacheGroup], told: dict[str, int]
) -> None:
    consumer = consumer_of(*groups)
    one = consumer.add(decode(prompt=20, producer=ONE_RANK))
    tokens = 20 - sum(told.values())
    consumer.scheduler.blocks_allocated(one, [[20, 21, 22, 23, 24]] * len(groups), tokens)
    consumer.scheduler.build_step(output())
    consumer.scheduler.loaded({one.request_id}, {one.request_id: [DONE]})
    facts = consumer.scheduler.request_finished(one)
    assert facts is not None
    assert {name: facts[name] for name in ("tokens", "left_out") if name in facts} == {"tokens": tokens, **told}


def test_every_group_registers_what_it_lacks() -> None:
    """29 of 30 tokens: of a window what is kept, of a state the last, of a chunk that has just ended nothing."""
    consumer = consumer_of(FULL, WINDOW, STATE, CacheGroup(Kind.CHUNK, 29))
    one = consumer.add(decode(prompt=30, producer=ONE_RANK))
    full, window, state, chunk = list(range(20, 28)), [0, 0, 31, 32], [0, 41], [0, 51]
    consumer.scheduler.blocks_allocated(one, [full, window, state, chunk], 29)
    ((there, asked),) = consumer.registers()
    assert there == CONTROL[0]
    assert asked.tokens == 29
    assert asked.groups == [GroupBlocks(0, full), GroupBlocks(2, [31, 32]), GroupBlocks(1, [41]), GroupBlocks(1, [])]
    assert asked.prompt == digest_of_prompt(decode(prompt=30)), "of the whole prompt, as the producer's"
    assert consumer.scheduler.held.blocks == 8 + 2 + 1
    (load,) = consumer.scheduler._loads
    assert (load.tokens, load.block_ids) == (29, (full, [31, 32], [41], []))


def test_behind_a_prefix_that_is_held_every_group_registers_the_rest() -> None:
    consumer = consumer_of(FULL, WINDOW, STATE)
    one = consumer.add(decode(prompt=30, producer=ONE_RANK))
    assert consumer.scheduler.tokens_from_producer(one, 16) == (13, True)
    consumer.scheduler.blocks_allocated(one, [list(range(20, 28)), [0, 30, 31, 32], [40, 41]], 13)
    ((_, asked),) = consumer.registers()
    assert asked.tokens == 29
    assert asked.groups == [GroupBlocks(4, [24, 25, 26, 27]), GroupBlocks(2, [31, 32]), GroupBlocks(1, [41])]


Asked = tuple[str, int, int, list[LayerPlace]]  # where, for which rank of ours, of how many, which layers


def asked_by(consumer: Consumer, ranks_of_the_producer: int) -> list[Asked]:
    one = decode(producer=PRODUCER | {"control": CONTROL[:ranks_of_the_producer]})
    tables = [[20, 21, 22]] * len(consumer.scheduler._groups)
    external = consumer.scheduler.tokens_from_producer(consumer.add(one), 0)[0]
    consumer.scheduler.blocks_allocated(one, tables, external)
    return [(there, asked.rank, asked.shares, asked.layers) for there, asked in consumer.registers()]


def test_a_consumer_with_fewer_ranks_asks_each_of_the_producers_for_its_heads() -> None:
    """Blocks of 128 bytes, of which each rank of the producer fills one head of 32."""
    whole = rank_at(0, [FULL], [attention("a", 1000, heads=2), attention("b", 2000, heads=2)])
    assert asked_by(Consumer([whole]), 2) == [
        ("tcp://p:1", 0, 1, [LayerPlace("a", 1000, 128, 0, 1), LayerPlace("b", 2000, 128, 0, 1)]),
        ("tcp://p:2", 0, 1, [LayerPlace("a", 1032, 128, 1, 1), LayerPlace("b", 2032, 128, 1, 1)]),
    ]


def test_every_rank_of_a_consumer_with_more_of_them_asks_for_its_heads() -> None:
    assert asked_by(Consumer(RANKS), 1) == [
        ("tcp://p:1", 0, 2, [LayerPlace("a", 1000, 64, 0, 1), LayerPlace("b", 2000, 64, 0, 1)]),
        ("tcp://p:1", 1, 2, [LayerPlace("a", 3000, 64, 1, 1), LayerPlace("b", 4000, 64, 1, 1)]),
    ]


def ranks_of(*layouts: Sequence[CacheLayer]) -> Consumer:
    return Consumer([rank_at(number, [FULL, STATE], layers) for number, layers in enumerate(layouts)])


def test_layers_with_other_heads_are_asked_of_those_who_have_them() -> None:
    """Two ranks fill one: of a layer with four heads two each, of one with two one each, of a copy (MLA) one gives."""
    wide, narrow = attention("wide", 1000, heads=4, all_heads=4), attention("narrow", 2000, heads=2)
    latent = CacheLayer("latent", 0, 3000, 80, 80, 0, 1, 1)
    assert asked_by(ranks_of([wide, latent, narrow]), 2) == [
        (
            "tcp://p:1",
            0,
            1,
            [
                LayerPlace("wide", 1000, 256, 0, 2),
                LayerPlace("latent", 3000, 80, 0, 1),
                LayerPlace("narrow", 2000, 128, 0, 1),
            ],
        ),
        ("tcp://p:2", 0, 1, [LayerPlace("wide", 1064, 256, 2, 2), LayerPlace("narrow", 2032, 128, 1, 1)]),
    ]


def test_one_rank_of_the_producer_fills_two_in_layers_with_other_heads() -> None:
    ours = [
        [attention("wide", 1000, 2 * rank, 2, 4), CacheLayer("latent", 0, 3000, 80, 80, 0, 1, 1)] for rank in range(2)
    ]
    assert asked_by(ranks_of(*ours), 1) == [
        ("tcp://p:1", 0, 2, [LayerPlace("wide", 1000, 128, 0, 2), LayerPlace("latent", 3000, 80, 0, 1)]),
        ("tcp://p:1", 1, 2, [LayerPlace("wide", 1000, 128, 2, 2), LayerPlace("latent", 3000, 80, 0, 1)]),
    ]


def test_mla_with_a_state_between_as_many_ranks() -> None:
    """Every rank has the latent, and a state of its own, which counts as one head of two."""
    latent = CacheLayer("latent", 0, 3000, 80, 80, 0, 1, 1)
    ours = [[latent, CacheLayer("state", 1, 5000, 40, 40, rank, 1, 2)] for rank in range(2)]
    assert asked_by(ranks_of(*ours), 2) == [
        (there, rank, 1, [LayerPlace("latent", 3000, 80, 0, 1), LayerPlace("state", 5000, 40, rank, 1)])
        for rank, there in enumerate(CONTROL)
    ]


def test_a_rank_that_has_nothing_to_give_is_asked_all_the_same() -> None:
    """So that it keeps its blocks no longer than the other, and learns the end."""
    latent = CacheLayer("latent", 0, 3000, 80, HEAD, 0, 1, 1)
    (first, second) = asked_by(ranks_of([latent]), 2)
    assert first[3] == [LayerPlace("latent", 3000, 80, 0, 1)]
    assert second == ("tcp://p:2", 0, 1, [])
