"""Whether a point of load can last, and whether the figures are the server's at all. Texts for people, or None.

Over saturation, work arrives faster than the servers do it: queues, and with them TTFT, grow for as long as the load
goes on, and every figure is a figure of the run's length. Like GuideLLM's over-saturation detector this looks for a
growth of TTFT and of the requests in flight that chance does not explain: a slope whose one-sided t-test passes at
99 %. Neighbouring requests share a queue and so are no independent observations; the span is cut into ten equal blocks
and the test is done on their medians. A growth must also be large: with enough requests the smallest drift passes.
"""

import math

import numpy as np

from loadtest.figures.columns import Columns, Floats
from loadtest.figures.summary import measured

_BLOCKS = 10
_FEWEST_BLOCKS = 6
# Student's t, one-sided 99 %, by degrees of freedom: blocks less two.
_T_99 = {4: 3.747, 5: 3.365, 6: 3.143, 7: 2.998, 8: 2.896}
_FEWEST_REQUESTS = 30  # three a block; with less nothing is said
_LARGEST_SHORTFALL = 0.1  # of the offered requests; what remains is chance and the ends of the span

_LARGEST_CPU_SHARE = 0.9  # of one core: above it gevent's loop runs late; Locust warns at the same share
_LARGEST_START_DELAY_S = 0.01
_LARGEST_SHARE_OF_TTFT = 0.05


def saturation(run: Columns, since_s: float, until_s: float) -> str | None:
    """Why the load from `since_s` until `until_s` was more than the servers can do, if it was.

    The load should be even over the span: look at the stages of a run one by one.
    """
    requests = measured(run, since_s, until_s)
    if len(requests) < _FEWEST_REQUESTS:
        return None
    return (
        _growing_ttft(requests, since_s, until_s)
        or _growing_queue(run, requests, since_s, until_s)
        or _shortfall(run, requests, since_s, until_s)
    )


def generator_limit(requests: Columns, cpu_share: float | None) -> str | None:
    """Why figures may be the load generator's own; `cpu_share`: of one core, of its busiest process, if known."""
    if cpu_share is not None and cpu_share > _LARGEST_CPU_SHARE:
        return f"a process of the load generator used {cpu_share:.0%} of a core: use more workers, or more machines"
    delays, ttft = requests["start_delay"], requests["ttft"]
    if not len(delays):
        return None
    late = float(np.percentile(delays, 99))
    median = 0.0 if np.isnan(ttft).all() else float(np.nanmedian(ttft))
    bound = max(_LARGEST_START_DELAY_S, _LARGEST_SHARE_OF_TTFT * median)
    if late > bound:
        return f"requests started late: P99 of the start delay is {late * 1000:.1f} ms, above {bound * 1000:.1f} ms"
    return None


def _growing_ttft(requests: Columns, since_s: float, until_s: float) -> str | None:
    known = ~np.isnan(requests["ttft"])
    scheduled, ttft = requests["scheduled"][known], requests["ttft"][known]
    edges = np.linspace(since_s, until_s, _BLOCKS + 1)
    block = np.clip(np.searchsorted(edges, scheduled, side="right") - 1, 0, _BLOCKS - 1)
    used = np.unique(block)
    medians = np.array([np.median(ttft[block == number]) for number in used])
    growth = _significant_growth((edges[used] + edges[used + 1]) / 2, medians)
    if growth is None or growth <= np.median(ttft):  # a straight line from b to 3b grows by its median
        return None
    return f"TTFT grew with the time: median {medians[0]:.3g} s in the first tenth, {medians[-1]:.3g} s in the last"


def _growing_queue(run: Columns, requests: Columns, since_s: float, until_s: float) -> str | None:
    filled = since_s + _usual_duration(requests)  # by then the requests in flight have reached their level
    if filled >= until_s:
        return None
    moments = np.linspace(filled, until_s, _BLOCKS)
    started = np.searchsorted(np.sort(run["scheduled"]), moments)
    in_flight = (started - np.searchsorted(np.sort(run["ended"]), moments)).astype(np.float64)
    growth = _significant_growth(moments, in_flight)
    mean = float(in_flight.mean())
    if growth is None or growth <= max(mean / 2, 3 * math.sqrt(mean)):  # the spread of a Poisson number is its root
        return None
    return f"requests in flight grew with the time: from {in_flight[0]:.0f} to {in_flight[-1]:.0f}"


def _shortfall(run: Columns, requests: Columns, since_s: float, until_s: float) -> str | None:
    later = _usual_duration(requests)
    answered = run.outcome("completed") | run.outcome("cancelled")
    done = int((answered & (run["ended"] >= since_s + later) & (run["ended"] < until_s + later)).sum())
    missing = len(requests) - done
    if missing <= max(_LARGEST_SHORTFALL * len(requests), 3 * math.sqrt(len(requests))):
        return None
    seconds = until_s - since_s
    return f"{done / seconds:.3g} requests/s completed of {len(requests) / seconds:.3g}/s offered"


def _usual_duration(requests: Columns) -> float:
    """End to end while the load was young: the median of the first fifth."""
    first = np.argsort(requests["scheduled"], kind="stable")[: max(1, len(requests) // 5)]
    return float(np.median(requests["end_to_end"][first]))


def _significant_growth(moments: Floats, values: Floats) -> float | None:
    """Growth of the fitted line over the moments when its slope passes the test; None when it does not."""
    freedom = len(values) - 2
    if len(values) < _FEWEST_BLOCKS:
        return None
    centred = moments - moments.mean()
    slope = float((centred * values).sum() / (centred**2).sum())
    residuals = values - values.mean() - slope * centred
    error = math.sqrt(float((residuals**2).sum()) / freedom / float((centred**2).sum()))
    return slope * float(moments[-1] - moments[0]) if slope > _T_99[freedom] * error else None
