"""Gauges that are read at a scrape, for a proxy of several workers, of which a scrape reaches one.

Each worker writes what it knows once a second to where the one that is asked finds it (prometheus_client's files of
PROMETHEUS_MULTIPROC_DIR). What has been sent adds up; of waits the longest counts; of what instances say, the newest.
"""

import asyncio
from collections.abc import Iterable
from typing import Literal

from prometheus_client import Gauge
from prometheus_client.core import GaugeMetricFamily

from proxy.telemetry.autoscaling import AutoscalingCollector

PERIOD_S = 1.0
MODES: dict[str, Literal["livesum", "livemax", "livemostrecent"]] = {
    "pd_proxy_prefill_tokens_waiting": "livesum",
    "pd_proxy_prefill_wait_seconds": "livemax",
    "pd_proxy_running_streams": "livesum",
    "pd_proxy_kv_cache_usage_ratio": "livemostrecent",
}


class WorkerGauges:
    """Writes from its making to its `close`."""

    def __init__(self, collector: AutoscalingCollector) -> None:
        self._collector = collector
        self._gauges: dict[str, Gauge] = {}
        self._written: dict[str, set[tuple[str, ...]]] = {}
        self._timer = asyncio.get_running_loop().call_soon(self._write_own)

    def close(self) -> None:
        self._timer.cancel()

    def write(self) -> None:
        """All, for a scrape that has reached this worker."""
        self._write(self._collector.collect())

    def _write_own(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(PERIOD_S, self._write_own)
        self._write(self._collector.own())

    def _write(self, families: Iterable[GaugeMetricFamily]) -> None:
        for family in families:
            gauge = self._gauges.get(family.name)
            if gauge is None:
                gauge = self._gauges[family.name] = Gauge(
                    family.name,
                    family.documentation,
                    ("role", "model"),
                    registry=None,
                    multiprocess_mode=MODES[family.name],
                )
            now = {(each.labels["role"], each.labels["model"]): each.value for each in family.samples}
            # A file does not forget: a role or model that is gone, or not known any more, is 0.
            for labels in self._written.get(family.name, set()) - now.keys():
                gauge.labels(*labels).set(0)
            for labels, value in now.items():
                gauge.labels(*labels).set(value)
            self._written[family.name] = set(now)
