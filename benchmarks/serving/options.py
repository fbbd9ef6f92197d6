"""What one comparison measures, and where its results go: the command line of `python -m benchmarks.serving`."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.option_types import positive
from benchmarks.serving.plan import SIDES, UPSTREAM, Plan, Slo
from benchmarks.serving.points import Point, points
from benchmarks.whole_stack import workplace

# A long prompt and its answer must fit; vLLM refuses a longer one.
CONTEXT = "MAX_MODEL_LEN"
DEFAULT_CONTEXT = 4096


@dataclass(frozen=True)
class Profile:
    """What suits a machine. `variables` of the stack yield to the user's own."""

    points: tuple[str, ...]
    seconds: float
    warmup: float
    slo: Slo
    variables: tuple[tuple[str, str], ...] = ()


# Two cores with the embedded model: 30 requests or more at every point, and one rate that a pair bears easily.
_CPU_SLO = Slo(ttft=5.0, tpot=0.25, itl=0.5)
PROFILES = {
    "quick": Profile(("128/32@0.8", "64/64+1000/8:0.15@0.6"), 40.0, 5.0, _CPU_SLO),
    "cpu": Profile(("128/64@0.5,1", "512/64@0.5,1", "64/96+1500/8:0.15@0.5,1"), 75.0, 10.0, _CPU_SLO),
    # A prompt of 8,000 stops an aggregated server's streams, which have some 160 gaps a second, for about 0.2 s. At 1.5
    # a second on each of two servers that is more than one gap in a hundred, which a P99 sees; at the lower rate less.
    "gpu": Profile(
        ("2000/200@4,8", "64/400+8000/16:0.3@6,10"),
        60.0,
        10.0,
        Slo(ttft=2.0, tpot=0.03, itl=0.1),
        ((CONTEXT, "16384"),),
    ),
}


@dataclass(frozen=True)
class Options:
    """Field `model_tokenizer` is the option `--model-tokenizer`; its help text says what it means."""

    profile: str
    points: tuple[Point, ...]
    versus: str
    repeats: int
    seconds: float
    warmup: float
    seed: int
    slo: Slo
    qwen_shaped: Path | None
    fresh: bool
    stack_python: Path
    vllm_router: Path
    commit: str
    results: Path
    work: Path
    time_limit: float

    @property
    def sides(self) -> tuple[str, ...]:
        return SIDES[self.versus]

    @property
    def variables(self) -> dict[str, str]:
        """Of the stack, where the user has set none."""
        return {name: value for name, value in PROFILES[self.profile].variables if not os.environ.get(name)}

    def plan(self, variables: dict[str, str]) -> Plan:
        """`variables`: of the stack, as far as anybody has set them."""
        return Plan(self.points, self.sides, self.repeats, self.seconds, self.warmup, self.seed, self.slo, variables)


def parse(arguments: Sequence[str]) -> Options:
    """Exits with status 2 and one line for an option that cannot work."""
    parser = _parser()
    given = vars(parser.parse_args(arguments))
    on_gpus = "compose.gpu.yaml" in os.environ.get("COMPOSE_FILE", "")
    given["profile"] = given["profile"] or ("gpu" if on_gpus else "cpu")
    profile = PROFILES[given["profile"]]
    try:
        swept = [point for text in given.pop("points") or profile.points for point in points(text)]
    except ValueError as error:
        parser.error(f"--points: {error}")
    bounds = {name: given.pop(f"slo_{name}") or getattr(profile.slo, name) for name in ("ttft", "tpot", "itl")}
    for name in ("seconds", "warmup"):
        given[name] = getattr(profile, name) if given[name] is None else given[name]
    options = Options(points=tuple(dict.fromkeys(swept)), slo=Slo(**bounds), **given)
    if UPSTREAM in options.sides and not options.vllm_router.is_file():
        parser.error(f"--vllm-router={str(options.vllm_router)!r}: expected the program, for --versus {options.versus}")
    variables = {**options.variables, **os.environ}
    given_context = variables.get(CONTEXT) or str(DEFAULT_CONTEXT)
    if not given_context.isdecimal():
        parser.error(f"{CONTEXT}={given_context!r}: expected a number of tokens, e.g. {DEFAULT_CONTEXT}")
    context = int(given_context)
    for point in options.points:
        if point.shape.longest > context:
            parser.error(f"--points: {point}: {point.shape.longest} tokens, expected at most {CONTEXT}={context}")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    add = parser.add_argument
    add(
        "--profile",
        choices=list(PROFILES),
        default="",
        help="points, durations and SLO; cpu, and gpu where COMPOSE_FILE names compose.gpu.yaml",
    )
    add("--quick", dest="profile", action="store_const", const="quick", help="two points, about 5 minutes on two cores")
    add(
        "--points", nargs="+", help="e.g. 512/128@0.2,0.4 64/200+8000/8:0.1@2: INPUT/OUTPUT tokens at requests a second"
    )
    add(
        "--versus",
        choices=list(SIDES),
        default="aggregated",
        help="same: a second run of the same stack, which shows how far apart equal things are; both: and aggregated; "
        "upstream: aggregated, and vLLM's own connector behind vllm-router",
    )
    add("--vllm-router", type=Path, default=Path(), metavar="PROGRAM", help="of the package vllm-router, for upstream")
    add("--seconds", type=positive, help="measured at one point")
    add("--warmup", type=positive, help="seconds before them that are not measured")
    add("--slo-ttft", type=positive, help="seconds; goodput counts the requests that keep all three")
    add("--slo-tpot", type=positive, help="seconds")
    add("--slo-itl", type=positive, help="seconds, for the mean of the worst 10 %% of a request's gaps")
    add(
        "--qwen-shaped",
        type=Path,
        metavar="TOKENIZER",
        help="serve the shape of Qwen2.5-7B with weights that vLLM makes up, and the tokenizer of this model's folder",
    )
    add("--results", type=Path, default=Path("docs/benchmarks"), help="folder of the results")
    workplace.add_options(parser, time_limit_s=float(24 * 3600))
    return parser
