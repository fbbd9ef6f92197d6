"""Times in steps of 10 µs and how often each came: small enough to be sent and merged, exact enough for percentiles."""

from collections import Counter
from collections.abc import Iterable, Mapping

STEP_US = 10


class Histogram:
    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self.counts = Counter(counts or {})

    @classmethod
    def merged(cls, parts: Iterable["Histogram"]) -> "Histogram":
        whole = cls()
        for part in parts:
            whole.counts.update(part.counts)
        return whole

    @classmethod
    def of_json(cls, document: Mapping[str, int]) -> "Histogram":
        """JSON has no numbers as keys."""
        return cls({int(step): number for step, number in document.items()})

    def add_us(self, time_us: float) -> None:
        self.counts[int(time_us // STEP_US)] += 1

    def percentile_ms(self, percent: float) -> float | None:
        """The smallest time that `percent` of all do not exceed, to the middle of its step; None of none."""
        wanted = percent / 100 * self.counts.total()
        seen = 0
        for step in sorted(self.counts):
            seen += self.counts[step]
            if seen >= wanted:
                return (step + 0.5) * STEP_US / 1000
        return None
