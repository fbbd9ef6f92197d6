"""In which order a producer takes its prompts: short ones first, nobody much later than first come, first served."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.routing.prefill_order import FACTORS, Place, PrefillOrder

FACTOR = FACTORS["shortest"]
RATE = 1000.0  # tokens/s
ROUNDING_S = 1e-3  # numbers are whole microseconds, and a tie goes to who came first


@dataclass
class Clock:
    now_s: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now_s


def numbers(order: PrefillOrder, *tokens: int) -> list[int]:
    return [order.enter(each, RATE).number for each in tokens]


def test_a_short_prompt_comes_before_a_long_one_that_came_first() -> None:
    long, short = numbers(PrefillOrder(FACTOR, Clock()), 4000, 100)
    assert short < long


def test_by_arrival_nobody_overtakes() -> None:
    found = numbers(PrefillOrder(FACTORS["arrival"], Clock()), 4000, 100, 1, 1, 4000, 100)
    assert found == sorted(found)


def test_short_prompts_that_keep_coming_do_not_overtake_for_ever() -> None:
    long, *short = numbers(PrefillOrder(FACTOR, Clock()), 1000, *[100] * 200)
    overtaking = sum(number < long for number in short)
    assert overtaking * 100 < (FACTOR - 1) * 1000
    assert overtaking > 50, "the bound leaves room for more"


def test_time_ages_too() -> None:
    clock = Clock()
    order = PrefillOrder(FACTOR, clock)
    (long,) = numbers(order, 1000)
    clock.now_s += FACTOR * 1000 / RATE
    assert numbers(order, 1)[0] > long


def test_two_proxies_numbers_fit_together() -> None:
    """One has long been busy there; the other comes to it later, and neither is always first."""
    clock = Clock()
    busy, other = PrefillOrder(FACTOR, clock), PrefillOrder(FACTOR, clock)
    for _ in range(100):
        order = busy.enter(100, RATE)
        clock.now_s += 100 / RATE
    assert order.number < other.enter(1000, RATE).number
    assert other.enter(1, RATE).number < busy.enter(1000, RATE).number


def test_numbers_behind_a_producer_that_finishes_nothing_are_still_vllms() -> None:
    """`Throughput` after a quarter of an hour, and after half a day."""
    order = PrefillOrder(FACTOR, Clock())
    assert all(order.enter(1_000_000, rate).number < 2**63 for rate in (1e-10, 5e-324))


def test_the_numbers_of_an_idle_producer_begin_at_the_clock() -> None:
    clock = Clock()
    order = PrefillOrder(FACTOR, clock)
    places = [order.enter(100_000, 1.0) for _ in range(3)]
    assert order.enter(1, 1.0).number > places[0].number - FACTOR * 100_000 * 1_000_000
    order = PrefillOrder(FACTOR, clock)
    order.leave(order.enter(100_000, 1.0))
    assert order.enter(1, RATE).number == round((clock.now_s + FACTOR / RATE) * 1_000_000)


@pytest.mark.parametrize(
    ("inside", "tokens", "ahead"),
    [
        ((), 100, 0),
        ((4000,), 100, 4000),  # it has begun
        ((4000, 3000), 100, 4000),
        ((4000, 100), 100, 4100),
        ((4000, 3000, 50, 60), 100, 4110),
        ((50, 4000), 100, 50),
        ((4000, 3000), 8000, 7000),
    ],
)
def test_what_comes_before_a_prompt(inside: Sequence[int], tokens: int, ahead: int) -> None:
    order = PrefillOrder(FACTOR, Clock())
    numbers(order, *inside)
    assert order.ahead(tokens) == ahead
    by_arrival = PrefillOrder(FACTORS["arrival"], Clock())
    numbers(by_arrival, *inside)
    assert by_arrival.ahead(tokens) == sum(inside)


Arrival = tuple[float, int, float | None]  # seconds since the one before, tokens, the rate as it is measured then


def done_by_arrival(arrivals: Sequence[Arrival], rate: float) -> list[float]:
    """When each prompt is computed, first come, first served; in seconds after the first could have come."""
    at_s = free_s = 0.0
    done_s = []
    for gap_s, tokens, _ in arrivals:
        at_s += gap_s
        free_s = max(free_s, at_s) + tokens / rate
        done_s.append(free_s)
    return done_s


def done_by_number(arrivals: Sequence[Arrival], rate: float, factor: int) -> list[float]:
    """The same of a server that takes what waits by its number, as vLLM does, and finishes what it has begun."""
    clock = Clock(0.0)
    order = PrefillOrder(factor, clock)
    times = list(accumulate(gap_s for gap_s, _, _ in arrivals))
    done_s = [float("inf")] * len(arrivals)
    waiting: list[tuple[int, int]] = []
    places: dict[int, Place] = {}
    came, free_s = 0, 0.0
    while came < len(arrivals) or waiting:
        if not waiting:
            free_s = max(free_s, times[came])
        while came < len(arrivals) and times[came] <= free_s:
            clock.now_s = times[came]
            for which in [each for each in places if done_s[each] <= clock.now_s]:
                order.leave(places.pop(which))
            places[came] = order.enter(*arrivals[came][1:])
            heapq.heappush(waiting, (places[came].number, came))
            came += 1
        _, which = heapq.heappop(waiting)
        free_s += arrivals[which][1] / rate
        done_s[which] = free_s
    return done_s


GAPS_S = st.sampled_from([0.0, 0.0, 0.001, 0.1, 2.0, 30.0])
RATES = st.sampled_from([None, 10.0, RATE, 1e6])


@given(
    st.lists(st.tuples(GAPS_S, st.integers(1, 5000), RATES), min_size=1, max_size=40),
    st.sampled_from([2, 4, FACTOR, 16]),
    st.sampled_from([100.0, RATE, 30_000.0]),
)
def test_nobody_is_done_later_than_the_bound(arrivals: list[Arrival], factor: int, rate: float) -> None:
    """However much comes, and whatever the proxy takes the producer's rate for."""
    ours, by_arrival = done_by_number(arrivals, rate, factor), done_by_arrival(arrivals, rate)
    came_s = 0.0
    for (gap_s, tokens, _), our_s, their_s in zip(arrivals, ours, by_arrival, strict=True):
        came_s += gap_s
        assert our_s <= their_s + (factor - 1) * tokens / rate + ROUNDING_S
        assert our_s - came_s <= factor * (their_s - came_s) + ROUNDING_S


@given(st.lists(st.tuples(GAPS_S, st.integers(1, 5000), RATES), min_size=1, max_size=40))
def test_factor_one_is_first_come_first_served(arrivals: list[Arrival]) -> None:
    assert done_by_number(arrivals, RATE, 1) == pytest.approx(done_by_arrival(arrivals, RATE))
