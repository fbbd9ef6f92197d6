"""In which order a producer takes its prompts: short ones first, nobody much later than first come, first served."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random

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


@dataclass(frozen=True)
class Arrival:
    """gap_s: since the one before. measured: the rate as the proxy knows it then. leaves_after_s: None: it stays."""

    gap_s: float
    tokens: int
    measured: float | None = RATE
    leaves_after_s: float | None = None


def done_by_arrival(arrivals: Sequence[Arrival], rate: float) -> list[float]:
    """When each prompt is computed, first come, first served, and nobody leaves; in seconds from the beginning."""
    at_s = free_s = 0.0
    done_s = []
    for arrival in arrivals:
        at_s += arrival.gap_s
        free_s = max(free_s, at_s) + arrival.tokens / rate
        done_s.append(free_s)
    return done_s


def done_by_number(arrivals: Sequence[Arrival], rate: float, factor: int) -> list[float]:
    """The same of a server that takes what waits by its number, as vLLM does, and finishes what it has begun unless
    nobody waits for that any more; infinity for who leaves before.
    """
    clock = Clock(0.0)
    order = PrefillOrder(factor, clock)
    times = accumulate(arrival.gap_s for arrival in arrivals)
    events = [(at_s, "comes", which) for which, at_s in enumerate(times)]
    heapq.heapify(events)
    done_s = [float("inf")] * len(arrivals)
    places: dict[int, Place] = {}
    begun: int | None = None
    while events:
        clock.now_s, what, which = heapq.heappop(events)
        arrival = arrivals[which]
        if what == "comes":
            places[which] = order.enter(arrival.tokens, arrival.measured)
            if arrival.leaves_after_s is not None:
                heapq.heappush(events, (clock.now_s + arrival.leaves_after_s, "leaves", which))
        elif which in places:
            if what == "done":
                done_s[which] = clock.now_s
            (order.leave if what == "done" else order.withdraw)(places.pop(which))
            begun = None if begun == which else begun
        if begun is None and places and not (events and events[0][0] == clock.now_s):
            begun = min(places, key=lambda each: (places[each].number, each))
            heapq.heappush(events, (clock.now_s + arrivals[begun].tokens / rate, "done", begun))
    return done_s


GAPS_S = st.sampled_from([0.0, 0.0, 0.001, 0.1, 2.0, 30.0])
RATES = st.sampled_from([None, 10.0, RATE, 1e6])
LEAVES_AFTER_S = st.sampled_from([None, None, 0.0, 0.001, 0.05, 1.0, 20.0])
TOKENS = st.integers(1, 5000)


@given(
    st.lists(st.builds(Arrival, GAPS_S, TOKENS, RATES, LEAVES_AFTER_S), min_size=1, max_size=40),
    st.sampled_from([2, 4, FACTOR, 16]),
    st.sampled_from([100.0, RATE, 30_000.0]),
)
def test_nobody_is_done_later_than_the_bound(arrivals: list[Arrival], factor: int, rate: float) -> None:
    """However much comes, whoever leaves, and whatever the proxy takes the producer's rate for."""
    ours, by_arrival = done_by_number(arrivals, rate, factor), done_by_arrival(arrivals, rate)
    came_s = 0.0
    for arrival, our_s, their_s in zip(arrivals, ours, by_arrival, strict=True):
        came_s += arrival.gap_s
        if arrival.leaves_after_s is None:
            assert our_s <= their_s + (factor - 1) * arrival.tokens / rate + ROUNDING_S
            assert our_s - came_s <= factor * (their_s - came_s) + ROUNDING_S


def test_who_leaves_at_the_last_moment_again_and_again_lets_others_be_done() -> None:
    """Each is nearly computed when its client goes, and the next one is there already.

    The producer is faster than the proxy takes it for: else the clock alone would let the long one be done.
    """
    slow, nearly_s = RATE / 100, 0.098
    long = Arrival(0.01, 3000, slow)
    first, second = (Arrival(gap_s, 100, slow, nearly_s + gap_s) for gap_s in (0.0, 0.08))
    arrivals = [first, long, second, *[Arrival(nearly_s, 100, slow, nearly_s + 0.008)] * 1000]
    done_s = done_by_number(arrivals, RATE, FACTOR)[1]
    assert done_s <= done_by_arrival(arrivals, RATE)[1] + (FACTOR - 1) * long.tokens / RATE + ROUNDING_S
    assert done_s > 15, "those before it are nearly computed, each of them"


@given(st.lists(st.builds(Arrival, GAPS_S, TOKENS), min_size=1, max_size=40))
def test_factor_one_is_first_come_first_served(arrivals: list[Arrival]) -> None:
    assert done_by_number(arrivals, RATE, 1) == pytest.approx(done_by_arrival(arrivals, RATE))


@given(
    st.lists(st.tuples(st.lists(TOKENS, max_size=4), GAPS_S, GAPS_S, TOKENS), min_size=1, max_size=15),
    st.randoms(use_true_random=False),
)
def test_who_leaves_without_having_been_begun_leaves_no_trace(
    arrivals: list[tuple[list[int], float, float, int]], random: Random
) -> None:
    """While the order is never empty: the next numbers are those of an order in which these prompts never were."""
    clock = Clock()
    order, without = PrefillOrder(FACTOR, clock), PrefillOrder(FACTOR, clock)
    assert numbers(order, 1) == numbers(without, 1)
    for leaving, stay_s, gap_s, tokens in arrivals:
        places = [order.enter(each, RATE) for each in leaving]
        clock.now_s += stay_s
        random.shuffle(places)
        for place in places:
            order.withdraw(place)
        clock.now_s += gap_s
        assert numbers(order, tokens) == pytest.approx(numbers(without, tokens), abs=1)


def test_all_of_a_client_that_leave_at_once_leave_no_trace() -> None:
    """Its first one may have been begun when those before it are gone, though hardly computed in that moment."""
    clock = Clock()
    order = PrefillOrder(FACTOR, clock)
    order.enter(10, RATE)
    places = [order.enter(50_000, RATE) for _ in range(10)]
    (stays,) = numbers(order, 100)
    clock.now_s += 30
    for place in places:
        order.withdraw(place)
        clock.now_s += 0.0001
    (number,) = numbers(order, 100)
    assert number < stays
    assert number == pytest.approx((clock.now_s + FACTOR * 100 / RATE) * 1_000_000, abs=1)
