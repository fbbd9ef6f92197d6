"""How far measured times are from what happened: a load test's records beside what the scripted server wrote down.

The server's own lateness (an event written later than it was due) happened, and a client should see it; what is left is
the client's error. TTFT counts here from when the request was really sent: a late start is `start_delay`, a figure of
its own. It still holds the request's way to the server, and the server's reading of it, about 0.1 ms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from benchmarks.loadtest.scripted_server import Sent
from benchmarks.tables import Row
from loadtest.figures.record import RequestRecord

NS = 1e-9


@dataclass
class Errors:
    """In seconds, measured minus real, one value a stream or a gap; `lateness` is the server's, one value an event."""

    ttft: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    worst_gap_of_stream: list[float] = field(default_factory=list)
    tpot: list[float] = field(default_factory=list)
    lateness: list[float] = field(default_factory=list)
    start_delay: list[float] = field(default_factory=list)
    unmatched: int = 0  # streams of which one side has another number of events than the other

    def row(self) -> Row:
        return {
            "streams": len(self.ttft),
            "gaps": len(self.gaps),
            "unmatched": self.unmatched,
            "ttft_error_s": spread(self.ttft),
            "gap_error_s": spread(self.gaps),
            "worst_gap_error_s": spread(self.worst_gap_of_stream),
            "tpot_error_s": spread(self.tpot),
            "server_late_s": spread(self.lateness),
            "start_delay_s": spread(self.start_delay),
        }


def compare(records: Sequence[RequestRecord], sent: Mapping[str, Sent]) -> Errors:
    """`records`: of completed requests."""
    found = Errors()
    for record in records:
        stream = sent.get(record.request_id or "")
        if stream is None or record.first_content is None or len(record.itl) + 1 != len(stream.written):
            found.unmatched += 1
            continue
        written = [moment * NS for moment in stream.written]
        errors = [itl - (later - sooner) for itl, (sooner, later) in zip(record.itl, pairwise(written), strict=True)]
        found.ttft.append(record.first_content - record.started - (stream.written[0] - stream.received) * NS)
        found.gaps += errors
        found.lateness += [(at - due) * NS for at, due in zip(stream.written, stream.due, strict=True)]
        found.start_delay.append(record.start_delay)
        if errors:
            found.worst_gap_of_stream.append(max(map(abs, errors)))
            found.tpot.append(sum(errors) / len(errors))
    return found


def spread(values: ArrayLike) -> Row:
    """Of the absolute values; of none at all, nothing."""
    size = np.abs(np.asarray(values, dtype=np.float64))
    if not size.size:
        return {}
    p50, p99 = np.percentile(size, (50, 99))
    return {"p50": float(p50), "p99": float(p99), "max": float(size.max())}
