"""How measured requests become rows of Locust's statistics table.

The row of the request itself (POST, its path) holds the end-to-end time and the failures; the rows TTFT, TPOT and ITL
hold their own values under the type `stream`. These three are written to their rows directly: as request events they
would also be counted as requests in `Aggregated`, in the failure ratio and in every chart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from loadtest.errors import RequestFailed
from loadtest.measurement import Measurement

if TYPE_CHECKING:  # importing locust replaces sockets and threads of the whole process by gevent's
    from locust.env import Environment

METRIC_TYPE = "stream"


def add_measurement(environment: Environment, path: str, measurement: Measurement) -> None:
    environment.events.request.fire(  # type: ignore[no-untyped-call]
        request_type="POST",
        name=path,
        response_time=measurement.end_to_end * 1000,
        response_length=measurement.received_bytes,
        exception=None,
    )
    _add_values(environment, "TTFT", [measurement.ttft])
    _add_values(environment, "TPOT", [measurement.tpot])
    _add_values(environment, "ITL", measurement.itl)


def add_failure(environment: Environment, method: str, path: str, elapsed: float, failure: RequestFailed) -> None:
    """`elapsed` is in seconds."""
    environment.events.request.fire(  # type: ignore[no-untyped-call]
        request_type=method, name=path, response_time=elapsed * 1000, response_length=0, exception=failure
    )


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
