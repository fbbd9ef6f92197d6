"""Loads that servers can and cannot bear, from a queue of known capacity; and limits of the generator itself."""

import random
from collections.abc import Iterator

import pytest

from loadtest.figures.columns import Columns
from loadtest.figures.record import RequestRecord
from loadtest.figures.saturation import generator_limit, saturation
from loadtest.figures.slo import Slo
from tests.unit.loadtest.made_records import answered, unanswered

SECONDS = 120.0


def queue(rate: float, capacity: float, seed: int, servers: int = 1, gaps: int = 10) -> list[RequestRecord]:
    """Poisson arrivals at servers that each need a random time of mean servers/capacity before the first token."""
    chance = random.Random(seed)
    free, at, records = [0.0] * servers, 0.0, []
    while (at := at + chance.expovariate(rate)) < SECONDS:
        free.sort()
        free[0] = max(free[0], at) + chance.gammavariate(4, servers / capacity / 4)
        records.append(answered(at, ttft=free[0] - at, gaps=(0.05,) * gaps))
    return records


def judged(records: list[RequestRecord], since_s: float = 0.0, until_s: float = SECONDS) -> str | None:
    return saturation(Columns.of(records, Slo()), since_s, until_s)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("servers", [1, 8])
def test_a_load_that_servers_bear_is_not_flagged(seed: int, servers: int) -> None:
    assert judged(queue(rate=3.0, capacity=6.0, seed=seed, servers=servers)) is None


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("servers", [1, 8])
def test_a_load_beyond_the_capacity_is_flagged(seed: int, servers: int) -> None:
    reason = judged(queue(rate=6.0, capacity=4.0, seed=seed, servers=servers))
    assert reason is not None
    assert reason.startswith("TTFT grew with the time: median ")


def steady(at: float) -> RequestRecord:
    return answered(at, ttft=0.3)


def moments(rate: float) -> Iterator[float]:
    return (i / rate for i in range(int(SECONDS * rate)))


def test_answers_that_get_slower_after_the_first_token() -> None:
    """TTFT stays as it is, and ever more requests are under way."""
    reason = judged([answered(at, ttft=0.3, gaps=(1 + at / 2,)) for at in moments(2.0)])
    assert reason is not None
    assert reason.startswith("requests in flight grew with the time: from ")


def test_refused_requests_are_a_shortfall() -> None:
    records = [steady(at) if i % 2 else unanswered(at) for i, at in enumerate(moments(4.0))]
    assert judged(records) == "1.99 requests/s completed of 4/s offered"  # the last one's answer comes later than usual


def test_requests_that_clients_cancelled_are_none() -> None:
    assert (
        judged([answered(at, outcome="cancelled" if i % 2 else "completed") for i, at in enumerate(moments(4))]) is None
    )


def test_a_long_answer_at_the_end_is_no_saturation() -> None:
    """Every answer takes a quarter of the run, as those of slow models do."""
    assert judged([answered(at, ttft=0.3, gaps=(30.0,)) for at in moments(2.0)]) is None


def test_a_small_growth_is_none_however_sure() -> None:
    assert judged([answered(at, ttft=0.3 + at / 1000) for at in moments(20.0)]) is None


def test_only_the_span_counts() -> None:
    records = [answered(at, ttft=0.3 + max(0.0, at - 60)) for at in moments(4.0)]
    assert judged(records, until_s=60.0) is None
    assert judged(records, since_s=60.0) is not None


def test_of_few_requests_nothing_is_said() -> None:
    assert judged([answered(at, ttft=0.3 + at) for at in range(20)]) is None
    assert judged([]) is None


def test_generator_in_time() -> None:
    assert generator_limit(Columns.of([steady(at) for at in moments(2.0)], Slo()), 0.5) is None
    assert generator_limit(Columns.of([], Slo()), None) is None


def test_generator_that_starts_requests_late() -> None:
    late = Columns.of([answered(at, ttft=0.3, started=at + 0.05) for at in moments(2.0)], Slo())
    assert generator_limit(late, None) == (
        "requests started late: P99 of the start delay is 50.0 ms, above 15.0 ms"
    )  # 5 % of TTFT


def test_generator_without_a_free_cpu() -> None:
    reason = generator_limit(Columns.of([steady(0.0)], Slo()), 0.95)
    assert reason is not None
    assert reason.startswith("a process of the load generator used 95% of a core")
