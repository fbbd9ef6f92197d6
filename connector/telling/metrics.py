"""What the connector measures, on its way to vLLM's `/metrics`.

vLLM collects each rank's `StepStats` and the scheduler's at every step, aggregates them and hands the sum to
`TransferMetrics` in an API server, where the Prometheus metrics live. Rows are those of `Measured.take`.
"""

from typing import Any

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats

from connector.telling.measured import joined, summed
from connector.telling.processes import show_processes

TRANSPORT = ("transport",)
COUNTERS = {
    "sent_bytes": ("KV cache bytes written to consumers", TRANSPORT),
    "sent_pieces": ("Contiguous pieces they were written in", TRANSPORT),
    "write_seconds": ("Seconds that writes took, from the call to the last byte; writes may overlap", TRANSPORT),
    "early_bytes": ("Bytes of delivered shares that moved before the prefill had ended", TRANSPORT),
    "delivered_shares": ("Shares of transfers delivered whole to a consumer's rank", TRANSPORT),
    "registrations": ("Registrations of consumers' ranks: accepted, or why they were refused", ("outcome",)),
    "received_bytes": ("KV cache bytes received from producers", TRANSPORT),
    "received_tokens": ("Prompt tokens whose KV came from a producer, rounded up to whole blocks", TRANSPORT),
    "received_shares": ("Shares of transfers received whole from a producer's rank", TRANSPORT),
    "first_tokens": ("First tokens of transferred prompts, by whom, and why by the consumer", ("by", "cause")),
    "revocations": ("Times that this rank took its memory back from peers, by a new engine", TRANSPORT),
    "failed_shares": ("Transfers of which this rank's part did not arrive whole", ("cause", "transport")),
}
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
BYTES_PER_SECOND = (1e6, 3e6, 1e7, 3e7, 1e8, 3e8, 1e9, 3e9, 1e10, 3e10, 1e11, 3e11, 1e12)
RATIO = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
HISTOGRAMS = {
    "transfer_seconds": ("Seconds from a share's first write to its last byte at the consumer", SECONDS),
    "transfer_bytes_per_second": ("Bytes of a share over its transfer_seconds", BYTES_PER_SECOND),
    "exposed_seconds": ("Seconds from the end of the prefill to a share's last byte at the consumer", SECONDS),
    "early_ratio": ("Part of a share's bytes that moved before the prefill had ended", RATIO),
}
GAUGES = {
    "blocks_held": "Blocks kept only for transfers: of ended prefills, or allocated and awaiting their KV",
    "oldest_hold_timestamp_seconds": "When the oldest of them began to be kept, in Unix seconds; 0 without any",
    "free_blocks": "Free blocks of the KV cache, cached ones without a user among them",
}


class StepStats(KVConnectorStats):
    """One step's rows, or those of several ranks and steps: in the order they were measured, gauges too."""

    data: dict[str, Any]

    def reset(self) -> None:
        self.data = {"counted": [], "observed": [], "gauges": []}

    def is_empty(self) -> bool:
        return not any(self.data.values())

    def aggregate(self, other: KVConnectorStats) -> KVConnectorStats:
        self.data = joined(self.data, other.data)
        return self

    def reduce(self) -> dict[str, int | float]:
        return summed(self.data["counted"]) | summed(self.data["gauges"])


class TransferMetrics(KVConnectorPromMetrics):
    """`pd_kv_*` in Prometheus, beside vLLM's own metrics and with their labels."""

    def __init__(self, vllm_config: Any, metric_types: Any, labelnames: list[str], engines: Any) -> None:
        super().__init__(vllm_config, metric_types, labelnames, engines)
        self._families = {
            name: metric_types[Counter](name=f"pd_kv_{name}", documentation=text, labelnames=[*labelnames, *own_labels])
            for name, (text, own_labels) in COUNTERS.items()
        }
        for name, (text, buckets) in HISTOGRAMS.items():
            self._families[name] = metric_types[Histogram](
                name=f"pd_kv_{name}", documentation=text, buckets=buckets, labelnames=[*labelnames, *TRANSPORT]
            )
        for name, text in GAUGES.items():
            self._families[name] = metric_types[Gauge](
                name=f"pd_kv_{name}", documentation=text, labelnames=labelnames, multiprocess_mode="mostrecent"
            )
        show_processes(REGISTRY)
        self._start_at_zero(vllm_config.kv_transfer_config.kv_connector_extra_config["transport"], engines)

    def _start_at_zero(self, transport: str, engines: Any) -> None:
        """Prometheus' `increase` does not see the first value of a series that was not there before."""
        if transport == "auto":  # which one it becomes is known with the first transfer
            return
        for engine in engines:
            for name in [*HISTOGRAMS, *(name for name, (_, labels) in COUNTERS.items() if labels == TRANSPORT)]:
                self._of(engine, name, transport)
            self._of(engine, "registrations", "accepted")
            self._of(engine, "first_tokens", "producer", "")

    def _of(self, engine: int, name: str, *own_labels: str) -> Any:
        return self._families[name].labels(*self.per_engine_labelvalues[engine], *own_labels)

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        for name, *labels, number in transfer_stats_data["counted"]:
            self._of(engine_idx, name, *labels).inc(number)
        for name, *labels, number in transfer_stats_data["observed"]:
            self._of(engine_idx, name, *labels).observe(number)
        for name, number in transfer_stats_data["gauges"]:
            self._of(engine_idx, name).set(number)
