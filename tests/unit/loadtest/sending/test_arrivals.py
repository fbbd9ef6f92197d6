import itertools
import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, pstdev
from typing import Any

import pytest

from loadtest.sending.arrivals import Arrival, client_leaves, schedule, share_of
from loadtest.settings import LoadTestSettings
from stack.configuration.environment import load


def times(
    seconds: float = math.inf, requests: int | None = None, start_times: Sequence[float] | None = None, **settings: Any
) -> list[float]:
    chosen = load(LoadTestSettings, **{f"loadtest_{name}": value for name, value in settings.items()})
    return list(schedule(chosen, start_times, seconds, requests))


def test_constant() -> None:
    assert times(2, arrivals="constant", rate=2) == [0, 0.5, 1, 1.5]


@pytest.mark.parametrize("bounds", [{"seconds": 0.8}, {"requests": 4}, {"stages": "0.8:5"}])
def test_whatever_bounds_a_schedule(bounds: dict[str, Any]) -> None:
    assert times(**bounds, arrivals="constant", rate=5) == pytest.approx([0, 0.2, 0.4, 0.6])


@pytest.mark.parametrize(
    ("arrivals", "burstiness", "variation"),
    [("poisson", 1, 1), ("gamma", 1, 1), ("gamma", 0.25, 2), ("gamma", 16, 0.25)],
)
def test_gaps_have_the_mean_of_the_rate_and_the_variation_of_the_burstiness(
    arrivals: str, burstiness: float, variation: float
) -> None:
    at = times(requests=40_000, arrivals=arrivals, rate=4, burstiness=burstiness)
    gaps = [later - earlier for earlier, later in pairwise(at)]
    assert min(gaps) >= 0
    assert fmean(gaps) == pytest.approx(0.25, rel=0.05)
    assert pstdev(gaps) / fmean(gaps) == pytest.approx(variation, rel=0.05)


def test_poisson_is_gamma_of_burstiness_1() -> None:
    assert times(requests=50, arrivals="poisson") == times(requests=50, arrivals="gamma", burstiness=1)


def test_the_seed_decides() -> None:
    assert times(requests=50, arrivals="poisson", seed=3) == times(requests=50, arrivals="poisson", seed=3)
    assert times(requests=50, arrivals="poisson", seed=3) != times(requests=50, arrivals="poisson", seed=4)


@pytest.mark.parametrize("arrivals", ["constant", "poisson", "gamma"])
def test_steps_and_ramps(arrivals: str) -> None:
    """Counts follow the rate: 1,000 at 10, 5,000 on the ramp to 90, none, 2,000 at 20; then the schedule is over."""
    at = times(arrivals=arrivals, stages="100:10,100:10-90,50:0,100:20", burstiness=4, seed=1)
    counts = [sum(start <= one < end for one in at) for start, end in ((0, 100), (100, 200), (200, 250), (250, 350))]
    assert counts == pytest.approx([1000, 5000, 0, 2000], rel=0.1)
    assert len(at) == sum(counts)
    first_half = sum(100 <= one < 150 for one in at)
    assert first_half == pytest.approx(1500, rel=0.1)


def test_trace_time() -> None:
    assert times(7, 4, [9, 0, 2.5, 2.5, 6], arrivals="trace", workload="trace", trace_file=__file__) == [0, 2.5, 2.5, 6]


def test_trace_time_of_a_workload_without_times() -> None:
    with pytest.raises(ValueError, match="LOADTEST_ARRIVALS=trace: workload random has no times of its own"):
        times(arrivals="trace")


def test_share_of_clients_that_leave_is_chosen_by_seed_and_index() -> None:
    def leaving(share: float, seed: int) -> list[int]:
        settings = load(LoadTestSettings, loadtest_cancel_rate=share, loadtest_seed=seed)
        return [index for index in range(1000) if client_leaves(settings, index)]

    assert leaving(0, seed=1) == []
    assert leaving(1, seed=1) == list(range(1000))
    assert len(leaving(0.2, seed=1)) == pytest.approx(200, abs=50)
    assert leaving(0.2, seed=1) == leaving(0.2, seed=1) != leaving(0.2, seed=2)


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_workers_give_the_same_schedule_once(workers: int) -> None:
    whole = times(requests=100, arrivals="poisson")
    shares = [list(share_of(whole, worker, workers)) for worker in range(workers)]
    assert sorted(itertools.chain(*shares)) == [Arrival(index, at) for index, at in enumerate(whole)]
