"""What every comparison of whole stacks has: a plan's folder, programs that it started, ports, and a limit of time."""

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from benchmarks.errors import OutOfTime
from benchmarks.option_types import count, positive
from benchmarks.ports import free_ports
from benchmarks.processes import Processes
from benchmarks.whole_stack import headless
from benchmarks.whole_stack.stack_side import StackSide, Target
from stack.configuration.settings import REPOSITORY, StackSettings


class Options(Protocol):
    """Those of `add_options` that a workplace needs."""

    @property
    def stack_python(self) -> Path: ...
    @property
    def work(self) -> Path: ...
    @property
    def time_limit(self) -> float: ...


def add_options(parser: argparse.ArgumentParser, time_limit_s: float) -> None:
    """`--repeats`, `--seed`, `--fresh`, `--stack-python`, `--commit`, `--work` and `--time-limit`."""
    add = parser.add_argument
    add("--repeats", type=count, default=1, help="so often every side measures all of it, in alternating order")
    add("--seed", type=int, default=0, help="of prompts and arrivals, which are the same for all sides")
    add("--fresh", action="store_true", help="forget what an interrupted or earlier run of the same plan has measured")
    add(
        "--stack-python",
        type=Path,
        default=REPOSITORY / ".stack/venv/tools/bin/python",
        help="interpreter that runs `python -m stack`",
    )
    add("--commit", default="", help="of the code, where git cannot tell")
    add("--work", type=Path, default=REPOSITORY / ".stack/bench", help="folder of the measurements, to resume from")
    add(
        "--time-limit",
        type=positive,
        default=time_limit_s,
        help="seconds; nothing is begun that would pass it, and the same command goes on later",
    )


class Workplace:
    """`folder`: the plan's. `environment`: of what is started, without settings of the user's own load tests."""

    def __init__(self, options: Options, users: StackSettings, folder: Path, processes: Processes) -> None:
        self.users, self.folder, self.processes = users, folder, processes
        self.ports: Iterator[int] = free_ports()
        # Its path holds a Unix socket and must be short: not in the plan's folder.
        state = options.work.resolve() / "stack"
        self.stack = StackSide(users, options.stack_python.absolute(), state, self.ports, processes)
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("LOADTEST_")}
        self._limit_s, self._ends_at = options.time_limit, time.monotonic() + options.time_limit

    def leave_time(self, needed_s: float, what: str) -> None:
        """Raises: OutOfTime: `what`, which comes next, would not end within the limit."""
        if time.monotonic() + needed_s > self._ends_at:
            raise OutOfTime(f"the time limit of {self._limit_s:g} s leaves no room for {what}")

    def first_requests(self, target: Target, seed: int, seconds: float = headless.FIRST_REQUESTS_S) -> None:
        """What is made at a first request is made."""
        headless.first_requests(
            self.folder / "first-requests",
            target=target,
            seed=seed,
            environment=self.environment,
            processes=self.processes,
            seconds=seconds,
        )


@contextmanager
def workplace(options: Options, users: StackSettings, folder: Path) -> Iterator[Workplace]:
    """All that was started there ends with it."""
    with Processes(folder / "logs") as processes:
        yield Workplace(options, users, folder, processes)
