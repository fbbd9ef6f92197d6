"""CPU time and memory of a server and of the processes that it has started."""

import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
from prometheus_client import CollectorRegistry

from connector.telling.processes import show_processes

MEMORY = "pd_instance_resident_memory_bytes"
LARGE = 64 << 20
CHILD = f"held = b'x' * {LARGE}; print(); input()"


@pytest.fixture
def child() -> Iterator[psutil.Process]:
    """A process of ours with some memory, as an engine is of an API server."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield psutil.Process(process.pid)
        process.communicate("\n")


def test_what_was_started_counts_too(child: psutil.Process) -> None:
    registry = CollectorRegistry()
    show_processes(registry)
    show_processes(registry)
    found = registry.get_sample_value(MEMORY)
    assert found is not None
    assert found >= child.memory_info().rss >= LARGE
    theirs = child.cpu_times()
    seconds = registry.get_sample_value("pd_instance_cpu_seconds_total")
    assert seconds is not None
    assert seconds >= theirs.user + theirs.system
