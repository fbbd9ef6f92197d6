"""The figures of a run, or of one stage of it, from its requests. No clock, no file: same records, same figures.

Which requests   those *scheduled* from `warmup_s` until `until_s`, the moment when no more load was offered. All
                 distributions, outcomes, errors, phases and goodput are of these, however late their answers came.
Rates            count over the same span of time: offered_per_s the requests scheduled in it, requests_per_s the
                 completed answers that ended in it and output_tokens_per_s the tokens that arrived in it, whenever
                 their requests were scheduled. In a steady state completed equals offered; a long last answer does not
                 dilute them, as it does where the whole duration is the divisor (`vllm bench serve`).
Goodput          requests that met the SLO, per second of the span (DistServe, OSDI'24), and their share of those that
                 could: requests that this client cancelled are not judged.
Percentiles      interpolate linearly between the two nearest values (numpy, like `vllm bench serve`).

TTFT and end to end count from the scheduled start, TPOT and ITL as `measurement.py` says. TTFT is of every request that
had content, end to end of the completed ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from loadtest.figures.columns import Columns, Floats
from loadtest.figures.record import RequestRecord
from loadtest.figures.slo import Slo

OUTCOMES = ("completed", "failed", "cut_off", "cancelled")
FIRST_TOKENS = ("producer", "consumer")
PERCENTILES = (50, 90, 95, 99)
_DIGITS = 6  # a microsecond; what a clock of the client can tell is coarser


class Distribution(BaseModel):
    """Of no value at all everything but the count is None."""

    model_config = ConfigDict(frozen=True)

    count: int = 0
    mean: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None


class Summary(BaseModel):
    """Durations in seconds, rates per second. A rate over a span of no length is None."""

    model_config = ConfigDict(frozen=True)

    from_s: float
    until_s: float
    requests: int
    outcomes: dict[str, int]
    errors: dict[str, int]

    offered_per_s: float | None
    requests_per_s: float | None
    output_tokens_per_s: float | None
    goodput_per_s: float | None
    goodput_share: float | None  # None: no request to judge

    ttft_s: Distribution
    itl_s: Distribution
    tpot_s: Distribution
    end_to_end_s: Distribution
    start_delay_s: Distribution
    worst_gaps_s: Distribution
    phases_s: dict[str, Distribution]
    second_token_s: dict[str, Distribution] = {}  # the gap to it, by who computed the first one

    paths: dict[str, int]
    first_tokens: dict[str, int] = {}  # of two legs, by who computed them: producer or consumer
    transports: dict[str, int]
    input_tokens: Distribution
    output_tokens: Distribution
    cached_share: float | None  # of the prompt tokens that the servers counted; None: they did not tell
    unexpected_lengths: dict[str, int]  # requests whose input or output had another number of tokens than was wanted

    saturation: str | None = None  # why the point is not one that lasts; see saturation.py
    generator_limit: str | None = None  # why the figures may be the generator's and not the server's


def summarize(
    records: Iterable[RequestRecord], slo: Slo, *, warmup_s: float = 0.0, until_s: float | None = None
) -> Summary:
    """Without `until_s` (a run that was killed) the load ends with the last request."""
    return summarize_columns(Columns.of(records, slo), warmup_s=warmup_s, until_s=until_s)


def summarize_columns(run: Columns, *, warmup_s: float, until_s: float | None) -> Summary:
    span = measured_span(run, warmup_s, until_s)
    requests = measured(run, *span)
    seconds = span[1] - span[0]
    judged = int(len(requests) - requests.outcome("cancelled").sum())
    good = int(requests.good.sum())
    ended_inside = run.outcome("completed") & _inside(run["ended"], *span)
    return Summary(
        from_s=round(span[0], _DIGITS),
        until_s=round(span[1], _DIGITS),
        requests=len(requests),
        outcomes={name: int(requests.outcome(name).sum()) for name in OUTCOMES},
        errors=_counts(requests.names["error"]),
        offered_per_s=_rate(len(requests), seconds),
        requests_per_s=_rate(int(ended_inside.sum()), seconds),
        output_tokens_per_s=_rate(_tokens_arrived(run, *span), seconds),
        goodput_per_s=_rate(good, seconds),
        goodput_share=round(good / judged, _DIGITS) if judged else None,
        ttft_s=distribution(requests["ttft"]),
        itl_s=distribution(requests.gaps),
        tpot_s=distribution(requests["tpot"]),
        end_to_end_s=distribution(requests["end_to_end"][requests.outcome("completed")]),
        start_delay_s=distribution(requests["start_delay"]),
        worst_gaps_s=distribution(requests.worst_gaps),
        phases_s={name: distribution(seconds) for name, seconds in requests.phases.items()},
        second_token_s=_second_tokens(requests),
        paths=_counts(requests.names["path"]),
        first_tokens=_counts(requests.names["first_token"]),
        transports=_counts(requests.names["transport"]),
        input_tokens=distribution(requests["prompt_tokens"]),
        output_tokens=distribution(requests["output_tokens"]),
        cached_share=_cached_share(requests),
        unexpected_lengths=_unexpected_lengths(requests),
    )


def measured_span(run: Columns, warmup_s: float, until_s: float | None) -> tuple[float, float]:
    """From the end of the warm-up to the end of the load, in seconds since the schedule's zero."""
    if until_s is None:
        until_s = float(np.nextafter(run["scheduled"].max(), np.inf)) if len(run) else warmup_s
    return warmup_s, max(until_s, warmup_s)


def measured(run: Columns, since_s: float, until_s: float) -> Columns:
    return run.where(_inside(run["scheduled"], since_s, until_s))


def distribution(values: NDArray[Any]) -> Distribution:
    """NaN: not known, not counted."""
    known = values[~np.isnan(values)]
    if not len(known):
        return Distribution()
    percentiles = np.percentile(known, PERCENTILES)
    named = {f"p{p}": round(float(value), _DIGITS) for p, value in zip(PERCENTILES, percentiles, strict=True)}
    return Distribution(
        count=len(known),
        mean=round(float(known.mean(dtype=np.float64)), _DIGITS),
        max=round(float(known.max()), _DIGITS),
        **named,
    )


def _inside(moments: Floats, since_s: float, until_s: float) -> NDArray[np.bool_]:
    return (moments >= since_s) & (moments < until_s)


def _rate(count: float, seconds: float) -> float | None:
    return round(count / seconds, _DIGITS) if seconds > 1e-9 else None


def _counts(names: NDArray[np.object_]) -> dict[str, int]:
    return dict(Counter(name for name in names.tolist() if name).most_common())


def _second_tokens(requests: Columns) -> dict[str, Distribution]:
    of = {who: distribution(requests["second_token"][requests.names["first_token"] == who]) for who in FIRST_TOKENS}
    return {who: gaps for who, gaps in of.items() if gaps.count}


def _tokens_arrived(run: Columns, since_s: float, until_s: float) -> float:
    pieces = run.token_arrivals()
    return sum(float(tokens[_inside(moments, since_s, until_s)].sum()) for moments, tokens in pieces)


def _cached_share(requests: Columns) -> float | None:
    told = ~np.isnan(requests["cached_tokens"]) & ~np.isnan(requests["prompt_tokens"])
    prompt_tokens = requests["prompt_tokens"][told].sum()
    return round(float(requests["cached_tokens"][told].sum() / prompt_tokens), _DIGITS) if prompt_tokens else None


def _unexpected_lengths(requests: Columns) -> dict[str, int]:
    completed = requests.where(requests.outcome("completed"))
    pairs = {"input": ("wanted_input_tokens", "prompt_tokens"), "output": ("wanted_output_tokens", "output_tokens")}
    return {
        name: int((np.abs(completed[wanted] - completed[counted]) > 0).sum())  # NaN is greater than nothing
        for name, (wanted, counted) in pairs.items()
    }
