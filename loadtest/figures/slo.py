"""The service-level objective that goodput counts against, as DistServe (OSDI'24) defines goodput.

A request is good when it completed and every bound holds: TTFT, TPOT, and the mean of the worst 10 % of its gaps, which
is Mooncake's TBT (FAST'25): one long stall in an answer is hidden by TPOT, and is what a reader notices.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from loadtest.figures.record import RequestRecord


@dataclass(frozen=True, slots=True)
class Slo:
    """Bounds in seconds; None: not asked for. itl_s bounds the mean of a request's worst gaps."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    itl_s: float | None = None

    def met_by(self, record: RequestRecord) -> bool:
        """A value that a request has not, like the TPOT of a single token, breaks no bound."""
        # An answer whose first token ended it has no content: then the client knew at its end that nothing would come.
        ttft = record.end_to_end if record.ttft is None else record.ttft
        measured = ((ttft, self.ttft_s), (record.tpot, self.tpot_s), (worst_gaps(record.itl), self.itl_s))
        return record.outcome == "completed" and all(
            value is None or bound is None or value <= bound for value, bound in measured
        )

    def __str__(self) -> str:
        names = {"ttft_s": "TTFT", "tpot_s": "TPOT", "itl_s": "worst gaps"}
        bounds = [f"{names[name]} ≤ {bound:g} s" for name, bound in asdict(self).items() if bound is not None]
        return ", ".join(bounds) or "completed"


def worst_gaps(itl: Sequence[float]) -> float | None:
    """Mean of the longest 10 % of one request's gaps, at least of one gap; None without gaps."""
    if not itl:
        return None
    count = math.ceil(len(itl) / 10)
    return sum(sorted(itl)[-count:]) / count
