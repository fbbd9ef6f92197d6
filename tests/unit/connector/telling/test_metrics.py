"""The way of the numbers from ranks and scheduler to `/metrics`, as vLLM walks it, without vLLM itself."""

import dataclasses
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec
import prometheus_client
import pytest

from connector.control.messages import Done
from connector.telling.stats import TransferStats

ENGINES = {0: ["model", "0"], 1: ["model", "1"]}
OF_VLLM = "vllm.distributed.kv_transfer.kv_connector.v1.metrics"


class PromMetricsOfVllm:
    def __init__(self, vllm_config: Any, metric_types: Any, labelnames: list[str], engines: Any) -> None:
        self.per_engine_labelvalues = engines


@dataclasses.dataclass
class StatsOfVllm:
    data: dict[str, Any] = dataclasses.field(default_factory=dict)


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """`connector.telling.metrics` with stand-ins for the two classes of vLLM that it builds on."""
    stand_in = ModuleType(OF_VLLM)
    stand_in.__dict__.update(KVConnectorPromMetrics=PromMetricsOfVllm, KVConnectorStats=StatsOfVllm)
    for end in range(1, OF_VLLM.count(".") + 1):
        package = ".".join(OF_VLLM.split(".")[:end])
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
    monkeypatch.setitem(sys.modules, OF_VLLM, stand_in)
    yield importlib.import_module("connector.telling.metrics")
    del sys.modules["connector.telling.metrics"]


class Page:
    """The connector's part of an API server's `/metrics`."""

    def __init__(self, metrics: ModuleType, transport: str = "tcp") -> None:
        self._metrics = metrics
        self._registry = prometheus_client.CollectorRegistry()

        def in_registry(kind: Any) -> Any:
            return lambda **arguments: kind(**arguments, registry=self._registry)

        kinds = (prometheus_client.Counter, prometheus_client.Gauge, prometheus_client.Histogram)
        config = SimpleNamespace(kv_transfer_config=SimpleNamespace(kv_connector_extra_config={"transport": transport}))
        self._page = metrics.TransferMetrics(
            config, {kind: in_registry(kind) for kind in kinds}, ["model_name", "engine"], ENGINES
        )

    def step(self, *sources: TransferStats, engine: int = 0) -> None:
        """One engine step: what every rank and the scheduler took, aggregated, over the socket to the API server."""
        taken = [self._metrics.StepStats(data) for data in (source.take() for source in sources) if data is not None]
        for stats in taken[1:]:
            taken[0].aggregate(stats)
        if taken:
            self._page.observe(msgspec.msgpack.decode(msgspec.msgpack.encode(taken[0].data)), engine)

    def value(self, name: str, engine: str = "0", **labels: str) -> float | None:
        sample: float | None = self._registry.get_sample_value(
            f"pd_kv_{name}", {"model_name": "model", "engine": engine, **labels}
        )
        return sample


def share(size: int, early: int, seconds: float, exposed: float) -> Done:
    return Done("t", 0, size, early, 1, seconds, exposed, "tcp")


def test_ranks_and_steps_add_up(metrics: ModuleType) -> None:
    page, ranks = Page(metrics), [TransferStats(), TransferStats()]
    for _ in range(3):
        for rank in ranks:
            rank.wrote("tcp", 100, 2, 0.25)
        page.step(*ranks)
    ranks[1].delivered(share(400, 300, 2.0, 0.004))
    ranks[0].registered()
    page.step(*ranks)
    page.step(*ranks)  # nothing new
    assert page.value("sent_bytes_total", transport="tcp") == 600
    assert page.value("sent_pieces_total", transport="tcp") == 12
    assert page.value("write_seconds_total", transport="tcp") == 1.5
    assert page.value("delivered_shares_total", transport="tcp") == 1
    assert page.value("early_bytes_total", transport="tcp") == 300
    assert page.value("registrations_total", outcome="accepted") == 1


def test_each_share_is_observed_once(metrics: ModuleType) -> None:
    page, rank = Page(metrics), TransferStats()
    for exposed in (0.0005, 0.004, 0.004):
        rank.delivered(share(4_000_000, 3_000_000, 2.0, exposed))
        page.step(rank)
    for name, total in {
        "transfer_seconds": 6.0,
        "exposed_seconds": 0.0085,
        "early_ratio": 2.25,
        "transfer_bytes_per_second": 6_000_000,
    }.items():
        assert page.value(f"{name}_count", transport="tcp") == 3
        assert page.value(f"{name}_sum", transport="tcp") == pytest.approx(total)
    assert page.value("exposed_seconds_bucket", transport="tcp", le="0.001") == 1
    assert page.value("exposed_seconds_bucket", transport="tcp", le="0.005") == 3
    assert page.value("early_ratio_bucket", transport="tcp", le="0.5") == 0
    assert page.value("transfer_bytes_per_second_bucket", transport="tcp", le="3e+06") == 3


def test_a_gauge_is_the_last_step_s(metrics: ModuleType) -> None:
    page, rank, scheduler = Page(metrics), TransferStats(), TransferStats()
    assert page.value("free_blocks") is None, "nobody has counted them yet"
    for held, since, free in ((4, 1000.5, 50), (9, 1000.5, 40), (0, 0.0, 63)):
        rank.wrote("tcp", 1, 1, 0.0)
        scheduler.blocks_held(held, since)
        scheduler.free_blocks(free)
        page.step(rank, scheduler)
        assert page.value("oldest_hold_timestamp_seconds") == since
    page.step(rank)
    assert page.value("blocks_held") == 0
    assert page.value("free_blocks") == 63


def test_engines_are_kept_apart(metrics: ModuleType) -> None:
    page, rank = Page(metrics), TransferStats()
    rank.failed("write failed: reset by peer", "tcp")
    rank.free_blocks(7)
    page.step(rank, engine=1)
    assert page.value("failed_shares_total", engine="1", cause="write failed", transport="tcp") == 1
    assert page.value("failed_shares_total", engine="0", cause="write failed", transport="tcp") is None
    assert page.value("free_blocks", engine="1") == 7


@pytest.mark.parametrize(("configured", "first"), [("rdma", 0.0), ("auto", None)])
def test_series_of_the_configured_transport_begin_at_zero(
    metrics: ModuleType, configured: str, first: float | None
) -> None:
    page = Page(metrics, configured)
    for name in ("sent_bytes_total", "received_shares_total", "exposed_seconds_count"):
        assert page.value(name, transport="rdma") == first
        assert page.value(name, transport="tcp") is None


def test_loggers_do_not_count_into_each_other(metrics: ModuleType) -> None:
    """vLLM's loggers are all handed the same data, and each sums it up over its own interval."""
    rank = TransferStats()
    rank.wrote("tcp", 100, 1, 0.5)
    first = rank.take()
    rank.wrote("tcp", 10, 1, 0.5)
    rank.free_blocks(5)
    second = rank.take()
    for _ in range(2):
        interval = metrics.StepStats(first)
        interval.aggregate(metrics.StepStats(second))
        assert interval.reduce() == {
            "sent_bytes tcp": 110,
            "sent_pieces tcp": 2,
            "write_seconds tcp": 1.0,
            "free_blocks": 5,
        }


def test_a_step_without_news_is_empty(metrics: ModuleType) -> None:
    stats = metrics.StepStats()
    stats.reset()
    assert stats.is_empty()
    stats.aggregate(metrics.StepStats({"counted": [], "observed": [], "gauges": [["free_blocks", 5]]}))
    assert not stats.is_empty(), "vLLM drops empty ones, and with them the gauge"
