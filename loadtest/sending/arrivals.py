"""When each request of an open-loop test is to be sent; pure, and the same for the same seed on every worker.

Arrivals of rate 1 are made first and then mapped through the inverse of the cumulated rate (stages.py): at constant
rate that is a division, over steps and ramps it keeps the kind of arrivals while the rate changes. For Poisson
arrivals this is exact (Cinlar, Introduction to Stochastic Processes, 1975, section 4.7), for others see Gerhardt and
Nelson, Transforming Renewal Processes for Simulation of Nonstationary Arrival Processes, INFORMS Journal on Computing
21(4), 2009.
"""

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from loadtest import stages
from loadtest.settings import LoadTestSettings
from loadtest.stages import Stages


@dataclass(frozen=True, slots=True, order=True)
class Arrival:
    index: int
    scheduled: float  # seconds since the schedule's zero


def schedule(
    settings: LoadTestSettings, start_times: Sequence[float] | None, seconds: float, requests: int | None
) -> Iterator[float]:
    """The whole schedule, ascending; without an end if nothing bounds it.

    Args: start_times: the workload's own, for trace time; seconds: no arrival at this time or later; requests: no
    more than so many.
    Raises: ValueError: trace time for a workload that has none.
    """
    times: Iterable[float]
    if settings.loadtest_arrivals == "trace":
        if start_times is None:
            raise ValueError(f"LOADTEST_ARRIVALS=trace: workload {settings.loadtest_workload} has no times of its own")
        times = sorted(start_times)
    else:
        profile = settings.profile or stages.constant(settings.loadtest_rate)
        times = rescaled(_unit_times(settings), profile)
    return itertools.takewhile(lambda at: at < seconds, itertools.islice(times, requests))


def client_leaves(settings: LoadTestSettings, index: int) -> bool:
    """Whether the client of this request is one of those who do not wait for its end."""
    share = settings.loadtest_cancel_rate
    return share > 0 and random.Random(f"{settings.loadtest_seed}/{index}/cancel").random() < share


def share_of(times: Iterable[float], worker: int, workers: int) -> Iterator[Arrival]:
    """What one of several workers sends; together they send every arrival once."""
    return (Arrival(index, at) for index, at in enumerate(times) if index % workers == worker)


def rescaled(unit_times: Iterable[float], profile: Stages) -> Iterator[float]:
    """Arrivals of rate 1 as arrivals of the profile's rate; they end with the profile."""
    for unit_time in unit_times:
        at = profile.time_of(unit_time)
        if at is None:
            return
        yield at


def _unit_times(settings: LoadTestSettings) -> Iterator[float]:
    match settings.loadtest_arrivals:
        case "constant":
            return map(float, itertools.count())
        case "poisson":
            return gamma_times(1.0, settings.loadtest_seed)
        case _:
            return gamma_times(settings.loadtest_burstiness, settings.loadtest_seed)


def gamma_times(shape: float, seed: int) -> Iterator[float]:
    """Arrivals of rate 1 with gamma-distributed gaps, as in `vllm bench serve --burstiness`; shape 1 is Poisson.

    The gaps' coefficient of variation is 1/sqrt(shape).
    """
    gaps = random.Random(f"{seed}/arrivals")
    return itertools.accumulate(gaps.gammavariate(shape, 1 / shape) for _ in itertools.count())
