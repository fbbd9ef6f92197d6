"""What one comparison measures and in which order; and the fingerprint by which an interrupted one is found again.

Each side is started once a repeat and measures all points. Every other repeat has the sides in the opposite order, so
that a machine that gets slower or faster meanwhile does not count for one of them only.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.serving.points import Point
from benchmarks.whole_stack import resuming

DISAGGREGATED, AGGREGATED, AGAIN = "disaggregated", "aggregated", "disaggregated again"
UPSTREAM = "upstream connector"  # vLLM's own
BASELINE_OVERLAY = "compose.baseline.yaml"
# Sides of `--versus`, in the order of the first repeat. "same" is a control: how far apart are two equal things here?
SIDES = {
    "aggregated": (DISAGGREGATED, AGGREGATED),
    "same": (DISAGGREGATED, AGAIN),
    "both": (DISAGGREGATED, AGGREGATED, AGAIN),
    "upstream": (DISAGGREGATED, AGGREGATED, UPSTREAM),
}
EVERY_SIDE = (DISAGGREGATED, AGGREGATED, UPSTREAM, AGAIN)
MIXTURE = "benchmarks/serving/mixture.py"  # what a run depends on beside the stack and the load test


@dataclass(frozen=True)
class Slo:
    """Bounds of goodput, in seconds; itl: for the mean of the worst 10 % of a request's gaps."""

    ttft: float
    tpot: float
    itl: float

    def __str__(self) -> str:
        return f"TTFT ≤ {self.ttft:g} s, TPOT ≤ {self.tpot:g} s, worst gaps ≤ {self.itl:g} s"


@dataclass(frozen=True)
class Measurement:
    """One headless run of the load test. `seed` is the same for all sides, so that they get the same requests."""

    repeat: int
    side: str
    point: Point
    seed: int

    @property
    def folder(self) -> str:
        return f"{self.repeat}-{self.side.replace(' ', '-')}/{self.point.folder}"


@dataclass(frozen=True)
class Plan:
    """`seconds` are measured, after `warmup` that are not. `variables`: what the user set of the stack's."""

    points: tuple[Point, ...]
    sides: tuple[str, ...]
    repeats: int
    seconds: float
    warmup: float
    seed: int
    slo: Slo
    variables: Mapping[str, str]

    def starts(self) -> Iterator[tuple[int, str, tuple[Measurement, ...]]]:
        """Repeat, side, and what is measured between one start of that side and its end."""
        for repeat in range(self.repeats):
            for side in self.sides if repeat % 2 == 0 else reversed(self.sides):
                measurements = tuple(
                    Measurement(repeat, side, point, self.seed + repeat * len(self.points) + number)
                    for number, point in enumerate(self.points)
                )
                yield repeat, side, measurements

    def measurements(self) -> list[Measurement]:
        return [measurement for _, _, some in self.starts() for measurement in some]

    def document(self) -> dict[str, Any]:
        return {"sides": list(self.sides), "repeats": self.repeats, **self.conditions()}

    def conditions(self) -> dict[str, Any]:
        return {
            "points": [str(point) for point in self.points],
            "seconds": self.seconds,
            "warmup": self.warmup,
            "seed": self.seed,
            "slo": str(self.slo),
            "variables": dict(sorted(self.variables.items())),
        }

    def fingerprint(self, code: str) -> str:
        """Of all that a measurement depends on, apart from the machine; sides and repeats may be added later."""
        return resuming.fingerprint(self.conditions(), code)


def compose_file(side: str, base: str) -> str:
    """COMPOSE_FILE of a side; `base`: the user's own, which may name an overlay for GPUs."""
    return f"{base}:{BASELINE_OVERLAY}" if side in (AGGREGATED, UPSTREAM) else base
