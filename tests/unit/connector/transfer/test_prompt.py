"""What of each kind of layer is final while its prompt is computed."""

import pytest

from connector.cache.layout import CacheGroup, Kind
from connector.transfer.prompt import Prompt
from tests.unit.connector.fake_layouts import Shape, layer_by_layer

BLOCK = 4


def prompt_of(*kinds: Kind) -> Prompt:
    """With a layer for each of these groups."""
    groups = [CacheGroup(kind, BLOCK) for kind in kinds]
    return Prompt(layer_by_layer(groups, [Shape(number) for number in range(len(kinds))]))


# tokens of the prompt, computed of them, positions behind which later steps still write
WHOLE_BLOCKS = [
    (1, 0, 0),
    (1, 1, 1),
    (3, 3, 1),
    (4, 3, 0),
    (4, 4, 1),
    (5, 4, 1),
    (5, 5, 2),
    (8, 7, 1),
    (9, 8, 2),
    (9, 9, 3),
]
ONLY_THE_END = [(1, 0, 0), (1, 1, 1), (4, 3, 0), (4, 4, 1), (9, 4, 0), (9, 8, 0), (9, 9, 3)]


@pytest.mark.parametrize(
    ("kind", "tokens", "computed", "end"),
    [(kind, *case) for kind in (Kind.FULL, Kind.WINDOW, Kind.CHUNK) for case in WHOLE_BLOCKS]
    + [(Kind.STATE, *case) for case in ONLY_THE_END],
)
def test_what_is_final(kind: Kind, tokens: int, computed: int, end: int) -> None:
    prompt = prompt_of(kind)
    prompt.schedule(tokens, (list(range(1, 10)),))
    prompt.computed(0, computed)
    assert prompt.final_end(0) == end
    assert prompt.complete == (computed == tokens)


def test_a_block_has_as_many_tokens_as_its_group_says() -> None:
    groups = [CacheGroup(Kind.FULL, 4), CacheGroup(Kind.WINDOW, 8), CacheGroup(Kind.STATE, 16)]
    prompt = Prompt(layer_by_layer(groups, [Shape(2), Shape(1), Shape(0)]))
    prompt.schedule(30, ([1], [1], [1]))
    for layer in range(3):
        prompt.computed(layer, 28)
    assert [prompt.final_end(layer) for layer in range(3)] == [0, 3, 7]
    for layer in range(3):
        prompt.computed(layer, 30)
    assert [prompt.final_end(layer) for layer in range(3)] == [2, 4, 8]


def test_layers_are_computed_one_after_the_other() -> None:
    prompt = prompt_of(Kind.FULL, Kind.FULL)
    prompt.schedule(8, ([1, 2], [3, 4]))
    prompt.computed(0, 8)
    assert [prompt.final_end(layer) for layer in range(2)] == [2, 0]
    assert not prompt.complete
    prompt.computed(1, 8)
    assert prompt.complete


def test_nothing_is_complete_before_the_length_is_known() -> None:
    prompt = prompt_of(Kind.FULL, Kind.STATE)
    assert not prompt.complete
    assert [prompt.final_end(layer) for layer in range(2)] == [0, 0]


def test_an_older_word_changes_nothing() -> None:
    """On a GPU a layer's mark may come after the next step's."""
    prompt = prompt_of(Kind.FULL)
    prompt.schedule(8, ([1, 2],))
    prompt.computed(0, 8)
    prompt.computed(0, 4)
    assert prompt.complete


def test_a_preemption_takes_the_blocks_and_all_that_was_computed() -> None:
    prompt = prompt_of(Kind.FULL, Kind.STATE)
    prompt.schedule(8, ([1, 2], [3]))
    for layer in range(2):
        prompt.computed(layer, 8)
    prompt.forget_blocks()
    assert prompt.block_ids == ()
    assert not prompt.complete
    assert [prompt.final_end(layer) for layer in range(2)] == [0, 0]
    assert prompt.tokens == 8
