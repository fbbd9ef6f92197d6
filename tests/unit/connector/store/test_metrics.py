"""The way of the store's numbers from ranks and scheduler to `/metrics`, as vLLM walks it, without vLLM itself."""

import dataclasses
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import msgspec
import prometheus_client
import pytest

from connector.store.stats import StoreStats

ENGINES = {0: ["model", "0"], 1: ["model", "1"]}
OF_VLLM = "vllm.distributed.kv_transfer.kv_connector.v1"
PUT = {"duration_seconds": 0.5, "num_keys": 3, "num_bytes": 300, "status": "ok", "num_failed_keys": 0}


@dataclasses.dataclass
class StatsOfVllm:
    data: dict[str, Any] = dataclasses.field(default_factory=dict)

    def reduce(self) -> dict[str, int | float]:
        return {f"{operation}_count": len(records) for operation, records in self.data.items()}


class PromMetricsOfVllm:
    """As vLLM's, it takes nothing but records by operation."""

    def __init__(self, vllm_config: Any, metric_types: Any, labelnames: list[str], engines: Any) -> None:
        self.per_engine_labelvalues = engines
        self.bytes = 0

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        self.bytes += sum(record["num_bytes"] for records in transfer_stats_data.values() for record in records)


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """`connector.store.metrics` with stand-ins for the classes of vLLM that it builds on."""
    stand_ins: dict[str, dict[str, type]] = {
        f"{OF_VLLM}.metrics": {"KVConnectorStats": StatsOfVllm},
        f"{OF_VLLM}.mooncake.store.metrics": {
            "MooncakeStoreConnectorStats": StatsOfVllm,
            "MooncakeStorePromMetrics": PromMetricsOfVllm,
        },
    }
    for module, names in stand_ins.items():
        for end in range(1, module.count(".") + 2):
            package = ".".join(module.split(".")[:end])
            monkeypatch.setitem(sys.modules, package, sys.modules.get(package) or ModuleType(package))
        sys.modules[module].__dict__.update(names)
    yield importlib.import_module("connector.store.metrics")
    del sys.modules["connector.store.metrics"]


class Page:
    """The store's part of an API server's `/metrics`."""

    def __init__(self, metrics: ModuleType) -> None:
        self._metrics = metrics
        self._registry = prometheus_client.CollectorRegistry()

        def in_registry(kind: Any) -> Any:
            return lambda **arguments: kind(**arguments, registry=self._registry)

        kinds = (prometheus_client.Counter, prometheus_client.Gauge)
        self.page = metrics.StoreMetrics(
            None, {kind: in_registry(kind) for kind in kinds}, ["model_name", "engine"], ENGINES
        )

    def step(self, *data: dict[str, Any] | None, engine: int = 0) -> None:
        """What every rank and the scheduler took, aggregated, over the socket to the API server."""
        all_stats = [self._metrics.StoreStepStats(each) for each in data if each is not None]
        for stats in all_stats[1:]:
            all_stats[0].aggregate(stats)
        self.page.observe(msgspec.msgpack.decode(msgspec.msgpack.encode(all_stats[0].data)), engine)

    def value(self, name: str, engine: str = "0", **labels: str) -> float | None:
        return self._registry.get_sample_value(f"pd_store_{name}", {"model_name": "model", "engine": engine, **labels})


def test_ranks_and_scheduler_add_up_beside_vllms_own(metrics: ModuleType) -> None:
    page, stats = Page(metrics), StoreStats()
    stats.looked_up("hit")
    stats.looked_up("hit")
    stats.looked_up("late")
    stats.load_ended("loaded", 640)
    stats.load_ended("failed", 320)
    stats.saves_left_out(2)
    page.step({"save_put": [PUT]}, {"save_put": [PUT], "lookup_exists": []}, stats.take())
    stats.looked_up("hit")
    page.step(stats.take())
    assert page.page.bytes == 600
    assert [page.value("lookups_total", result=result) for result in ("hit", "late", "miss")] == [3, 1, 0]
    assert [page.value("loads_total", result=result) for result in ("loaded", "failed", "late")] == [1, 1, 0]
    assert page.value("loaded_tokens_total") == 640
    assert page.value("saves_left_out_total") == 2
    assert page.value("lookups_total", engine="1", result="hit") == 0


def test_a_breaker_is_as_it_was_last(metrics: ModuleType) -> None:
    page, stats = Page(metrics), StoreStats()
    for is_open in (True, False, True):
        stats.breaker("loads", is_open=is_open)
        page.step({"save_put": [PUT]}, stats.take(), engine=1)
        assert page.value("breaker_open", engine="1", breaker="loads") == is_open
        assert page.value("breaker_open", engine="1", breaker="lookups") == 0
    stats.breaker("loads", is_open=True)
    assert stats.take() is None, "no news"


def test_both_are_in_the_periodic_log_line(metrics: ModuleType) -> None:
    stats = StoreStats()
    stats.looked_up("miss")
    stats.breaker("lookups", is_open=True)
    line = metrics.StoreStepStats({"save_put": [PUT]})
    line.aggregate(metrics.StoreStepStats(stats.take()))
    assert not line.is_empty()
    assert line.reduce() == {"save_put_count": 1, "lookups miss": 1, "breaker_open lookups": 1}
