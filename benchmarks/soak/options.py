"""What a soak can be told on its command line."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.option_types import counts

UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0}
FIRST_STAGES_SHARE = 0.2  # of the duration, for each number of users but the last
WARM_UP_SHARE = 1 / 3  # of the last number of users' time
LONGEST_WARM_UP_S = 600.0
DRAIN_S = 120  # for the last answers of many users on a slow machine


@dataclass(frozen=True)
class Options:
    duration_s: float
    users: tuple[int, ...]
    input_tokens: str
    output_tokens: str
    seed: int
    interval_s: float
    hang_after_s: float
    settle_s: float
    out: Path | None

    @property
    def stages(self) -> list[tuple[float, int]]:
        """(seconds, users), in turn."""
        *first, last = self.users
        share = self.duration_s * FIRST_STAGES_SHARE
        return [*((share, users) for users in first), (self.duration_s - share * len(first), last)]

    @property
    def judged_from_s(self) -> float:
        """Memory counts from here on: the last stage, when it has warmed up."""
        last = self.stages[-1][0]
        return self.duration_s - last + min(WARM_UP_SHARE * last, LONGEST_WARM_UP_S)

    @property
    def load_arguments(self) -> list[str]:
        stages = ",".join(f"{seconds:g}:{users}" for seconds, users in self.stages)
        load = ["--arrivals", "closed", "--stages", stages, "--workload", "random", "--seed", str(self.seed)]
        load += ["--input-tokens", self.input_tokens, "--output-tokens", self.output_tokens]
        return [*load, "--stop-timeout", f"{DRAIN_S:g}"]


def parse(arguments: Sequence[str]) -> Options:
    """Exits with status 2 and one line for an option that cannot work."""
    parser = _parser()
    options = Options(**vars(parser.parse_args(arguments)))
    if (len(options.users) - 1) * FIRST_STAGES_SHARE >= 1:
        parser.error(f"--users={options.users}: expected at most {int(1 / FIRST_STAGES_SHARE)} numbers")
    return options


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if found is None or not float(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r}: expected e.g. 90s, 15m or 4h")
    return float(found[1]) * UNITS_S[found[2]]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    add = parser.add_argument
    add("--duration", dest="duration_s", type=_seconds, default=900.0, help="e.g. 90s, 15m (the default) or 4h")
    add("--users", type=counts, default=(10, 100), help="at once; each but the last for a fifth of the duration")
    add("--input-tokens", default="128", help="as the load test takes it; by default each prompt is split")
    add("--output-tokens", default="24", help="as the load test takes it")
    add("--seed", type=int, default=0)
    add("--interval", dest="interval_s", type=_seconds, default=5.0, help="between samples")
    add("--hang-after", dest="hang_after_s", type=_seconds, default=60.0, help="so long no answer at all is a hang")
    add("--settle", dest="settle_s", type=_seconds, default=90.0, help="so long blocks may take to be given back")
    add("--out", type=Path, help="folder of the report; by default .stack/runs/soak-<date>")
    return parser
