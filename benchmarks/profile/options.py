"""The command line of `python -m benchmarks.profile`."""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.option_types import count, positive
from planner.fit import FEWEST_REPEATS


@dataclass(frozen=True)
class Options:
    """Field `longest_s` is the option `--longest-s`; its help text says what it means."""

    out: Path
    measured: Path | None
    repeats: int
    longest_s: float
    time_limit: float
    steps_ahead: int | None
    gpus_per_instance: int
    seed: int
    commit: str


def parse(arguments: Sequence[str]) -> Options:
    """Exits with status 2 and one line for an option that cannot work."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    add = parser.add_argument
    add("--out", type=Path, default=Path("profile.json"), help="where the profile goes; its values lie beside it")
    add("--measured", type=Path, help="nothing is measured: the profile of these values, of an earlier one's")
    add("--repeats", type=_repeats, default=5, help=f"of each measurement, {FEWEST_REPEATS} or more")
    add("--longest-s", type=positive, default=20.0, help="prompts that would take longer in all are left out")
    add("--time-limit", type=positive, default=1800.0, help="seconds; a profile that is not done by then is none")
    add(
        "--steps-ahead",
        type=int,
        choices=(0, 1),
        help="steps that vLLM schedules ahead (--async-scheduling); unset: 1 on GPUs, 0 without",
    )
    add("--gpus-per-instance", type=count, default=1, help="tensor and pipeline parallelism of the running stack")
    told = "of the prompts; unset: others each time, because the stack has the last ones in its prefix caches"
    add("--seed", type=int, default=time.time_ns(), help=told)
    add("--commit", default="", help="of the code, where git cannot tell")
    return Options(**vars(parser.parse_args(arguments)))


def _repeats(text: str) -> int:
    number = count(text)
    if number < FEWEST_REPEATS:
        raise argparse.ArgumentTypeError(f"{text!r}: expected {FEWEST_REPEATS} or more")
    return number
