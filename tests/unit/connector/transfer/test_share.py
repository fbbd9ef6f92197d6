"""A prompt and its share case by case; `test_transfer_properties` has any interleaving of their events."""

from collections.abc import Callable

import pytest

from connector.transfer.share import End, Run
from tests.unit.connector.fake_layouts import LAYERS
from tests.unit.connector.transfer.one_share import Transfer, up_to


def runs(start: int, stop: int) -> list[Run]:
    return [Run(layer, layer, start, stop) for layer in range(LAYERS)]


@pytest.mark.parametrize(
    ("prompt_tokens", "computed", "final"),
    [(1, 0, 0), (1, 1, 1), (3, 3, 1), (4, 3, 0), (4, 4, 1), (5, 4, 1), (5, 5, 2), (8, 7, 1), (9, 8, 2), (9, 9, 3)],
)
def test_only_final_blocks_are_sent(prompt_tokens: int, computed: int, final: int) -> None:
    state = Transfer()
    state.register(up_to(prompt_tokens))
    state.schedule(prompt_tokens, list(range(1, 10)))
    state.computed(computed)
    assert state.has_work() == (final > 0)
    assert state.take() == (runs(0, final) if final else [])


def register_first(state: Transfer) -> None:
    state.register(up_to(9, first=1))
    state.schedule(9, [5, 6, 7])
    state.computed(9)


def register_between_chunks(state: Transfer) -> None:
    state.schedule(9, [5, 6])
    state.computed(6)
    state.register(up_to(9, first=1))
    state.schedule(9, [5, 6, 7])
    state.computed(9)


def register_last(state: Transfer) -> None:
    state.schedule(9, [5, 6, 7])
    state.computed(9)
    state.register(up_to(9, first=1))


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
    state.register(up_to(8))
    state.schedule(8, [3, 4])
    state.prompt.computed(0, 8)
    assert state.take() == [Run(0, 0, 0, 2)]
    state.landed()
    assert (state.ending, state.delivered_blocks, state.prompt.complete) == (None, 0, False)
    state.prompt.computed(1, 5)
    assert state.take() == [Run(1, 1, 0, 1)]
    state.landed()
    assert state.delivered_blocks == 1
    state.prompt.computed(1, 8)
    assert state.take() == [Run(1, 1, 1, 2)]
    state.landed()
    assert state.ending == (End.DONE, "")


def test_what_was_sent_before_a_preemption_is_not_sent_again() -> None:
    state = Transfer()
    state.register(up_to(12))
    state.schedule(12, [1, 2, 3])
    state.computed(6)
    assert state.take() == runs(0, 1)
    state.landed()
    state.prompt.forget_blocks()
    assert not state.has_work()
    assert state.delivered_blocks == 1
    state.schedule(12, [7, 8, 9])
    state.computed(12)
    assert state.take() == runs(1, 3)
    assert state.prompt.block_ids == ([7, 8, 9],)


def in_order(events: list[Callable[[], None]], registered_first: bool) -> None:
    for event in events if registered_first else reversed(events):
        event()


@pytest.mark.parametrize("tokens", [1, 8, 9, 10, 12, 13])
@pytest.mark.parametrize("registered_first", [True, False], ids=["registered first", "scheduled first"])
def test_a_prompt_of_another_length_ends_in_failure(tokens: int, registered_first: bool) -> None:
    """Also one that fills as many blocks."""
    state = Transfer()
    in_order([lambda: state.register(up_to(tokens)), lambda: state.schedule(9, [1, 2, 3])], registered_first)
    state.computed(9)
    if tokens == 9:
        assert state.ending is None
        return
    cause = f"wrong prompt: the consumer's has {tokens} tokens to move, the producer's 9"
    assert state.ending == (End.FAILED, cause)
    assert not state.has_work()


@pytest.mark.parametrize("registered_first", [True, False], ids=["registered first", "queued first"])
def test_a_prompt_of_other_tokens_ends_in_failure(registered_first: bool) -> None:
    state = Transfer()

    def queue() -> None:
        state.prompt.digest = "ours"
        if state.share is not None:
            state.share.check()

    in_order([lambda: state.register(up_to(9, prompt="theirs")), queue], registered_first)
    assert state.ending is not None
    assert state.ending[0] is End.FAILED
    assert state.ending[1].startswith("wrong prompt: the two sides made other tokens")


def test_an_end_is_final_only_when_the_write_has_returned_and_the_first_stands() -> None:
    state = Transfer()
    state.register(up_to(4))
    state.schedule(4, [1])
    state.computed(4)
    state.take()
    state.end(End.CANCELLED, "cancelled: x")
    state.end(End.FAILED, "later: y")
    assert not state.settled
    state.landed()
    assert state.settled
    assert state.ending == (End.CANCELLED, "cancelled: x")


def test_a_lost_write_delivers_nothing() -> None:
    state = Transfer()
    state.register(up_to(8))
    state.schedule(8, [1, 2])
    state.computed(4)
    state.take()
    state.landed()
    state.computed(8)
    state.take()
    state.lost("write failed: x", unended=False)
    assert (state.ending, state.delivered_blocks) == ((End.FAILED, "write failed: x"), 1)
    assert not state.has_work()
