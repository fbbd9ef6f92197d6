"""Shows what a profile predicts beside what `make bench` measured: python -m benchmarks.plan.check --results FILE.json

The same requests are simulated, at the same times, on both sides of the comparison; the settings are those of its page.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import program, results
from benchmarks.plan import check_page
from benchmarks.plan.check_page import TITLE, Compared
from benchmarks.plan.measured import Measured, pooled
from benchmarks.plan.options import APART
from benchmarks.serving.measured import ALL
from benchmarks.serving.plan import AGGREGATED, DISAGGREGATED
from benchmarks.serving.points import PROMPTS, STREAMS, Point, points
from benchmarks.serving.report.sections import as_markdown
from loadtest.figures.record import RequestRecord
from planner import profile
from planner.profile import Profile
from planner.simulation.deployment import Deployment
from planner.simulation.run import simulate
from planner.sizing.figures import records, summary_of
from planner.sizing.splits import Variant
from planner.trace import Arrival
from proxy.routing.dispatch import Policy
from proxy.routing.prefill_order import FACTORS, Order
from proxy.settings import ProxySettings
from stack.configuration.environment import ConfigError

_LOCAL, _ORDER = "PROXY_LOCAL_PROMPT_TOKENS", "PROXY_PREFILL_ORDER"


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


def main() -> int:
    given = _parser().parse_args()
    try:
        found = profile.read(given.profile, "--profile")
        found = found.apart if given.apart else found
        measured = Measured(pooled([json.loads(file.read_text()) for file in given.results]))
        found = found.model_copy(update={"first_token": given.first_token or found.first_token})
        variables = measured.document["plan"]["variables"]
        defaults = {name: ProxySettings.model_fields[name.lower()].default for name in (_LOCAL, _ORDER)}
        policy = Policy(int(variables.get(_LOCAL, defaults[_LOCAL])), "refuse")
        order: Order = given.order or variables.get(_ORDER, defaults[_ORDER])
        compared = list(compare(measured, found, policy, order))
    except (OSError, ValueError, KeyError, ConfigError) as error:
        what = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        told = " ".join(map(str, given.results))
        print(f"--results={told!r}: expected a comparison's .json: {what}", file=sys.stderr)
        return 2
    about = {**program.about("benchmarks.plan.check", TITLE), "results": ", ".join(file.name for file in given.results)}
    lead, sections = check_page.lead(compared), list(check_page.sections(compared, found, about))
    given.out.mkdir(parents=True, exist_ok=True)
    name = given.results[0].stem.replace("serving", "plan-check")
    name += f"-of-{len(given.results)}" if len(given.results) > 1 else ""
    results.replace(given.out / f"{name}.json", results.dump(check_page.document(compared, about)))
    results.replace(given.out / f"{name}.md", as_markdown(TITLE, lead, sections))
    print(f"{lead}\n\nresults: {given.out / f'{name}.md'}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plan.check", description=__doc__)
    add = parser.add_argument
    add("--profile", type=Path, default=Path("profile.json"), help="what `make profile` has measured")
    told = "the .json of a comparison that `make bench` has made; of several of the same requests the figures' medians"
    add("--results", type=Path, required=True, nargs="+", help=told)
    add("--apart", action="store_true", help=APART)
    add("--first-token", choices=("producer", "consumer"), help="whose was passed on in it; unset: the profile's")
    add("--order", choices=list(FACTORS), help="of prompts at producers in it; unset: as its variables have it")
    add("--out", type=Path, default=Path("docs/benchmarks"), help="folder of the page")
    return parser


if __name__ == "__main__":
    sys.exit(main())
