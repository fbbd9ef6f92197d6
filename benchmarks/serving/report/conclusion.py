"""The paragraph at the top of the page: what a reader should do, from the ratios and nothing else.

A point speaks for disaggregation where more requests meet their SLO, or as many and running streams are steadier (ITL
P99) with no later first tokens (TTFT P50); against it where it is the other way round. A point where streams are
steadier and first tokens later, or the reverse, is an exchange, and the reader's to judge.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum

from benchmarks.serving.measured import ALL
from benchmarks.serving.plan import AGGREGATED, DISAGGREGATED
from benchmarks.serving.points import STREAMS, parse_shape
from benchmarks.serving.report.comparison import (
    FEWEST,
    FEWEST_FOR_P99,
    FIGURES,
    GOODPUT,
    ITL_P99,
    TTFT_P50,
    Comparison,
    Figure,
    Verdict,
)


class Stand(Enum):
    FOR = "for"
    AGAINST = "against"
    EXCHANGE = "exchange"
    EVEN = "even"


def stand(comparison: Comparison, streams: Comparison) -> Stand:
    """`streams`: the same point's running streams; of a point with one kind of requests the same comparison."""
    goodput, steadiness = comparison.verdict(GOODPUT), streams.verdict(ITL_P99)
    first_token = comparison.verdict(TTFT_P50)
    if goodput in ("wins", "loses"):
        return Stand.FOR if goodput == "wins" else Stand.AGAINST
    match steadiness, first_token:
        case ("wins", "loses") | ("loses", "wins"):
            return Stand.EXCHANGE
        case ("wins", _) | (_, "wins"):
            return Stand.FOR
        case ("loses", _) | (_, "loses"):
            return Stand.AGAINST
    return Stand.EVEN


def paragraph(comparisons: Sequence[Comparison]) -> str:
    """Of all comparisons of disaggregated with aggregated serving, those of the parts of mixtures among them."""
    whole = [comparison for comparison in comparisons if comparison.requests == ALL]
    streams = {comparison.point: comparison for comparison in comparisons if comparison.requests == STREAMS}
    counting = [comparison for comparison in whole if not comparison.left_out]
    if not counting:
        return " ".join(["Nothing can be concluded: no point counts, and the table says why.", *_capacity(whole)])
    stands: dict[Stand, list[Comparison]] = {kind: [] for kind in Stand}
    for comparison in counting:
        stands[stand(comparison, streams.get(comparison.point, comparison))].append(comparison)

    def listed(kind: Stand) -> str:
        return _by_shape(stands[kind], lambda some: _evidence(some, streams))

    sentences = []
    if stands[Stand.FOR]:
        sentences.append(f"**Disaggregate** for traffic like {listed(Stand.FOR)}.")
    if stands[Stand.AGAINST]:
        lead = "**Do not**" if stands[Stand.FOR] or stands[Stand.EXCHANGE] else "**Do not disaggregate here**"
        sentences.append(f"{lead} for {listed(Stand.AGAINST)}.")
    if stands[Stand.EXCHANGE]:
        lead = "It is an **exchange**, steadiness of running streams against the time to the first token,"
        sentences.append(f"{lead} for {listed(Stand.EXCHANGE)}.")
    if stands[Stand.EVEN]:
        only = len(stands[Stand.EVEN]) == len(counting)
        lead = "Nothing here speaks for or against disaggregation" if only else "No difference that counts"
        sentences.append(f"{lead}: {listed(Stand.EVEN)}.")
    return " ".join([*sentences, *_capacity(whole), *_scope(whole, counting)])


def _evidence(some: Sequence[Comparison], streams: Mapping[str, Comparison]) -> str:
    """The ratios that decided, as a range over the points."""
    parts = []
    for figure, of in (
        (GOODPUT, some),
        (ITL_P99, [streams.get(comparison.point, comparison) for comparison in some]),
        (TTFT_P50, some),
    ):
        found = [comparison.ratios[figure.name].median for comparison in of if figure.name in comparison.ratios]
        if found:
            parts.append(f"{_called(figure, of)} {times(min(found), max(found))}")
    return ", ".join(parts) or "no figure on both sides"


def _called(figure: Figure, of: Sequence[Comparison]) -> str:
    return f"{figure.name} of streams" if any(comparison.requests == STREAMS for comparison in of) else figure.name


def times(low: float, high: float) -> str:
    if f"{low:.2f}" == f"{high:.2f}":
        return f"{_number(low)} times"
    return f"{_number(low)} to {_number(high)} times"


def _number(ratio: float) -> str:
    return "∞" if ratio == math.inf else f"{ratio:.2f}"


def _capacity(whole: Sequence[Comparison]) -> list[str]:
    """One side at its limit where the other is not is no ratio, and yet what a reader must know."""
    sentences = []
    for side, other in ((DISAGGREGATED, AGGREGATED), (AGGREGATED, DISAGGREGATED)):
        if alone := [comparison for comparison in whole if comparison.saturated == (side,)]:
            sentences.append(f"Only the {side} side did not keep up ({other} did) for {_by_shape(alone)}.")
    if both := [comparison for comparison in whole if len(comparison.saturated) > 1]:
        sentences.append(f"Neither kept up for {_by_shape(both)}.")
    return sentences


def _scope(whole: Sequence[Comparison], counting: Sequence[Comparison]) -> list[str]:
    sentences = []
    if len(counting) < len(whole):
        sentences.append(f"{len(counting)} of {len(whole)} points count; the table says why the others do not.")
    few = _judged(counting, "few")
    for figures, fewest in (
        ([figure.name for figure in few if figure.is_p99], FEWEST_FOR_P99),
        ([figure.name for figure in few if not figure.is_p99], FEWEST),
    ):
        if figures:
            sentences.append(f"{_and(figures)}: not judged where fewer than {fewest} values are behind it.")
    if unclear := _judged(counting, "unclear"):
        sentences.append(f"The repeats disagree on {_and([figure.name for figure in unclear])} at some of the points.")
    return sentences


def _judged(comparisons: Sequence[Comparison], verdict: Verdict) -> list[Figure]:
    return [figure for figure in FIGURES if any(comparison.verdict(figure) == verdict for comparison in comparisons)]


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _by_shape(comparisons: Iterable[Comparison], evidence: Callable[[Sequence[Comparison]], str] | None = None) -> str:
    by_shape: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        by_shape.setdefault(comparison.point.partition("@")[0], []).append(comparison)
    described = []
    for shape, some in by_shape.items():
        rates = " and ".join(comparison.point.partition("@")[2] for comparison in some)
        words = f"{parse_shape(shape).describe()}, at {rates} requests/s"
        described.append(f"{words} ({evidence(some)})" if evidence else words)
    return "; ".join(described)
