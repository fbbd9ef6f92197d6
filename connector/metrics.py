"""What the connector measures, on its way from the workers to vLLM's `/metrics`.

vLLM collects each worker's `StepStats` at every step, sums them over ranks and hands the sum to `TransferMetrics` in
the API server, where the Prometheus metrics live.
"""

from collections import Counter as Counts
from typing import Any

from prometheus_client import Counter, Histogram
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats
from vllm.v1.metrics.utils import create_metric_per_engine

COUNTERS = {
    "sent_bytes": "KV cache bytes written to consumers",
    "sent_pieces": "Contiguous writes they took",
    "write_seconds": "Seconds spent in those writes",
    "early_bytes": "Bytes of delivered transfers that moved before the prefill had ended",
    "delivered_transfers": "Transfers delivered whole to a consumer",
    "received_bytes": "KV cache bytes received from producers",
    "received_tokens": "Prompt tokens whose KV came from a producer, rounded up to whole blocks",
    "received_transfers": "Transfers received whole from a producer",
}
EXPOSED_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class StepStats(KVConnectorStats):
    """One step's counts; `data` is {"counts": {...}, "failures": {cause: n}, "exposed": [seconds, ...]}."""

    data: dict[str, Any]

    def reset(self) -> None:
        self.data = {"counts": {}, "failures": {}, "exposed": []}

    def is_empty(self) -> bool:
        return not any(self.data.values())

    def aggregate(self, other: KVConnectorStats) -> KVConnectorStats:
        for part in ("counts", "failures"):
            total = Counts(self.data[part])
            total.update(other.data[part])
            self.data[part] = dict(total)
        self.data["exposed"] = [*self.data["exposed"], *other.data["exposed"]]
        return self

    def reduce(self) -> dict[str, int | float]:
        """For vLLM's periodic log line."""
        failed = {f"failed ({cause})": n for cause, n in self.data["failures"].items()}
        return {**self.data["counts"], **failed}


class TransferMetrics(KVConnectorPromMetrics):
    """`pd_kv_*` in Prometheus, beside vLLM's own metrics and with their labels."""

    def __init__(self, vllm_config: Any, metric_types: Any, labelnames: list[str], engines: Any) -> None:
        super().__init__(vllm_config, metric_types, labelnames, engines)
        self._counters = {
            name: create_metric_per_engine(
                metric_types[Counter](name=f"pd_kv_{name}", documentation=text, labelnames=labelnames), engines
            )
            for name, text in COUNTERS.items()
        }
        self._exposed = create_metric_per_engine(
            metric_types[Histogram](
                name="pd_kv_exposed_seconds",
                documentation="Seconds from the end of the prefill to the last byte at the consumer",
                buckets=EXPOSED_BUCKETS,
                labelnames=labelnames,
            ),
            engines,
        )
        self._failures = metric_types[Counter](
            name="pd_kv_failed_transfers",
            documentation="Transfers that ended without delivery, by cause",
            labelnames=[*labelnames, "cause"],
        )

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        for name, value in transfer_stats_data["counts"].items():
            self._counters[name][engine_idx].inc(value)
        for seconds in transfer_stats_data["exposed"]:
            self._exposed[engine_idx].observe(seconds)
        for cause, count in transfer_stats_data["failures"].items():
            self._failures.labels(*self.per_engine_labelvalues[engine_idx], cause).inc(count)
