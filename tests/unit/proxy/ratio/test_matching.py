"""Rate matching on live figures, each case computed by hand, and what must hold for any."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.ratio.matching import FULL, PARTS, TARGET, Part, judge

TPOT_S = 0.2
# One producer busy for 70 % of the time, one consumer with half of its cache used, streams at a quarter of the bound.
QUIET = Part(busy=0.7, computed=30_000, waiting=0, streams=12.0, itl_s=0.05, cache_usage=0.5, consumers=1)


def changes(*parts: Part, producers: int, consumers: int) -> tuple[str, int, int]:
    found = judge(parts, producers, consumers, TPOT_S)
    return found.says, found.producers.change, found.consumers.change


def always(part: Part, producers: int, consumers: int) -> tuple[str, int, int]:
    return changes(*[part] * PARTS, producers=producers, consumers=consumers)


def test_both_sides_as_full_as_they_may_be() -> None:
    assert always(QUIET, 1, 1) == ("right", 0, 0)


def test_producers_queue_while_consumers_idle() -> None:
    """Both producers are busy all the time, and half as much as they compute waits: 2 × 1.5 = 3 producers' worth, for
    which 3 / 0.7 = 4.3 are right. Three consumers with a tenth of their caches used: 0.3 / 0.7, one will do."""
    part = replace(QUIET, busy=2.0, computed=20_000, waiting=10_000, cache_usage=0.1, itl_s=0.01, consumers=3)
    assert always(part, 2, 3) == ("wrong", 3, -2)
    found = judge([part] * PARTS, 2, 3, TPOT_S)
    assert (found.producers.use, found.producers.wanted) == (1.5, 5)
    assert found.consumers.use == pytest.approx(0.1)
    # 20,000 tokens in 30 s of two producers, 10,000 before the next one.
    assert found.wait_s == pytest.approx(15)


def test_consumers_are_full_while_producers_idle() -> None:
    """One consumer, 0.95 of its cache in use: 0.95 / 0.7 = 1.4. Three producers of which 0.9 are busy: 1.3."""
    assert always(replace(QUIET, busy=0.9, cache_usage=0.95), 3, 1) == ("wrong", -1, 1)


def test_streams_slower_than_promised() -> None:
    """An ITL of 0.3 s where 0.2 s are promised: 2 × 1.5 = 3 consumers' worth of work, so 3 / 0.7 = 4.3."""
    assert always(replace(QUIET, itl_s=0.3, consumers=2), 1, 2) == ("wrong", 0, 3)


def test_no_more_consumers_than_streams() -> None:
    """Alone a stream is as slow: another consumer would not make it faster."""
    assert always(replace(QUIET, itl_s=0.3, streams=0.8), 1, 1) == ("right", 0, 0)
    assert always(replace(QUIET, itl_s=0.9, streams=1.8), 1, 1) == ("wrong", 0, 1)


def test_too_few_of_both() -> None:
    assert always(replace(QUIET, busy=1.0, cache_usage=0.9), 1, 1) == ("few", 1, 1)


def test_fewer_would_do() -> None:
    """0.7 producers busy, and 4 × 0.3 = 1.2 consumers' worth, for which 1.2 / 0.7 = 1.7 will do."""
    assert always(replace(QUIET, cache_usage=0.3, itl_s=0.02, consumers=4), 1, 4) == ("many", 0, -2)


def test_too_little_load_to_say() -> None:
    assert always(Part(0.0, 0, 0, 0.0, None, None, 4), 4, 4)[0] == "little"
    assert always(replace(QUIET, busy=0.3, cache_usage=0.2), 1, 1)[0] == "little"


def test_a_window_that_is_not_whole_says_nothing() -> None:
    short = replace(QUIET, busy=1.0, waiting=90_000)
    assert judge([short] * (PARTS - 1), 1, 1, TPOT_S).says == "unknown"
    assert judge([], 1, 1, TPOT_S).says == "unknown"


def test_one_burst_or_one_pause_changes_nothing() -> None:
    burst = replace(QUIET, busy=1.0, waiting=300_000)
    assert changes(*[QUIET] * (PARTS - 1), burst, producers=1, consumers=1) == ("right", 0, 0)
    pause = Part(0.0, 0, 0, 0.0, None, 0.0, 1)
    assert changes(*[burst] * (PARTS - 1), pause, producers=1, consumers=1)[:2] == ("right", 0)
    busy = replace(QUIET, busy=2.0)
    assert changes(*[busy] * (PARTS - 1), pause, producers=3, consumers=1) == ("right", 0, 0)


def test_consumers_of_which_nobody_said_how_full_they_are_stay() -> None:
    unsaid = replace(QUIET, cache_usage=None, itl_s=0.01, consumers=4)
    assert always(unsaid, 1, 4) == ("right", 0, 0)
    assert always(replace(unsaid, cache_usage=0.1), 1, 4) == ("many", 0, -3)


def test_a_prompt_longer_than_a_part_is_no_queue() -> None:
    assert always(replace(QUIET, busy=0.8, computed=0, waiting=200_000), 1, 1) == ("right", 0, 0)


parts = st.builds(
    Part,
    busy=st.floats(0, 8),
    computed=st.integers(0, 10**6),
    waiting=st.integers(0, 10**6),
    streams=st.floats(0, 500),
    itl_s=st.none() | st.floats(0, 2),
    cache_usage=st.none() | st.floats(0, 1),
    consumers=st.integers(1, 8),
)
windows = st.lists(parts, min_size=PARTS, max_size=PARTS)
numbers = st.integers(1, 8)


@given(windows, numbers, numbers, st.integers(0, PARTS - 1), st.integers(0, 10**6))
def test_more_waiting_never_asks_for_fewer_producers(
    window: list[Part], producers: int, consumers: int, place: int, more: int
) -> None:
    part = window[place]
    longer = [*window[:place], replace(part, waiting=part.waiting + more), *window[place + 1 :]]
    one, other = (judge(each, producers, consumers, TPOT_S) for each in (window, longer))
    assert other.producers.wanted >= one.producers.wanted
    assert other.consumers == one.consumers


@given(windows, numbers, numbers, st.integers(0, PARTS - 1), st.floats(0, 1), st.floats(0, 2))
def test_fuller_caches_and_slower_streams_never_ask_for_fewer_consumers(
    window: list[Part], producers: int, consumers: int, place: int, usage: float, itl_s: float
) -> None:
    part = window[place]
    if part.cache_usage is None:
        return
    fuller = replace(part, cache_usage=max(part.cache_usage, usage), itl_s=max(part.itl_s or 0.0, itl_s))
    one = judge(window, producers, consumers, TPOT_S)
    other = judge([*window[:place], fuller, *window[place + 1 :]], producers, consumers, TPOT_S)
    assert other.consumers.wanted >= one.consumers.wanted
    assert other.producers == one.producers


@given(windows, numbers, numbers)
def test_what_was_asked_for_is_not_taken_back(window: list[Part], producers: int, consumers: int) -> None:
    """The same work for as many as were asked for: nothing more is, and nobody is to go who has just come."""
    one = judge(window, producers, consumers, TPOT_S)
    other = judge(window, one.producers.wanted, one.consumers.wanted, TPOT_S)
    for before, after in ((one.producers, other.producers), (one.consumers, other.consumers)):
        assert before.change * after.change >= 0
        if before.change < 0:
            assert after.change == 0


@given(parts, numbers, numbers)
def test_the_number_that_is_asked_for_is_enough_and_not_one_too_many(
    part: Part, producers: int, consumers: int
) -> None:
    found = judge([part] * PARTS, producers, consumers, TPOT_S).producers
    worth = part.producers_worth
    assert worth / found.wanted <= FULL + 1e-6
    if found.change:
        assert found.wanted == max(1, math.ceil(round(worth / TARGET, 6)))
