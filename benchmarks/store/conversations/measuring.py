"""Goes through a plan: starts each side, sends it the load, asks what was found where, and ends it."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.store.conversations import counters, figures
from benchmarks.store.conversations.plan import STORE, Measurement, Plan
from benchmarks.store.programs import Store
from benchmarks.tables import Row, ms
from benchmarks.whole_stack import headless
from benchmarks.whole_stack.progress import Progress
from benchmarks.whole_stack.run_folders import RunFolders
from benchmarks.whole_stack.stack_side import Target
from benchmarks.whole_stack.workplace import Workplace
from stack.network import addresses

FIRST_REQUESTS_S = 15.0  # so that each of several instances is met
MARGIN = 1.5  # of what the next side may take, to what was seen


class Measuring:
    def __init__(self, plan: Plan, place: Workplace) -> None:
        self._plan, self._place = plan, place
        self._runs = RunFolders(place.folder)

    def measure(self, write: Callable[[], None]) -> None:
        """`write` is called after each measurement. Raises: CannotStart, OutOfTime."""
        measurements = self._plan.measurements()
        missing = [measurement for measurement in measurements if self._runs.run(measurement) is None]
        if kept := len(measurements) - len(missing):
            print(f"{kept} of {len(measurements)} were measured before and are kept (--fresh forgets them)")
        # How long chats take nobody knows beforehand: until one was seen their limit counts.
        progress, load_s = Progress(len(missing), len(missing), 0.0), self._plan.load.seconds
        for measurement in missing:
            self._place.leave_time(progress.start_s + load_s, "the next side")
            took_s = self._measure(measurement, progress)
            load_s = min(self._plan.load.seconds, max(took_s, progress.next_point_s()) * MARGIN)
            print(
                progress.measured(f"{measurement}: {_short(figures.rows(self._runs, self._plan, measurement))}", took_s)
            )
            write()

    def _measure(self, measurement: Measurement, progress: Progress) -> float:
        """Returns: how long it took beside the start, in seconds."""
        place = self._place
        variables = {
            **place.stack.variables(place.environment, place.users.compose_file),
            **self._plan.variables_of(measurement),
        }
        print(f"starting {measurement}", flush=True)
        began = time.monotonic()
        with place.stack.running(variables) as target:
            place.first_requests(target, self._plan.seed - 1, FIRST_REQUESTS_S)
            progress.started(time.monotonic() - began)
            began = time.monotonic()
            facts = self._send(measurement, target)
            if measurement.side == STORE:
                facts["store"] = self._store(variables).counted()
            took_s = time.monotonic() - began
            self._runs.mark(measurement, took_s, **facts)
        return took_s

    def _send(self, measurement: Measurement, target: Target) -> dict[str, Any]:
        before = counters.read(target)
        folder = self._runs.clear(measurement).resolve()
        load = self._plan.load
        headless.run(
            str(measurement),
            load.settings(folder),
            folder,
            target=target,
            seconds=load.seconds,
            seed=measurement.seed,
            environment=self._place.environment,
            processes=self._place.processes,
            options=load.options,
        )
        target.check()  # a server that died has spoiled it: the same command makes it again
        return counters.read(target).since(before)

    def _store(self, variables: dict[str, str]) -> Store:
        host, port = self._place.users.host_ip, int(variables["STORE_PORT"])
        return Store(addresses.join(host, port), f"{addresses.http_url(host, port + 1)}/metrics")


def _short(rows: Sequence[Row]) -> str:
    """The first tokens of one measurement, on one line."""
    return ", ".join(f"{row['requests']} TTFT P50 {ms(row['ttft_p50_s'])} ms" for row in rows)
