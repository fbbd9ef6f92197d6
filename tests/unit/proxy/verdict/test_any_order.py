"""Whatever clients send, in any order: an instance that is well stays in use, one that is not is found out."""

from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.verdict.breakers import Leg
from proxy.verdict.circuit import AGAIN_S, MAX_COOLDOWN_S, PAUSE_S, Finding
from tests.unit.proxy.verdict.watched import (
    BROKEN,
    BUSY,
    ERROR,
    LATE,
    LIMITS,
    REFUSED,
    STALLED,
    UNFINISHED,
    UNREACHABLE,
    Watched,
)

# What a request can bring about at an instance that is well, whoever sends it, and what the instance brings about.
POISON: dict[str, Callable[[Leg, float], None]] = {
    "500": lambda leg, now: leg.failed(ERROR, now),
    "400": lambda leg, now: leg.failed(REFUSED, now),
    "busy": lambda leg, now: leg.failed(BUSY, now),
    "broken": lambda leg, now: leg.failed(BROKEN, now),
    "unfinished": lambda leg, now: leg.failed(UNFINISHED, now),
    "stalled": lambda leg, now: leg.failed(STALLED, now, silent_s=60),
    "late": lambda leg, now: leg.failed(LATE, now),
    "left": lambda leg, now: leg.neutral(),
}
GOOD = {
    "first token": lambda leg, now: leg.answered(now),
    "good": lambda leg, now: leg.succeeded(now),
}
ENDS: dict[str, Callable[[Leg, float], None]] = POISON | GOOD
STEPS = st.one_of(
    st.tuples(st.just("begin"), st.just(0)),
    st.tuples(st.just("wait"), st.floats(0, 2 * MAX_COOLDOWN_S)),
    st.tuples(st.just("ask"), st.just(0)),
    st.tuples(st.just("answer"), st.just(0)),
    st.tuples(st.sampled_from(sorted(ENDS)), st.integers(0, 9)),
)


@dataclass
class World:
    """One instance; its questions are put and answered when a step says so, or when the instance has to be found out.

    finds: what the proxy's question finds.
    """

    finds: Finding
    watched: Watched = field(default_factory=Watched)
    now: float = 0.0
    running: list[Leg] = field(default_factory=list)
    asked: bool = False

    @property
    def is_open(self) -> bool:
        return self.watched.state() != "closed"

    def step(self, kind: str, argument: float) -> None:
        if kind == "begin":
            if not self.is_open:
                self.running.append(self.watched.breakers.begin("d0", self.now))
        elif kind == "wait":
            self.now += argument
        elif kind == "ask":
            due = self.watched.due()
            if due is not None and due <= self.now:
                self.watched.doubted["d0"].ask(self.now)
                self.asked = True
        elif kind == "answer":
            if self.asked:
                self.watched.doubted["d0"].found(self.finds, self.now)
                self.asked = False
        elif self.running:
            leg = self.running[int(argument) % len(self.running)]
            if kind != "first token":
                self.running.remove(leg)
            ENDS[kind](leg, self.now)

    def find_out(self) -> None:
        """All questions, each when it is due, until there is none or the circuit is open."""
        self.step("answer", 0)
        while not self.is_open and (due := self.watched.due()) is not None:
            self.now = max(self.now, due)
            self.watched.asks(self.finds, self.now)


@settings(max_examples=100)
@given(st.lists(STEPS, max_size=80))
def test_whatever_clients_send_an_instance_that_is_well_stays_in_use(steps: list[tuple[str, float]]) -> None:
    world = World("well")
    for kind, argument in steps:
        world.step(kind, argument)
        assert not world.is_open
    world.find_out()
    assert world.watched.breakers.described("d0", world.now)["failures"] == 0
    assert not world.watched.breakers.in_doubt("d0")


@settings(max_examples=100)
@given(st.lists(STEPS, max_size=60), st.lists(st.sampled_from(sorted(POISON)), max_size=9))
def test_whatever_clients_send_an_instance_that_is_gone_is_left_alone_within_three_failures(
    steps: list[tuple[str, float]], poison: list[str]
) -> None:
    world = World("well")
    for kind, argument in steps:
        world.step(kind, argument)
    world.finds = "ill"
    failures = 0
    while not world.is_open:  # poison that was under way still ends as it does
        world.watched.fails(UNREACHABLE, world.now)
        failures += 1
        if poison and world.running:
            ENDS[poison.pop()](world.running.pop(), world.now)
    assert failures <= LIMITS.failures


@settings(max_examples=100)
@given(st.lists(STEPS, max_size=60), st.sampled_from([ERROR, BROKEN, UNFINISHED, BUSY]))
def test_whatever_clients_send_an_instance_that_fails_at_everything_is_left_alone(
    steps: list[tuple[str, float]], error: BaseException
) -> None:
    """One that says "busy" to all, and whose health is gone, too."""
    world = World("well")
    for kind, argument in steps:
        world.step(kind, argument)
    world.finds = "ill"
    died = world.now
    world.watched.fails(error, world.now)
    world.find_out()
    assert world.is_open
    assert world.now - died <= PAUSE_S + LIMITS.failures * AGAIN_S


@settings(max_examples=100)
@given(st.lists(STEPS, max_size=60), st.sampled_from(["ill", "silent", "alive"]))
def test_in_any_order_no_circuit_stays_open_for_ever(steps: list[tuple[str, float]], finds: Finding) -> None:
    world = World(finds)
    for kind, argument in steps:
        world.step(kind, argument)
        due = world.watched.due()
        assert not world.is_open or world.asked or due is not None
        assert due is None or due <= world.now + MAX_COOLDOWN_S
    world.step("answer", 0)
    world.now += MAX_COOLDOWN_S
    if world.is_open:
        world.watched.asks("well", world.now)
    assert not world.is_open
