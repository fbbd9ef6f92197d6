"""Where the CPU time of our proxy goes: samples that py-spy takes under load, by package and by function."""

import re
import subprocess
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from benchmarks.errors import CannotStart
from benchmarks.proxy import stage
from benchmarks.proxy.clients import streams, wrk
from benchmarks.proxy.clients.stream_client import Job
from benchmarks.proxy.run import Run
from benchmarks.proxy.stage import Target
from benchmarks.proxy.upstreams.instant_upstream import TOKENS
from benchmarks.proxy.upstreams.upstream import Upstream

SAMPLES_PER_S = 400
TOP = 25
MARGIN_S = 4.0
THREAD = "_bootstrap (threading.py"
LINE = re.compile(r":\d+\)$")
FRAME = re.compile(r"(?P<function>.+) \((?P<file>[^()]+)\)$")


def measure(run: Run) -> None:
    """Adds the table `profile`: for each load the shares of packages and functions. Raises: CannotStart, OutOfTime."""
    options, cpus = run.options, run.layout.load
    seconds = options.profile_seconds + MARGIN_S
    script = wrk.write_script(run.scratch, options.prompt_bytes, TOKENS)
    with ExitStack() as stack:
        target = _started(stack, run, stage.instant(run))
        pool = stack.enter_context(ThreadPoolExecutor())
        load = pool.submit(wrk.run, options.wrk, script, target.port, options.connections[0], seconds, cpus)
        _add(run, f"{options.connections[0]} requests at once, answered at once", target)
        load.result()
    with ExitStack() as stack:
        target = _started(stack, run, stage.paced(run))
        pool = stack.enter_context(ThreadPoolExecutor())
        number, interval_us = options.streams[-1], round(options.interval_ms * 1000)
        job = Job(target.port, number, seconds, 0, 1.0, options.tokens, interval_us, options.prompt_bytes)
        streamed = pool.submit(streams.load, job, cpus, run.deadline)
        _add(run, f"{number} streams with an event every {options.interval_ms:g} ms", target)
        streamed.result()


def shares(stacks: Iterable[str]) -> tuple[dict[str, float], dict[str, float]]:
    """By package, and by function, of the innermost frames. Args: stacks: `outer;…;inner samples`, a line each.

    Of the main thread, which does all the work: py-spy takes others for busy that only wait.
    """
    packages: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for line in stacks:
        frames, _, samples = line.strip().rpartition(" ")
        if THREAD in frames:
            continue
        inner = LINE.sub(")", frames.split(";")[-1])
        functions[inner] += int(samples)
        packages[_package(inner)] += int(samples)
    return _shares(packages), _shares(functions)


def _shares(samples: Counter[str]) -> dict[str, float]:
    return {name: number / samples.total() for name, number in samples.most_common(TOP)}


def _package(frame: str) -> str:
    found = FRAME.match(frame)
    file = found["file"] if found else frame
    return file.partition("/")[0].removesuffix(".py")


def _started(stack: ExitStack, run: Run, upstream: AbstractContextManager[Upstream]) -> Target:
    ours = [peer for peer in run.peers if peer.name == "ours"]
    _, target = stack.enter_context(stage.running(run, stack.enter_context(upstream), ours))
    return target


def _add(run: Run, load: str, target: Target) -> None:
    assert target.tree is not None
    packages, functions = shares(_samples(run, target.tree.pid))
    for kind, found in (("package", packages), ("function", functions)):
        for name, share in found.items():
            run.results.add("profile", load=load, kind=kind, name=name, share=share)
    run.results.write()
    print(f"profile: {load} done", flush=True)


def _samples(run: Run, pid: int) -> list[str]:
    file = Path(run.scratch) / "samples.txt"
    command = [run.options.py_spy, "record", "--pid", str(pid), "--rate", str(SAMPLES_PER_S), "--format", "raw"]
    command += ["--duration", str(round(run.options.profile_seconds)), "--output", str(file)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise CannotStart(f"py-spy ended with status {result.returncode}: {result.stderr.strip()}")
    return file.read_text().splitlines()
