"""What is planned: the command line of `python -m benchmarks.plan`."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.option_types import count, positive
from benchmarks.plan import traffic
from benchmarks.serving.options import PROFILES
from loadtest.figures.slo import Slo
from planner import profile
from planner.sizing.capacity import Case, Effort, Objective
from planner.sizing.splits import Variant
from planner.sizing.workload import Workload
from proxy.routing.dispatch import Policy
from proxy.settings import ProxySettings
from stack.configuration.environment import ConfigError
from stack.configuration.settings import REPOSITORY

LOCAL_PROMPT_TOKENS = "PROXY_LOCAL_PROMPT_TOKENS"
APART = "instances share no GPU and no cores, where the profile's two did: none slows another one"


@dataclass(frozen=True)
class Options:
    """price: of a GPU and hour, None: no costs are told. instances: that the GPUs are enough for."""

    case: Case
    gpus: int
    instances: int
    price: float | None
    changes: bool
    results: Path


def parse(arguments: Sequence[str]) -> Options:
    """Exits with status 2 and one line for an option that cannot work."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        found = profile.read(given.profile, "--profile")
        found = found.apart if given.apart else found
        workload = _workload(given)
    except (ConfigError, ValueError) as error:
        parser.error(str(error).splitlines()[0])
    if given.transport and given.transport not in found.transfers:
        parser.error(f"--transport={given.transport!r}: expected one of {', '.join(found.transfers)}, as profiled")
    instances = given.gpus // found.gpus_per_instance
    if instances < 1:
        parser.error(f"--gpus={given.gpus}: expected at least {found.gpus_per_instance}, which one instance needs")
    defaults = PROFILES["gpu" if "GPU" in found.conditions else "cpu"].slo
    slo = Slo(given.slo_ttft or defaults.ttft, given.slo_tpot or defaults.tpot, given.slo_itl or defaults.itl)
    policy = Policy(given.local_prompt_tokens, "refuse")
    effort = Effort(requests=given.requests, seconds=given.seconds, seed=given.seed)
    case = Case(workload, Variant(found, policy, given.transport), Objective(slo, given.attainment), effort)
    return Options(case, given.gpus, instances, given.price, given.changes, given.results)


def _workload(given: argparse.Namespace) -> Workload:
    if given.point:
        return traffic.of_point(given.point)
    found = traffic.of_trace(given.trace) if given.trace else traffic.of_requests(given.requests_file)
    return found


def _share(text: str) -> float:
    number = positive(text)
    if number > 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a share, above 0 and at most 1")
    return number


def _tokens(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of tokens, 0 or more")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plan", description=__doc__)
    add = parser.add_argument
    local = os.environ.get(LOCAL_PROMPT_TOKENS) or str(ProxySettings.model_fields["proxy_local_prompt_tokens"].default)
    add("--profile", type=Path, default=Path("profile.json"), help="what `make profile` has measured")
    add("--apart", action="store_true", help=APART)
    add("--gpus", type=count, required=True, help="how many there are; without GPUs: how many instances")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--point", help="e.g. 64/400+8000/16:0.3@6: INPUT/OUTPUT tokens at requests a second")
    what.add_argument("--trace", type=Path, help="a file in Mooncake's format")
    what.add_argument("--requests-file", type=Path, help="a load test's requests.jsonl; its prompts share no prefix")
    add("--slo-ttft", type=positive, help="seconds; goodput counts the requests that keep all three")
    add("--slo-tpot", type=positive, help="seconds")
    add("--slo-itl", type=positive, help="seconds, for the mean of the worst 10 %% of a request's gaps")
    add("--attainment", type=_share, default=0.9, help="share of the requests that have to keep them")
    add("--price", type=positive, help="of a GPU and hour, for the cost of a million tokens")
    add("--transport", help="one of the profile's; unset: its first")
    add(
        "--local-prompt-tokens",
        type=_tokens,
        default=_tokens(local),
        help=f"the proxy's {LOCAL_PROMPT_TOKENS}; unset: that of the environment, else the proxy's own",
    )
    add("--requests", type=count, default=1000, help="of one simulation, at least")
    add("--seconds", type=positive, default=60.0, help="of one simulation, at least, where requests come faster")
    add("--seed", type=int, default=1, help="of made-up arrivals")
    add(
        "--no-changes",
        dest="changes",
        action="store_false",
        help="leave out what would change the answer: a third of the time",
    )
    add("--results", type=Path, default=REPOSITORY / ".stack/plan", help="folder of the page and the settings")
    return parser
