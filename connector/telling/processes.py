"""CPU time and memory of all processes of one vLLM server.

`process_*`, which every Prometheus client shows, is of the API server alone; on GPUs, and with several ranks, the
engine and its workers are its children. Read at each scrape.
"""

from collections.abc import Iterator

import psutil
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector


class Processes(Collector):
    """Of this process and all of its descendants that live now; pages that they share count once for each."""

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        own = psutil.Process()
        cpu_seconds, memory = 0.0, 0
        for process in (own, *own.children(recursive=True)):
            try:
                times, resident = process.cpu_times(), process.memory_info().rss
            except psutil.NoSuchProcess:  # ended meanwhile
                continue
            cpu_seconds += times.user + times.system
            memory += resident
        yield CounterMetricFamily("pd_instance_cpu_seconds", "CPU time of the server's processes", cpu_seconds)
        yield GaugeMetricFamily("pd_instance_resident_memory_bytes", "Memory of the server's processes", memory)


def show_processes(registry: CollectorRegistry) -> None:
    """Once a registry, however often it is asked for."""
    try:
        registry.register(Processes())
    except ValueError:  # its names are there
        return
