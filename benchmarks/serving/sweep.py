"""Goes through a plan: starts each side, measures what is not measured yet, says how far it is."""

import time
from collections.abc import Callable, Iterator

from benchmarks.serving import generator
from benchmarks.serving.measured import MeasuredRuns
from benchmarks.serving.options import Options
from benchmarks.serving.plan import UPSTREAM, Measurement, Plan, compose_file
from benchmarks.serving.report.command_lines import options as options_of
from benchmarks.serving.report.document import add_servers
from benchmarks.serving.upstream_side import UpstreamSide
from benchmarks.tables import Row, ms
from benchmarks.whole_stack.progress import Progress, minutes
from benchmarks.whole_stack.stack_side import Target, vllm_commands
from benchmarks.whole_stack.workplace import Workplace

NEXT = "the next point"


class Sweep:
    def __init__(self, options: Options, plan: Plan, place: Workplace) -> None:
        self._plan, self._place = plan, place
        self._runs = MeasuredRuns(place.folder)
        self._upstream = UpstreamSide(place.stack, options.vllm_router, place.ports, place.processes)

    def measure(self, write: Callable[[], None]) -> None:
        """`write` is called after each point. Raises: CannotStart, OutOfTime."""
        starts = [(side, missing) for side, missing in self._starts() if missing]
        left = sum(len(missing) for _, missing in starts)
        done = len(self._plan.measurements()) - left
        if done:
            print(f"{done} of {done + left} points were measured before and are kept (--fresh forgets them)")
        self._progress = Progress(left, len(starts), self._plan.warmup + self._plan.seconds)
        if left:
            print(f"{left} points to measure, about {minutes(self._progress.remaining_s())} min", flush=True)
        for side, missing in starts:
            self._start(side, missing, write)

    def _starts(self) -> Iterator[tuple[str, list[Measurement]]]:
        for _, side, measurements in self._plan.starts():
            yield side, [measurement for measurement in measurements if self._runs.run(measurement) is None]

    def _start(self, side: str, measurements: list[Measurement], write: Callable[[], None]) -> None:
        stack, place = self._place.stack, self._place
        place.leave_time(self._progress.start_s + self._progress.next_point_s(), NEXT)
        variables = stack.variables(place.environment, compose_file(side, place.users.compose_file))
        print(f"starting the {side} side", flush=True)
        began, began_unix = time.monotonic(), time.time()
        with (self._upstream if side == UPSTREAM else stack).running(variables) as target:
            commands = vllm_commands(stack.instance_ports(variables), began_unix)
            add_servers(place.folder, side, [options_of(command) for command in commands])
            place.first_requests(target, self._plan.seed - 1)
            self._progress.started(time.monotonic() - began)
            for measurement in measurements:
                place.leave_time(self._progress.next_point_s(), NEXT)
                self._point(measurement, target)
                write()

    def _point(self, measurement: Measurement, target: Target) -> None:
        began = time.monotonic()
        folder = self._runs.clear(measurement)
        generator.run(
            measurement.point,
            folder.resolve(),
            target=target,
            seconds=self._plan.seconds,
            warmup=self._plan.warmup,
            seed=measurement.seed,
            slo=self._plan.slo,
            environment=self._place.environment,
            processes=self._place.processes,
        )
        target.check()  # a server that died has spoiled the point: the same command makes it again
        took_s = time.monotonic() - began
        self._runs.mark(measurement, took_s)
        what = f"{measurement.side}, {measurement.point}: {_short(self._runs.rows(measurement)[0])}"
        print(self._progress.measured(what, took_s), flush=True)


def _short(row: Row) -> str:
    """A point's figures on one line."""
    parts = [f"TTFT P50 {ms(row['ttft_p50_s'])} ms", f"ITL P99 {ms(row['itl_p99_s'])} ms"]
    if row["goodput_share"] is not None:
        parts.append(f"goodput {row['goodput_share']:.0%} of {row['ttft_n']}")
    return ", ".join([*parts, *(["saturated"] if row["saturation"] else [])])
