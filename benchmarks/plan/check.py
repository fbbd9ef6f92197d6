"""Shows what a profile predicts beside what `make bench` measured: python -m benchmarks.plan.check --results FILE.json

The same requests are simulated, at the same times, on both sides of the comparison; the settings are those of its page.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import program, results
from benchmarks.plan import check_page
from benchmarks.plan.check_page import TITLE, Compared
from benchmarks.plan.options import APART
from benchmarks.serving import mixture
from benchmarks.serving.measured import ALL
from benchmarks.serving.plan import AGGREGATED, DISAGGREGATED
from benchmarks.serving.points import PROMPTS, STREAMS, Point, points
from benchmarks.serving.report.sections import as_markdown
from benchmarks.tables import Row
from loadtest.figures.record import RequestRecord
from loadtest.figures.slo import Slo
from loadtest.sending.arrivals import gamma_times
from planner import profile
from planner.profile import Profile
from planner.simulation.deployment import Deployment
from planner.simulation.run import simulate
from planner.sizing.figures import records, summary_of
from planner.sizing.splits import Split, Variant
from planner.trace import Arrival, arrival_of, prompt_of
from proxy.routing.dispatch import Policy
from proxy.routing.prefill_order import FACTORS, Order
from proxy.settings import ProxySettings
from stack.configuration.environment import ConfigError

_BOUNDS = re.compile(r"TTFT ≤ ([\d.]+) s, TPOT ≤ ([\d.]+) s, worst gaps ≤ ([\d.]+) s")
_LOCAL, _ORDER = "PROXY_LOCAL_PROMPT_TOKENS", "PROXY_PREFILL_ORDER"


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


def compare(measured: Measured, profile: Profile, policy: Policy, order: Order) -> Iterator[Compared]:
    """Every figure of both sides. The prediction has the measured runs' own warm-up."""
    plan = measured.document["plan"]
    for side in (DISAGGREGATED, AGGREGATED):
        split = measured.split(side)
        if split is None:
            continue
        deployment = replace(Variant(profile, policy).deployment(split), order_factor=FACTORS[order])
        by_point: dict[tuple[str, int], list[RequestRecord]] = {}
        for row in measured.rows(side):
            point, repeat = points(row["point"])[0], row["repeat"]
            key = (row["point"], repeat)
            if key not in by_point:
                by_point[key] = _simulated(measured.arrivals(point, repeat), deployment)
            some = [each for each in by_point[key] if row["requests"] in (ALL, _kind(each, point))]
            until_s = plan["warmup"] + plan["seconds"]
            yield Compared(row, summary_of(some, measured.slo, plan["warmup"], until_s))


def _simulated(arrivals: Sequence[Arrival], deployment: Deployment) -> list[RequestRecord]:
    return list(records(simulate(arrivals, deployment)))


def _kind(record: RequestRecord, point: Point) -> str:
    return PROMPTS if point.shape.prompts and record.prompt_tokens == point.shape.prompts.input else STREAMS


def _limited(arrival: Arrival) -> Arrival:
    return replace(arrival, output_limit=arrival.output_tokens)


def main() -> int:
    given = _parser().parse_args()
    try:
        found = profile.read(given.profile, "--profile")
        found = found.apart if given.apart else found
        measured = Measured(json.loads(given.results.read_text()))
        found = found.model_copy(update={"first_token": given.first_token or found.first_token})
        variables = measured.document["plan"]["variables"]
        defaults = {name: ProxySettings.model_fields[name.lower()].default for name in (_LOCAL, _ORDER)}
        policy = Policy(int(variables.get(_LOCAL, defaults[_LOCAL])), "refuse")
        order: Order = given.order or variables.get(_ORDER, defaults[_ORDER])
        compared = list(compare(measured, found, policy, order))
    except (OSError, ValueError, KeyError, ConfigError) as error:
        what = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        print(f"--results={str(given.results)!r}: expected a comparison's .json: {what}", file=sys.stderr)
        return 2
    about = {**program.about("benchmarks.plan.check", TITLE), "results": given.results.name}
    lead, sections = check_page.lead(compared), list(check_page.sections(compared, found, about))
    given.out.mkdir(parents=True, exist_ok=True)
    name = given.results.stem.replace("serving", "plan-check")
    results.replace(given.out / f"{name}.json", results.dump(check_page.document(compared, about)))
    results.replace(given.out / f"{name}.md", as_markdown(TITLE, lead, sections))
    print(f"{lead}\n\nresults: {given.out / f'{name}.md'}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plan.check", description=__doc__)
    add = parser.add_argument
    add("--profile", type=Path, default=Path("profile.json"), help="what `make profile` has measured")
    add("--results", type=Path, required=True, help="the .json of a comparison that `make bench` has made")
    add("--apart", action="store_true", help=APART)
    add("--first-token", choices=("producer", "consumer"), help="whose was passed on in it; unset: the profile's")
    add("--order", choices=list(FACTORS), help="of prompts at producers in it; unset: as its variables have it")
    add("--out", type=Path, default=Path("docs/benchmarks"), help="folder of the page")
    return parser


if __name__ == "__main__":
    sys.exit(main())
