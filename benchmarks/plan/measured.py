"""What comparisons have measured: which requests were sent to which instances, and what came out."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from benchmarks.plan.check_page import TARGETS
from benchmarks.serving import mixture
from benchmarks.serving.points import Point, points
from benchmarks.tables import Row, groups
from loadtest.figures.slo import Slo
from loadtest.sending.arrivals import gamma_times
from planner.sizing.splits import Split
from planner.trace import Arrival, arrival_of, prompt_of

_BOUNDS = re.compile(r"TTFT ≤ ([\d.]+) s, TPOT ≤ ([\d.]+) s, worst gaps ≤ ([\d.]+) s")
_REQUESTS = ("points", "seed", "seconds", "warmup")  # of a plan: what the requests follow from


@dataclass(frozen=True)
class Measured:
    """A comparison's document: what was sent to which instances, and what came out."""

    document: dict[str, Any]

    @property
    def points(self) -> list[Point]:
        return [points(text)[0] for text in self.document["plan"]["points"]]

    @property
    def slo(self) -> Slo:
        """Raises: ValueError: the document tells none."""
        found = _BOUNDS.search(self.document["plan"]["slo"])
        if found is None:
            raise ValueError(f"slo={self.document['plan']['slo']!r}: expected three bounds")
        return Slo(*map(float, found.groups()))

    def split(self, side: str) -> Split | None:
        """Its instances, as its page counts them; None: it has no such side."""
        for part in str(self.document["conditions"]["instances"]).split("; "):
            name, _, told = part.partition(": ")
            if name == side:
                counts = {role: int(number) for number, role in (each.split(" ") for each in told.split(", "))}
                return Split(counts.get("prefill", 0), counts.get("decode", 0), counts.get("aggregated", 0))
        return None

    def rows(self, side: str) -> list[Row]:
        return [row for row in self.document["measurements"] if row["side"] == side]

    def arrivals(self, point: Point, repeat: int) -> list[Arrival]:
        """Those of that run: they follow from its seed."""
        plan, every = self.document["plan"], self.points
        seed = plan["seed"] + repeat * len(every) + every.index(point)
        seconds = plan["warmup"] + plan["seconds"]
        if point.shape.prompts:
            lines = mixture.trace(point, seconds, seed).splitlines()
            return [_limited(arrival_of(json.loads(line))) for line in lines]
        tokens, answer, found = point.shape.streams.input, point.shape.streams.output, []
        for number, unit in enumerate(gamma_times(1.0, seed)):
            at_s = unit / point.rate
            if at_s >= seconds:
                break
            blocks = range(1000 * number, 1000 * number + -(-tokens // 512))
            found.append(Arrival(at_s, prompt_of(tokens, blocks), answer, answer))
        return found


def pooled(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of comparisons of the same requests, of which some may have had a bad hour: the first, with their medians.

    Of how many values a figure is, is the fewest. Raises: ValueError: the requests are not the same.
    """
    first, *others = documents
    for other in others:
        for name in _REQUESTS:
            if other["plan"][name] != first["plan"][name]:
                raise ValueError(f"{name}: {other['plan'][name]} in one, {first['plan'][name]} in another comparison")
        if other["conditions"]["instances"] != first["conditions"]["instances"]:
            raise ValueError("not of the same instances")
    rows = [row for document in documents for row in document["measurements"]]
    by_run = groups(rows, "side", "point", "requests", "repeat").values()
    return {**first, "measurements": [_pooled(run) for run in by_run if len(run) == len(documents)]}


def _pooled(rows: Sequence[Row]) -> Row:
    found = dict(rows[0])
    for figure in TARGETS:
        values = [row[figure] for row in rows if row[figure] is not None]
        found[figure] = median(values) if values else None
    return found | {name: min(row[name] for row in rows) for name in found if name.endswith("_n")}


def _limited(arrival: Arrival) -> Arrival:
    return replace(arrival, output_limit=arrival.output_tokens)
