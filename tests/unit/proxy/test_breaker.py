"""A failing instance is left alone, tried again with one request at a time, and comes back when that one succeeds."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.breaker import MAX_COOLDOWN_S, BreakerLimits, Breakers, Leg

LIMITS = BreakerLimits(failures=3, cooldown_s=5.0)


def opened_at(now: float) -> Breakers:
    breakers = Breakers(LIMITS)
    for _ in range(LIMITS.failures):
        breakers.begin("p0", now).failed(now)
    return breakers


def test_failures_in_a_row_open_it() -> None:
    breakers = Breakers(LIMITS)
    for _ in range(LIMITS.failures - 1):
        breakers.begin("p0", 0).failed(0)
    assert (breakers.blocked(0), breakers.state("p0", 0)) == (set(), "closed")
    breakers.begin("p0", 0).failed(0)
    assert (breakers.blocked(0), breakers.state("p0", 0)) == ({"p0"}, "open")
    assert breakers.state("p1", 0) == "closed"


def test_a_success_between_starts_the_count_anew() -> None:
    breakers = Breakers(LIMITS)
    for end in ("failed", "failed", "succeeded", "failed", "failed"):
        leg = breakers.begin("p0", 0)
        leg.failed(0) if end == "failed" else leg.succeeded()
    assert breakers.state("p0", 0) == "closed"


def test_a_client_that_left_says_nothing() -> None:
    breakers = Breakers(LIMITS)
    for _ in range(2):
        breakers.begin("p0", 0).failed(0)
    breakers.begin("p0", 0).abandoned()
    breakers.begin("p0", 0).failed(0)
    assert breakers.state("p0", 0) == "open"


def test_a_first_token_is_no_success_yet() -> None:
    breakers = Breakers(LIMITS)
    for _ in range(LIMITS.failures):
        leg = breakers.begin("p0", 0)
        leg.answered()
        assert breakers.state("p0", 0) == "closed"
        leg.failed(0)
    assert breakers.state("p0", 0) == "open"


def test_after_the_cool_down_one_probe_at_a_time() -> None:
    breakers = opened_at(0)
    assert breakers.blocked(4.9) == {"p0"}
    assert (breakers.blocked(5), breakers.state("p0", 5)) == (set(), "half_open")
    probe = breakers.begin("p0", 5)
    assert (breakers.blocked(100), breakers.state("p0", 100)) == ({"p0"}, "half_open")
    probe.succeeded()
    assert (breakers.blocked(100), breakers.state("p0", 100)) == (set(), "closed")


def test_the_cool_down_doubles_up_to_its_bound_and_starts_anew_after_a_success() -> None:
    breakers, now, seen = opened_at(0), 0.0, []
    for _ in range(6):
        wait = breakers.retry_after(["p0"], now)
        seen.append(wait)
        now += wait
        breakers.begin("p0", now).failed(now)
    assert seen == [5, 10, 20, 40, MAX_COOLDOWN_S, MAX_COOLDOWN_S]
    now += MAX_COOLDOWN_S
    breakers.begin("p0", now).succeeded()
    for _ in range(LIMITS.failures):
        breakers.begin("p0", now).failed(now)
    assert breakers.retry_after(["p0"], now) == LIMITS.cooldown_s


@pytest.mark.parametrize("whose", ["the probe", "another leg"])
def test_a_probes_first_token_closes_it_on_probation(whose: str) -> None:
    breakers = opened_at(0)
    probe = breakers.begin("p0", 5)
    probe.answered()
    other = breakers.begin("p0", 5)
    assert (breakers.blocked(5), breakers.state("p0", 5)) == (set(), "closed")
    (probe if whose == "the probe" else other).failed(5)
    assert breakers.retry_after(["p0"], 5) == 2 * LIMITS.cooldown_s


def test_a_whole_answer_ends_the_probation() -> None:
    breakers = opened_at(0)
    probe = breakers.begin("p0", 5)
    probe.answered()
    probe.succeeded()
    for _ in range(LIMITS.failures):
        assert breakers.state("p0", 5) == "closed"
        breakers.begin("p0", 5).failed(5)
    assert breakers.retry_after(["p0"], 5) == LIMITS.cooldown_s


def test_an_abandoned_probe_makes_room_for_the_next_at_once() -> None:
    breakers = opened_at(0)
    breakers.begin("p0", 5).abandoned()
    assert breakers.blocked(5) == set()
    breakers.begin("p0", 5).succeeded()
    assert breakers.state("p0", 5) == "closed"


@pytest.mark.parametrize("end", ["answered", "succeeded", "failed", "abandoned"])
def test_a_leg_of_before_neither_closes_nor_opens_nor_frees_the_probe(end: str) -> None:
    breakers = Breakers(LIMITS)
    late = [breakers.begin("p0", 0) for _ in range(4)]
    for _ in range(LIMITS.failures):
        breakers.begin("p0", 0).failed(0)

    def ends(leg: Leg) -> None:
        leg.failed(50) if end == "failed" else getattr(leg, end)()

    ends(late[0])
    assert breakers.state("p0", 1) == "open"
    probe = breakers.begin("p0", 5)
    ends(late[1])
    assert breakers.blocked(5) == {"p0"}
    probe.succeeded()
    ends(late[2])
    ends(late[3])
    breakers.begin("p0", 50).failed(50)
    breakers.begin("p0", 50).failed(50)
    assert breakers.state("p0", 50) == "closed"


def test_only_a_legs_first_end_counts() -> None:
    breakers = Breakers(LIMITS)
    leg = breakers.begin("p0", 0)
    for _ in range(LIMITS.failures):
        leg.failed(0)
    assert breakers.state("p0", 0) == "closed"


def test_a_forgotten_instance_starts_anew() -> None:
    breakers = opened_at(0)
    breakers.forget(["p0", "never seen"])
    assert breakers.blocked(0) == set()


def test_when_the_first_of_several_takes_a_request() -> None:
    breakers = opened_at(0)
    for _ in range(LIMITS.failures):
        breakers.begin("p1", 2).failed(2)
    assert breakers.retry_after(["p0", "p1"], 3) == 2
    assert breakers.retry_after(["p1"], 3) == 4
    assert breakers.retry_after(["p1", "p2"], 3) == 0


@dataclass
class Model:
    """Any order of begins and ends over two instances; a leg that begins while its circuit is not closed is a probe."""

    breakers: Breakers = field(default_factory=lambda: Breakers(LIMITS))
    now: float = 0.0
    running: list[tuple[str, Leg, bool]] = field(default_factory=list)

    def begin(self, name: str) -> None:
        if name not in self.breakers.blocked(self.now):
            is_probe = self.breakers.state(name, self.now) != "closed"
            self.running.append((name, self.breakers.begin(name, self.now), is_probe))

    def end(self, which: int, end: str) -> None:
        if self.running:
            _, leg, _ = self.running.pop(which % len(self.running))
            leg.failed(self.now) if end == "failed" else getattr(leg, end)()

    def answer(self, which: int) -> None:
        if self.running:
            name, leg, _ = self.running.pop(which % len(self.running))
            leg.answered()
            self.running.append((name, leg, False))

    def probes(self, name: str) -> int:
        return sum(is_probe for running, _, is_probe in self.running if running == name)


NAMES = st.sampled_from(["p0", "p1"])
STEPS = st.one_of(
    st.tuples(st.just("begin"), NAMES),
    st.tuples(st.just("wait"), st.floats(0, 2 * MAX_COOLDOWN_S)),
    st.tuples(st.just("answer"), st.integers(0, 9)),
    st.tuples(st.just("end"), st.integers(0, 9), st.sampled_from(["failed", "failed", "succeeded", "abandoned"])),
)


@settings(max_examples=300)
@given(st.lists(STEPS, max_size=60))
def test_any_order_never_two_probes_and_never_open_for_ever(steps: list[tuple[str, ...]]) -> None:
    model = Model()
    for kind, *arguments in steps:
        if kind == "wait":
            model.now += float(arguments[0])
        else:
            getattr(model, kind)(*arguments)
        for name in ("p0", "p1"):
            assert model.probes(name) <= 1
            assert model.probes(name) == 0 or name in model.breakers.blocked(model.now)
    while model.running:
        model.end(0, "failed")
    model.now += MAX_COOLDOWN_S
    assert model.breakers.blocked(model.now) == set()
    for name in ("p0", "p1"):
        model.breakers.begin(name, model.now).succeeded()
        assert model.breakers.state(name, model.now) == "closed"
