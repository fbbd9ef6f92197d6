"""A prompt and its share case by case, then any interleaving of events against an oracle that counts block by block."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from connector.messages import Register
from connector.transfer import End, Prompt, Run, Share

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
    state.lost("write failed: x")
    assert (state.ending, state.delivered_blocks) == ((End.FAILED, "write failed: x"), 1)
    assert not state.has_work()


class AnyInterleaving(RuleBasedStateMachine):
    """The oracle keeps, for every (layer, block): final in the live blocks? handed out? arrived?"""

    @initialize(prompt_tokens=st.integers(1, 30), layers=st.integers(1, 3), data=st.data())
    def begin(self, prompt_tokens: int, layers: int, data: st.DataObject) -> None:
        self.prompt_tokens = prompt_tokens
        self.blocks = -(-prompt_tokens // BLOCK)
        self.first = data.draw(st.integers(0, self.blocks - 1))
        self.layers = layers
        self.state = Transfer(layers)
        self.table: list[int] = []
        self.next_block_id = 0
        self.scheduled = 0  # the step under way, or the last, computes up to here
        self.stepping = False
        self.final: set[tuple[int, int]] = set()
        self.handed: set[tuple[int, int]] = set()
        self.arrived: set[tuple[int, int]] = set()
        self.in_flight: set[tuple[int, int]] = set()
        self.registered = False
        self.end: End | None = None

    def wanted(self) -> set[tuple[int, int]]:
        if not self.registered or self.end is not None:
            return set()
        return {(layer, block) for layer, block in self.final - self.handed if block >= self.first}

    def mark(self, layer: int) -> None:
        self.state.prompt.computed(layer, self.scheduled)
        complete = self.scheduled == self.prompt_tokens
        whole = self.blocks if complete else self.scheduled // BLOCK
        self.final |= {(layer, block) for block in range(whole)}

    @rule(tokens=st.integers(1, 12))
    def schedule(self, tokens: int) -> None:
        if self.stepping:
            self.step_ends()
        self.scheduled = min(self.scheduled + tokens, self.prompt_tokens)
        while len(self.table) * BLOCK < self.scheduled:
            self.table.append(self.next_block_id)
            self.next_block_id += 1
        self.stepping = True
        self.state.schedule(self.prompt_tokens, list(self.table))

    @precondition(lambda self: self.stepping)
    @rule(data=st.data())
    def hook(self, data: st.DataObject) -> None:
        self.mark(data.draw(st.integers(0, self.layers - 1)))

    @precondition(lambda self: self.stepping)
    @rule()
    def step_ends(self) -> None:
        for layer in range(self.layers):
            self.mark(layer)
        self.stepping = False

    @precondition(lambda self: not self.registered)
    @rule()
    def register(self) -> None:
        self.registered = True
        blocks = self.blocks - self.first
        self.state.register(registration(self.first, blocks))

    @precondition(lambda self: not self.in_flight and self.state.has_work())
    @rule()
    def take(self) -> None:
        expected = self.wanted()
        taken = [(run.layer, block) for run in self.state.take() for block in range(run.start, run.stop)]
        assert len(taken) == len(set(taken))
        assert set(taken) == expected
        assert not set(taken) & self.handed
        assert self.state.prompt.block_ids == self.table
        assert all(block < len(self.table) for _, block in taken)
        self.handed |= expected
        self.in_flight = expected

    @precondition(lambda self: self.in_flight)
    @rule()
    def land(self) -> None:
        self.state.landed()
        self.arrived |= self.in_flight
        self.in_flight = set()
        everything = {(layer, block) for layer in range(self.layers) for block in range(self.first, self.blocks)}
        if self.end is None and self.arrived == everything:
            self.end = End.DONE

    @precondition(lambda self: self.in_flight)
    @rule()
    def lose(self) -> None:
        self.state.lost("write failed: x")
        self.in_flight = set()
        self.end = self.end or End.FAILED

    @precondition(lambda self: not self.in_flight and not self.stepping)
    @rule()
    def preempt(self) -> None:
        self.state.prompt.forget_blocks()
        self.table, self.scheduled, self.final = [], 0, set()

    @rule(how=st.sampled_from([End.CANCELLED, End.FAILED]))
    @precondition(lambda self: self.handed)  # else most runs would end before anything moved
    def give_up(self, how: End) -> None:
        self.state.end(how, f"{how.value}: x")
        self.end = self.end or how

    @invariant()
    def agrees_with_the_oracle(self) -> None:
        if not hasattr(self, "state"):
            return
        assert self.state.has_work() == bool(self.wanted())
        if not self.registered:
            return
        assert self.state.writing == bool(self.in_flight)
        assert (self.state.ending[0] if self.state.ending else None) == self.end
        assert self.state.settled == (self.end is not None and not self.in_flight)
        whole = 0
        while all((layer, self.first + whole) in self.arrived for layer in range(self.layers)):
            whole += 1
        assert self.state.delivered_blocks == whole

    def teardown(self) -> None:
        """Whatever happened, the rest of the prefill ends the transfer, and nothing is left to send."""
        if not hasattr(self, "state"):
            return
        if not self.registered:
            self.register()
        if self.in_flight:
            self.land()
        while self.scheduled < self.prompt_tokens or self.stepping:
            self.schedule(BLOCK)
            self.step_ends()
        while self.state.has_work():
            self.take()
            self.land()
        self.agrees_with_the_oracle()
        assert self.end is not None
        assert self.state.settled


TestAnyInterleaving = AnyInterleaving.TestCase
TestAnyInterleaving.settings = settings(derandomize=True, max_examples=80, stateful_step_count=30, deadline=None)
