"""What the newest requests say of the load, in words, while it goes on: by the same rules as the report.

The work is bounded by their number, and other greenlets run in between.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import gevent

from loadtest.figures import saturation
from loadtest.figures.columns import Columns
from loadtest.figures.record import RequestRecord
from loadtest.figures.slo import Slo
from loadtest.figures.summary import Summary, measured

NEWEST = 1000  # requests
_BETWEEN_PAUSES = 20  # requests, about 1 ms


def of_newest(
    newest: Sequence[RequestRecord],
    since_s: float,
    steady_since_s: float,
    starts_known_s: float,
    cpu_share: float | None,
) -> list[str]:
    """Args: newest: the requests that ended last, the oldest first; since_s: load before is not looked at;
    steady_since_s: nor can it be more than the servers can do; starts_known_s: of the requests that were scheduled
    before, none is under way."""
    if len(newest) == NEWEST:
        since_s = max(since_s, newest[0].ended)  # of those that were scheduled before, some are not among the newest
    if not newest or since_s >= starts_known_s:
        return []
    run = Columns.of(_without_gaps(newest), Slo())
    return _in_words(
        saturation.saturation(run, max(since_s, steady_since_s), starts_known_s),
        saturation.generator_limit(measured(run, since_s, starts_known_s), cpu_share),
    )


def of_report(summary: Summary) -> list[str]:
    return _in_words(summary.saturation, summary.generator_limit)


def _in_words(saturated: str | None, generator_limit: str | None) -> list[str]:
    return [
        *([f"The load is more than the servers can do: {saturated}."] if saturated else []),
        *([f"The figures may be the load generator's own: {generator_limit}."] if generator_limit else []),
    ]


def _without_gaps(records: Sequence[RequestRecord]) -> Iterator[RequestRecord]:
    for position, record in enumerate(records):
        if position % _BETWEEN_PAUSES == 0:
            gevent.sleep(0)
        yield replace(record, itl=())
