"""A run over time, in memory and work that do not grow with the run's length.

A value belongs to the window in which the client saw it: a TTFT when the first content arrived, an ITL and the tokens
of a chunk when the chunk arrived, an outcome when the request ended, an offered request when it was scheduled. There
are at most `WINDOWS` windows; when a run outgrows them, neighbours are merged and the width doubles. Latencies are
counted in buckets and so within 1 %; the run's report is computed from its requests and is exact.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from loadtest.figures.columns import Columns, Floats
from loadtest.figures.record import RequestRecord
from loadtest.figures.slo import Slo
from loadtest.figures.summary import OUTCOMES
from loadtest.live import buckets

WINDOWS = 60  # even: they are merged in pairs
FIRST_WIDTH_S = 2.0
PERCENTILES = {"ttft": (50, 90, 99), "itl": (50, 99), "tpot": (50, 99), "start_delay": (50, 99)}
PHASES = ("queue", "prefill", "transfer", "first_step")  # as the proxy's Server-Timing names them
PATHS = ("disaggregated", "local")

# Rates that all requests tell that ended in a window; the others need those that began in it, which is known later.
_ENDED = (*OUTCOMES, "good")
_RATES = (*_ENDED, "offered", "output_tokens")
_COUNTS = (*_RATES, *PATHS, "started", "ended")
_TOTAL = WINDOWS  # the row after the windows: the whole run without its warm-up

Series = list[float | None]


class Timeline:
    """latest_s: the last end of a request; longest_s: the longest that one took."""

    def __init__(self, slo: Slo, warmup_s: float) -> None:
        self._slo = slo
        self._warmup_s = warmup_s
        self.width_s = FIRST_WIDTH_S
        self.latest_s = 0.0
        self.longest_s = 0.0
        self._latencies = {name: buckets.empty(WINDOWS + 1) for name in PERCENTILES}
        # Sums by name: counts, seconds of phases (and how many told them), and moments of `started` and `ended`.
        names = (*_COUNTS, *PHASES, *(f"{name}_told" for name in PHASES), "started_at", "ended_at")
        self._sums = {name: np.zeros(WINDOWS + 1) for name in names}

    def add(self, records: Sequence[RequestRecord]) -> None:
        """A few array operations on all values of all the records: many at once are cheaper than each by itself."""
        if not records:
            return
        run = Columns.of(records, self._slo)
        self.latest_s = max(self.latest_s, float(run["ended"].max()))
        self.longest_s = max(self.longest_s, float(run["end_to_end"].max()))
        self._make_room(self.latest_s)
        measured = run["scheduled"] >= self._warmup_s
        self._add_chunks(run, measured)
        for name, seen in (("ttft", "first_content"), ("tpot", "finished"), ("start_delay", "started")):
            self._add_latencies(name, run[name], run[seen], measured)
        for name, at, amounts in _amounts(run):
            self._add(name, at, amounts, measured)

    def windows(self, until_s: float, ends_known_s: float, starts_known_s: float) -> dict[str, Series]:
        """A value for each window until `until_s`; rates per second, times in seconds, None: not known.

        Args: ends_known_s: all requests that ended before are in the records; starts_known_s: all that were scheduled
        before are, which is earlier, because a record comes when its request has ended.
        """
        self._make_room(until_s)
        used = slice(math.floor(until_s / self.width_s) + 1)
        starts: Floats = np.arange(used.stop, dtype=np.float64) * self.width_s
        lengths: Floats = np.minimum(until_s - starts, self.width_s)
        lengths[lengths < self.width_s / 2] = math.nan  # a rate over a window that has hardly begun would be noise
        with_ends: Floats = np.where(starts + lengths <= ends_known_s, lengths, math.nan)
        with_starts: Floats = np.where(starts + lengths <= starts_known_s, lengths, math.nan)
        series: dict[str, Floats] = {"middle_s": starts + np.minimum(until_s - starts, self.width_s) / 2}
        for name in _RATES:
            series[f"{name}_per_s"] = self._sums[name][used] / (with_ends if name in _ENDED else with_starts)
        series["running"] = self._running(starts, with_starts)
        disaggregated, local = (self._sums[path][used] for path in PATHS)
        series["disaggregated_share"] = _ratio(disaggregated, disaggregated + local)
        for name in PHASES:
            series[f"{name}_mean_s"] = _ratio(self._sums[name][used], self._sums[f"{name}_told"][used])
        return _plain(series | self._percentiles(used))

    def totals(self, until_s: float) -> dict[str, float | None]:
        """The run so far without its warm-up: counts, rates per second, percentiles in seconds."""
        row = slice(_TOTAL, None)
        seconds = np.array([until_s - self._warmup_s])
        values = {name: self._sums[name][row] for name in _COUNTS}
        values |= {f"{name}_per_s": _ratio(values[name], seconds) for name in _RATES}
        values["good_share"] = _ratio(values["good"], values["ended"] - values["cancelled"])
        return {name: value for name, (value,) in _plain(values | self._percentiles(row)).items()}

    def _add(self, name: str, moments: Floats, amounts: NDArray[np.generic], measured: NDArray[np.bool_]) -> None:
        np.add.at(self._sums[name], self._rows(moments), amounts)
        self._sums[name][_TOTAL] += amounts[measured].sum()

    def _add_latencies(self, name: str, seconds: Floats, moments: Floats, measured: NDArray[np.bool_]) -> None:
        known = ~(np.isnan(seconds) | np.isnan(moments))
        bucket = buckets.bucket_of(seconds[known])
        np.add.at(self._latencies[name], (self._rows(moments[known]), bucket), 1)
        np.add.at(self._latencies[name][_TOTAL], bucket[measured[known]], 1)

    def _add_chunks(self, run: Columns, measured: NDArray[np.bool_]) -> None:
        """A chunk may hold several tokens: those of an answer are spread over its chunks; unknown: one a chunk."""
        of_gap = np.repeat(np.arange(len(run)), run.gap_counts)
        sums = np.cumsum(run.gaps, dtype=np.float64)
        before = np.concatenate(([0.0], sums))[np.cumsum(run.gap_counts) - run.gap_counts]
        arrivals = (run["first_content"] - before)[of_gap] + sums
        self._add_latencies("itl", run.gaps.astype(np.float64), arrivals, measured[of_gap])
        with_content = np.flatnonzero(~np.isnan(run["first_content"]))
        tokens = np.where(np.isnan(run["output_tokens"]), 1.0, run["output_tokens"] / (run.gap_counts + 1))
        for requests, moments in ((with_content, run["first_content"][with_content]), (of_gap, arrivals)):
            self._add("output_tokens", moments, tokens[requests], measured[requests])

    def _percentiles(self, rows: slice) -> dict[str, Floats]:
        return {
            f"{name}_p{percentile}_s": values
            for name, wanted in PERCENTILES.items()
            for percentile, values in buckets.percentiles(self._latencies[name][rows], wanted).items()
        }

    def _running(self, starts: Floats, lengths: Floats) -> Floats:
        """Mean number of requests that run in a window: those from before, and of its own each one's part of it."""
        used = slice(len(starts))
        change = self._sums["started"][used] - self._sums["ended"][used]
        own = change * (starts + lengths) - (self._sums["started_at"][used] - self._sums["ended_at"][used])
        mean: Floats = np.cumsum(change) - change + own / lengths
        return mean

    def _rows(self, moments: Floats) -> NDArray[np.int64]:
        return np.clip(moments / self.width_s, 0, WINDOWS - 1).astype(np.int64)

    def _make_room(self, moment: float) -> None:
        while moment >= WINDOWS * self.width_s:
            self.width_s *= 2
            for rows in (*self._latencies.values(), *self._sums.values()):
                rows[: WINDOWS // 2] = rows[:WINDOWS:2] + rows[1:WINDOWS:2]
                rows[WINDOWS // 2 : WINDOWS] = 0


def _amounts(run: Columns) -> Iterator[tuple[str, Floats, NDArray[np.generic]]]:
    """What the requests add to each sum, and when."""
    one = np.ones(len(run))
    yield "offered", run["scheduled"], one
    for moment in ("started", "ended"):
        yield moment, run[moment], one
        yield f"{moment}_at", run[moment], run[moment]
    yield "good", run["ended"], run.good
    for outcome in OUTCOMES:
        yield outcome, run["ended"], run.outcome(outcome)
    for path in PATHS:
        yield path, run["ended"], run.names["path"] == path
    for name in run.phases.keys() & set(PHASES):
        told = ~np.isnan(run.phases[name])
        yield name, run["ended"], np.where(told, run.phases[name], 0.0)
        yield f"{name}_told", run["ended"], told


def _ratio(parts: Floats, wholes: Floats) -> Floats:
    ratio: Floats = np.divide(parts, wholes, out=np.full(len(parts), math.nan), where=wholes > 0)
    return ratio


def _plain(series: dict[str, Floats]) -> dict[str, Series]:
    return {
        name: [None if math.isnan(value) else float(f"{value:.5g}") for value in values.tolist()]
        for name, values in series.items()
    }
