"""How requests become rows of Locust's statistics table.

The row of the request itself (POST, its path) holds the end-to-end time and the failures; the rows TTFT, TPOT, ITL,
start delay and cancelled hold their own values under the type `stream`. These are written to their rows directly: as
request events they would also be counted as requests in `Aggregated`, in the failure ratio and in every chart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from loadtest.sending.exchange import Exchange

if TYPE_CHECKING:  # importing locust replaces sockets and threads of the whole process by gevent's
    from locust.env import Environment

METRIC_TYPE = "stream"


def add(environment: Environment, done: Exchange) -> None:
    record = done.record
    _add_values(environment, "start delay", [record.start_delay])
    if record.outcome == "cancelled":
        _add_values(environment, "cancelled", [record.end_to_end])
        return
    environment.events.request.fire(
        request_type="POST",
        name=record.endpoint,
        response_time=record.end_to_end * 1000,
        response_length=done.received_bytes,
        exception=done.failure,
    )
    if record.outcome == "completed":
        _add_values(environment, "TTFT", [record.ttft])
        _add_values(environment, "TPOT", [record.tpot])
        _add_values(environment, "ITL", record.itl)


def three_digits(response_time: float) -> float:
    """Bucket of a time in ms, for `locust.stats.bucket_response_time`: three significant digits, at least 0.01 ms.

    Locust's own buckets are whole milliseconds with two digits, too coarse for the ITL of a GPU.
    """
    if response_time < 1:
        return round(response_time, 2)
    return round(response_time, 2 - math.floor(math.log10(response_time)))


def _add_values(environment: Environment, name: str, seconds: Sequence[float | None]) -> None:
    for value in seconds:
        if value is not None:
            row = environment.stats.get(name, METRIC_TYPE)
            row.log(value * 1000, 0)  # type: ignore[arg-type]  # annotated int, but Locust itself passes floats
