"""What is measured of the store, on its way to vLLM's `/metrics`: vLLM's own `vllm:mooncake_store_*`, and `pd_store_*`.

vLLM's numbers are records by the operation that they are of. Ours are rows beside them, as in `telling/measured.py`.
"""

from typing import Any

from prometheus_client import Counter, Gauge
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorStats
from vllm.distributed.kv_transfer.kv_connector.v1.mooncake.store.metrics import (
    MooncakeStoreConnectorStats,
    MooncakeStorePromMetrics,
)

from connector.store.stats import BREAKERS, LOADS, LOOKUPS
from connector.telling.measured import joined, summed

COUNTERS = {
    "lookups": ("Prompts by what asking the KV store for them gave: hit, miss, late, or left: not asked", ("result",)),
    "loads": ("Loads of prompts from the KV store: loaded, failed, late", ("result",)),
    "loaded_tokens": ("Prompt tokens that were loaded from the KV store", ()),
    "saves_left_out": ("Saves that were not begun: too many blocks wait for others, or the KV store fails", ()),
}
GAUGES = {"breaker_open": ("1: the KV store is left alone after failures in a row", ("breaker",))}
OURS = ("counted", "observed", "gauges")


class StoreStepStats(MooncakeStoreConnectorStats):
    """One step's, or those of several ranks and steps."""

    data: dict[str, Any]

    def is_empty(self) -> bool:
        return not any(self.data.values())

    def aggregate(self, other: KVConnectorStats) -> KVConnectorStats:
        self.data = joined(self.data, other.data)
        return self

    def reduce(self) -> dict[str, int | float]:
        of_vllm: dict[str, int | float] = MooncakeStoreConnectorStats(data=_operations(self.data)).reduce()
        return of_vllm | summed(self.data.get("counted", ())) | summed(self.data.get("gauges", ()))


class StoreMetrics(MooncakeStorePromMetrics):
    """In Prometheus, beside vLLM's own metrics and with their labels."""

    def __init__(self, vllm_config: Any, metric_types: Any, labelnames: list[str], engines: Any) -> None:
        super().__init__(vllm_config, metric_types, labelnames, engines)
        self._families = {
            name: metric_types[Counter](name=f"pd_store_{name}", documentation=text, labelnames=[*labelnames, *own])
            for name, (text, own) in COUNTERS.items()
        }
        for name, (text, own) in GAUGES.items():
            self._families[name] = metric_types[Gauge](
                name=f"pd_store_{name}",
                documentation=text,
                labelnames=[*labelnames, *own],
                multiprocess_mode="mostrecent",
            )
        for engine in engines:
            self._start_at_zero(engine)

    def _start_at_zero(self, engine: int) -> None:
        """Prometheus' `increase` does not see the first value of a series that was not there before."""
        for name, results in (("lookups", LOOKUPS), ("loads", LOADS), ("breaker_open", BREAKERS)):
            for result in results:
                self._of(engine, name, result)
        for name in ("loaded_tokens", "saves_left_out"):
            self._of(engine, name)

    def _of(self, engine: int, name: str, *own_labels: str) -> Any:
        return self._families[name].labels(*self.per_engine_labelvalues[engine], *own_labels)

    def observe(self, transfer_stats_data: dict[str, Any] | None, engine_idx: int = 0) -> None:
        data = transfer_stats_data or {}
        super().observe(_operations(data), engine_idx)
        for name, *labels, number in data.get("counted", ()):
            self._of(engine_idx, name, *labels).inc(number)
        for name, *labels, number in data.get("gauges", ()):
            self._of(engine_idx, name, *labels).set(number)


def _operations(data: dict[str, Any]) -> dict[str, Any]:
    return {name: records for name, records in data.items() if name not in OURS}
