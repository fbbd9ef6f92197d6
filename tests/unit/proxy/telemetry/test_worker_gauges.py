"""What a worker of several writes for the one that is asked."""

from collections.abc import Iterator
from typing import Any

from prometheus_client.core import GaugeMetricFamily

from proxy.telemetry.worker_gauges import WorkerGauges


class Fleet:
    """Stands in for the collector: tokens by role, and a cache's use that only `collect` knows."""

    def __init__(self) -> None:
        self.tokens = {"prefill": 5.0}

    def own(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily("pd_proxy_prefill_tokens_waiting", "…", labels=("role", "model"))
        for role, tokens in self.tokens.items():
            family.add_metric((role, "m"), tokens)
        yield family

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield from self.own()
        family = GaugeMetricFamily("pd_proxy_kv_cache_usage_ratio", "…", labels=("role", "model"))
        family.add_metric(("decode", "m"), 0.5)
        yield family


def written(gauges: WorkerGauges) -> dict[tuple[str, str], float]:
    metrics = (metric for gauge in gauges._gauges.values() for metric in gauge.collect())
    return {(each.name, each.labels["role"]): each.value for metric in metrics for each in metric.samples}


async def test_a_role_that_is_gone_is_0_and_what_was_asked_for_stays() -> None:
    fleet: Any = Fleet()
    gauges = WorkerGauges(fleet)
    try:
        gauges.write()
        usage = {("pd_proxy_kv_cache_usage_ratio", "decode"): 0.5}
        assert written(gauges) == {("pd_proxy_prefill_tokens_waiting", "prefill"): 5.0} | usage
        fleet.tokens = {"aggregated": 7.0}
        gauges._write_own()
        waiting = {"prefill": 0.0, "aggregated": 7.0}
        assert (
            written(gauges)
            == {("pd_proxy_prefill_tokens_waiting", role): tokens for role, tokens in waiting.items()} | usage
        )
    finally:
        gauges.close()
