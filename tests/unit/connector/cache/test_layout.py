"""Which of a request's blocks each kind of group needs, and where a layer's heads lie."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.cache.layout import NULL_BLOCK, CacheGroup, CacheLayer, Kind, KVLayout, left_out_tokens

BLOCK = 4
FULL, WINDOW, CHUNK, STATE = Kind.FULL, Kind.WINDOW, Kind.CHUNK, Kind.STATE


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_a_last_block_may_be_filled_in_part(tokens: int, blocks: int) -> None:
    assert CacheGroup(FULL, BLOCK).blocks(tokens) == blocks


@pytest.mark.parametrize(
    ("kind", "table", "tokens", "held", "expected"),
    [
        (FULL, [5, 6, 7], 10, 0, (0, [5, 6, 7])),
        (FULL, [5, 6, 7], 10, 4, (1, [6, 7])),
        (FULL, [5, 6, 7], 10, 8, (2, [7])),
        (FULL, [5, 6, 7], 8, 0, (0, [5, 6])),  # a block more than these tokens need, for the first generated one
        (WINDOW, [0, 0, 7, 8], 14, 0, (2, [7, 8])),  # below the window
        (WINDOW, [0, 0, 7, 8], 14, 4, (2, [7, 8])),
        (WINDOW, [5, 6, 7, 8], 14, 8, (2, [7, 8])),  # the prefix that is held lies in the window
        (WINDOW, [0, 0, 7, 8], 14, 12, (3, [8])),
        (WINDOW, [5], 3, 0, (0, [5])),
        (CHUNK, [0, 0, 7], 11, 0, (2, [7])),
        (CHUNK, [0, 0], 8, 0, (2, [])),  # a chunk has just ended
        (CHUNK, [0, 0, 7], 8, 0, (2, [])),  # the next chunk's block is the next token's
        (CHUNK, [0, 6, 7], 11, 8, (2, [7])),
        (STATE, [0, 0, 7], 11, 0, (2, [7])),
        (STATE, [5, 6, 7], 11, 0, (2, [7])),  # states of earlier tokens, kept for other requests
        (STATE, [5, 6, 7], 11, 4, (2, [7])),
        (STATE, [5], 1, 0, (0, [5])),
        (STATE, [5, 6, 7], 8, 0, (1, [6])),  # the next token's state has another block
        (STATE, [0, 0], 8, 0, (2, [])),
    ],
)
def test_what_a_consumer_lacks(
    kind: Kind, table: list[int], tokens: int, held: int, expected: tuple[int, list[int]]
) -> None:
    assert CacheGroup(kind, BLOCK).wanted(table, tokens, held) == expected


@given(st.sampled_from(Kind), st.integers(1, 5), st.integers(1, 40), st.data())
def test_what_is_wanted_holds_the_last_tokens_and_is_a_block_each(
    kind: Kind, block_tokens: int, tokens: int, data: st.DataObject
) -> None:
    group = CacheGroup(kind, block_tokens)
    end = group.blocks(tokens)
    kept = data.draw(st.integers(0, end), label="first position that is kept")
    held = data.draw(st.integers(0, (tokens - 1) // block_tokens), label="held blocks") * block_tokens
    table = [NULL_BLOCK] * kept + list(range(1, end - kept + 2))
    first, wanted = group.wanted(table, tokens, held)
    assert wanted == table[first:end]
    assert NULL_BLOCK not in wanted
    least = end - 1 if kind is Kind.STATE else held // block_tokens
    assert first == max(least, kept)


@pytest.mark.parametrize(
    ("kinds", "tokens"),
    [
        ([FULL], 0),
        ([FULL, FULL], 0),
        ([WINDOW], 1),
        ([CHUNK], 1),
        ([STATE], 1),
        ([FULL, WINDOW], 1),
        ([FULL, CHUNK], 1),
        ([FULL, STATE], 1),
        ([FULL, WINDOW, STATE], 1),
    ],
    ids=str,
)
def test_the_last_token_is_left_out_unless_all_is_full_attention(kinds: list[Kind], tokens: int) -> None:
    assert left_out_tokens(kinds) == tokens
    assert left_out_tokens(reversed(kinds)) == tokens


@pytest.mark.parametrize(
    ("kinds", "lookahead", "tokens"), [([FULL], 1, 0), ([FULL], 3, 2), ([FULL, STATE], 1, 1), ([FULL, WINDOW], 3, 2)]
)
def test_and_what_a_draft_of_several_modules_guessed_of_the_answer(
    kinds: list[Kind], lookahead: int, tokens: int
) -> None:
    assert left_out_tokens(kinds, lookahead) == tokens


LAYERS = (
    CacheLayer("a", 0, 100, block_stride=16, head_bytes=4, first_head=2, heads=2, all_heads=8),
    CacheLayer("b", 1, 1000, block_stride=64, head_bytes=20, first_head=0, heads=1, all_heads=1),
)


def test_where_heads_lie() -> None:
    first, second = LAYERS
    assert [first.head_address(head) for head in (2, 3)] == [100, 104]
    assert second.head_address(0) == 1000
    assert [layer.page for layer in LAYERS] == [8, 20]


def test_layers_are_known_by_name() -> None:
    layout = KVLayout((CacheGroup(FULL, BLOCK), CacheGroup(STATE, 16)), LAYERS, 4)
    assert layout.by_name == {"a": 0, "b": 1}


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [([FULL], True), ([WINDOW], False), ([CHUNK], False), ([STATE], False), ([FULL, FULL], False)],
    ids=str,
)
def test_a_part_of_a_prompt_is_of_use_only_in_one_group_of_full_attention(kinds: list[Kind], expected: bool) -> None:
    layout = KVLayout(tuple(CacheGroup(kind, BLOCK) for kind in kinds), LAYERS[:1], 4)
    assert layout.partial_loads is expected
