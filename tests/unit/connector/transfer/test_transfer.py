"""A prompt and its share case by case; `test_transfer_properties` has any interleaving of their events."""

from collections.abc import Callable
from typing import Any

import pytest
from connector.transfer.transfer import End, Prompt, Run, Share

from connector.control.messages import Register

LAYERS = 2
BLOCK = 4


def registration(first_block: int, blocks: int) -> Register:
    return Register(
        transfer_id="t",
        engine_id="p",
        fingerprint="f",
        reply_to="tcp://d:1",
        rank=0,
        shares=1,
        segments={"tcp": "segment"},
        host_identity="",
        layer_addresses=[0] * LAYERS,
        block_stride=8,
        first_head=0,
        heads=1,
        first_block=first_block,
        block_ids=list(range(100, 100 + blocks)),
    )


class Transfer:
    """A prompt with one share, which begins to exist with its registration."""

    def __init__(self, layers: int = LAYERS) -> None:
        self.prompt = Prompt(layers, BLOCK)
        self.share: Share | None = None

    def register(self, registered: Register) -> None:
        self.share = Share(self.prompt, registered)

    def schedule(self, tokens: int, block_ids: list[int]) -> None:
        self.prompt.schedule(tokens, block_ids)
        if self.share is not None:
            self.share.check()

    def has_work(self) -> bool:
        return self.share is not None and self.share.has_work()

    def __getattr__(self, name: str) -> Any:
        """What only a share has."""
        assert self.share is not None
        return getattr(self.share, name)


def computed_everywhere(state: Transfer, end: int) -> None:
    for layer in range(LAYERS):
        state.prompt.computed(layer, end)


def runs(start: int, stop: int) -> list[Run]:
    return [Run(layer, start, stop) for layer in range(LAYERS)]


@pytest.mark.parametrize(
    ("prompt_tokens", "computed", "blocks"),
    [(1, 0, 0), (1, 1, 1), (3, 3, 1), (4, 3, 0), (4, 4, 1), (5, 4, 1), (5, 5, 2), (8, 7, 1), (9, 8, 2), (9, 9, 3)],
)
def test_only_final_blocks_are_sent(prompt_tokens: int, computed: int, blocks: int) -> None:
    state = Transfer()
    state.register(registration(0, -(-prompt_tokens // BLOCK)))
    state.schedule(prompt_tokens, list(range(10)))
    computed_everywhere(state, computed)
    assert state.has_work() == (blocks > 0)
    assert state.take() == (runs(0, blocks) if blocks else [])


def register_first(state: Transfer) -> None:
    state.register(registration(1, 2))
    state.schedule(9, [5, 6, 7])
    computed_everywhere(state, 9)


def register_between_chunks(state: Transfer) -> None:
    state.schedule(9, [5, 6])
    computed_everywhere(state, 6)
    state.register(registration(1, 2))
    state.schedule(9, [5, 6, 7])
    computed_everywhere(state, 9)


def register_last(state: Transfer) -> None:
    state.schedule(9, [5, 6, 7])
    computed_everywhere(state, 9)
    state.register(registration(1, 2))


@pytest.mark.parametrize("events", [register_first, register_between_chunks, register_last])
def test_the_time_of_the_registration_does_not_matter(events: Callable[[Transfer], None]) -> None:
    state = Transfer()
    events(state)
    assert state.take() == runs(1, 3)
    state.landed()
    assert state.ending == (End.DONE, "")
    assert state.delivered_blocks == 2


def test_layers_move_on_their_own() -> None:
    state = Transfer()
    state.register(registration(0, 2))
    state.schedule(8, [3, 4])
    state.prompt.computed(0, 8)
    assert state.take() == [Run(0, 0, 2)]
    state.landed()
    assert (state.ending, state.delivered_blocks, state.prompt.complete) == (None, 0, False)
    state.prompt.computed(1, 5)
    assert state.take() == [Run(1, 0, 1)]
    state.landed()
    assert state.delivered_blocks == 1
    state.prompt.computed(1, 8)
    assert state.take() == [Run(1, 1, 2)]
    state.landed()
    assert state.ending == (End.DONE, "")


def test_what_was_sent_before_a_preemption_is_not_sent_again() -> None:
    state = Transfer()
    state.register(registration(0, 3))
    state.schedule(12, [1, 2, 3])
    computed_everywhere(state, 6)
    assert state.take() == runs(0, 1)
    state.landed()
    state.prompt.forget_blocks()
    assert not state.has_work()
    assert state.delivered_blocks == 1
    state.schedule(12, [7, 8, 9])
    computed_everywhere(state, 12)
    assert state.take() == runs(1, 3)
    assert state.prompt.block_ids == [7, 8, 9]


@pytest.mark.parametrize(("first_block", "blocks"), [(0, 2), (0, 4), (1, 3), (3, 0), (2, 2)])
@pytest.mark.parametrize("registered_first", [True, False], ids=["registered first", "scheduled first"])
def test_a_prompt_of_another_length_ends_in_failure(first_block: int, blocks: int, registered_first: bool) -> None:
    state = Transfer()
    events: list[Callable[[], None]] = [
        lambda: state.register(registration(first_block, blocks)),
        lambda: state.schedule(9, [1, 2, 3]),
    ]
    for event in events if registered_first else reversed(events):
        event()
    computed_everywhere(state, 9)
    if first_block + blocks == 3:
        assert state.ending is None
        return
    assert state.ending is not None
    assert state.ending[0] is End.FAILED
    assert state.ending[1].startswith("wrong prompt: ")
    assert not state.has_work()


def test_an_end_is_final_only_when_the_write_has_returned_and_the_first_stands() -> None:
    state = Transfer()
    state.register(registration(0, 1))
    state.schedule(4, [1])
    computed_everywhere(state, 4)
    state.take()
    state.end(End.CANCELLED, "cancelled: x")
    state.end(End.FAILED, "later: y")
    assert not state.settled
    state.landed()
    assert state.settled
    assert state.ending == (End.CANCELLED, "cancelled: x")


def test_a_lost_write_delivers_nothing() -> None:
    state = Transfer()
    state.register(registration(0, 2))
    state.schedule(8, [1, 2])
    computed_everywhere(state, 4)
    state.take()
    state.landed()
    computed_everywhere(state, 8)
    state.take()
    state.lost("write failed: x", unended=False)
    assert (state.ending, state.delivered_blocks) == ((End.FAILED, "write failed: x"), 1)
    assert not state.has_work()
