"""Loads of streams on one proxy, from several processes of stream_client.py, and what they have seen together."""

import json
import math
import os
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace

from benchmarks.deadline import Deadline
from benchmarks.errors import CannotStart
from benchmarks.proxy.clients.histogram import Histogram
from benchmarks.proxy.clients.stream_client import MARGIN_S, Job
from benchmarks.proxy.cpus import pinned
from stack.configuration.settings import REPOSITORY

START_LIMIT_S = 30.0
PROCESSES = 4  # more would not be busy
CONNECTIONS_FOR_A_PROCESS = 16


@dataclass(frozen=True)
class Load:
    """What came of one load; counts are over all of it, times and `events_per_s` after the warm-up."""

    requests: int
    events: int
    reads: int
    events_per_s: float
    errors: Counter[str]
    ttft: Histogram
    whole: Histogram
    gaps: Histogram
    delays: Histogram


def load(job: Job, cpus: Sequence[int], deadline: Deadline) -> Load:
    """Raises: OutOfTime; CannotStart: a process of the generator has failed."""
    with _started(job, cpus) as processes:
        return merged([_document(process, job, deadline) for process in processes])


@contextmanager
def held(job: Job, cpus: Sequence[int], errors: Counter[str]) -> Iterator[None]:
    """The job's streams are open in the body; what went wrong is added to `errors` at its end.

    Raises: CannotStart: they did not all open.
    """
    with _started(job, cpus) as processes:
        for process in processes:
            assert process.stdout is not None
            ready, _, _ = select.select([process.stdout], [], [], START_LIMIT_S)
            if not ready or process.stdout.readline() != "open\n":
                raise CannotStart(f"{job.connections} more streams have not all begun within {START_LIMIT_S:g} s")
        yield
        for process in processes:
            process.terminate()
        for process in processes:
            errors.update(_counts(_last_line(process.communicate()[0]), "errors"))


def merged(documents: Sequence[dict[str, object]]) -> Load:
    """Of what each process has printed."""

    def total(name: str) -> float:
        return sum(float(str(document[name])) for document in documents)

    def histogram(name: str) -> Histogram:
        return Histogram.merged(Histogram.of_json(_counts(document, name)) for document in documents)

    errors: Counter[str] = Counter()
    for document in documents:
        errors.update(_counts(document, "errors"))
    return Load(
        requests=int(total("requests")),
        events=int(total("events")),
        reads=int(total("reads")),
        events_per_s=total("events_per_s"),
        errors=errors,
        ttft=histogram("ttft"),
        whole=histogram("whole"),
        gaps=histogram("gaps"),
        delays=histogram("delays"),
    )


def shares(connections: int, processes: int) -> list[int]:
    """So many connections spread over at most so many processes, as evenly as can be."""
    used = min(processes, math.ceil(connections / CONNECTIONS_FOR_A_PROCESS))
    return [connections // used + (index < connections % used) for index in range(used)]


@contextmanager
def _started(job: Job, cpus: Sequence[int]) -> Iterator[list[subprocess.Popen[str]]]:
    with ExitStack() as stack:
        processes = []
        for share in shares(job.connections, min(PROCESSES, len(cpus))):
            part = json.dumps(asdict(replace(job, connections=share)))
            command = pinned(cpus, sys.executable, "-m", "benchmarks.proxy.clients.stream_client", part)
            process = stack.enter_context(
                subprocess.Popen(command, cwd=REPOSITORY, env=dict(os.environ), stdout=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            processes.append(process)
        yield processes


def _document(process: "subprocess.Popen[str]", job: Job, deadline: Deadline) -> dict[str, object]:
    limit = job.seconds + MARGIN_S + START_LIMIT_S
    try:
        output, _ = process.communicate(timeout=min(limit, deadline.left()))
    except subprocess.TimeoutExpired as error:
        deadline.left()
        raise CannotStart(f"the load generator did not end within {limit:g} s") from error
    if process.returncode:
        raise CannotStart(f"the load generator ended with status {process.returncode}")
    return _last_line(output)


def _last_line(output: str) -> dict[str, object]:
    """Raises: CannotStart: it is not whole."""
    try:
        document: dict[str, object] = json.loads(output.splitlines()[-1])
    except (IndexError, json.JSONDecodeError) as error:
        raise CannotStart(f"the load generator's result breaks off after {len(output)} characters") from error
    return document


def _counts(document: dict[str, object], name: str) -> dict[str, int]:
    found = document[name]
    assert isinstance(found, dict)
    return found
