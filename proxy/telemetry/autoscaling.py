"""What an autoscaler goes by, of each role and model: work that waits for producers, room and streams of consumers.

Sums and ratios over all instances of a role and model, so that a query needs no more than a `sum` or `max` over
proxies: docs/scaling.md has the queries, the thresholds and the reason for each.

Of prompts the proxy knows best itself: what it has sent to each instance and not got back, and how fast that has been
computed of late, which is what PROXY_TTFT_SLO_S goes by too. The virtual time of `PrefillOrder` is no better: it counts
from what was expected, and is never put right. How full a KV cache is only its instance knows.
"""

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from proxy.instances.gauges import Gauges
from proxy.routing.admission import Prefills
from proxy.routing.fleet import Fleet, base_model
from stack.instances.record import Role

COMPUTE_PROMPTS: tuple[Role, ...] = ("prefill", "aggregated")
MAKE_TOKENS: tuple[Role, ...] = ("decode", "aggregated")

Key = tuple[Role, str]  # the second is the model's name, as clients give it


@dataclass
class _Group:
    """All usable instances of one role and model. rates: tokens/s of those that are not left alone, where measured."""

    in_use: int = 0
    tokens: int = 0
    rates: list[float] = field(default_factory=list)
    streams: int = 0
    cache_usage: list[float] = field(default_factory=list)

    @property
    def wait_s(self) -> float | None:
        """Of a prompt that came now, had all instances that are in use an equal part; None before a measurement."""
        if not self.tokens:
            return 0.0
        if not self.rates:
            return None
        # Those of which nothing is known yet are as fast as the others.
        return self.tokens / (sum(self.rates) / len(self.rates) * max(self.in_use, 1))


class AutoscalingCollector(Collector):
    """Read at each scrape, so that a role or model without instances leaves no series behind.

    Args: prefills: by instance id; blocked: the ids of those that are left alone.
    """

    def __init__(
        self, fleet: Fleet, prefills: Mapping[str, Prefills], gauges: Gauges, blocked: Callable[[], Set[str]]
    ) -> None:
        self._fleet = fleet
        self._prefills = prefills
        self._gauges = gauges
        self._blocked = blocked

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield from self._families(self._gauges.known(self._fleet.view.usable))

    def own(self) -> Iterator[GaugeMetricFamily]:
        """What this process knows by itself: without what instances say, and without asking them."""
        yield from self._families({})[:-1]

    def _families(self, said: Mapping[str, Mapping[str, float]]) -> list[GaugeMetricFamily]:
        names = ("role", "model")
        tokens = GaugeMetricFamily(
            "pd_proxy_prefill_tokens_waiting",
            "Tokens of prompts that were sent to instances and are not computed yet",
            labels=names,
        )
        wait = GaugeMetricFamily(
            "pd_proxy_prefill_wait_seconds",
            "Predicted wait of a prompt that comes now: the tokens waiting over the rate at which they are computed",
            labels=names,
        )
        streams = GaugeMetricFamily(
            "pd_proxy_running_streams", "Requests for which instances make tokens", labels=names
        )
        usage = GaugeMetricFamily(
            "pd_proxy_kv_cache_usage_ratio",
            "Part of the KV cache that is in use, as the instances said last, from 0 to 1: their mean",
            labels=names,
        )
        for (role, model), group in self._groups(said).items():
            labels = (role, model)
            if role in COMPUTE_PROMPTS:
                tokens.add_metric(labels, group.tokens)
                if (wait_s := group.wait_s) is not None:
                    wait.add_metric(labels, wait_s)
            if role in MAKE_TOKENS:
                streams.add_metric(labels, group.streams)
            if group.cache_usage:
                usage.add_metric(labels, sum(group.cache_usage) / len(group.cache_usage))
        return [tokens, wait, streams, usage]

    def _groups(self, said: Mapping[str, Mapping[str, float]]) -> dict[Key, _Group]:
        usable, blocked = self._fleet.view.usable, self._blocked()
        groups: dict[Key, _Group] = {}
        for instance in usable:
            name = instance.instance_id
            group = groups.setdefault((instance.role, base_model(instance) or instance.model), _Group())
            group.streams += self._fleet.streams(name)
            if prefills := self._prefills.get(name):
                group.tokens += prefills.tokens
            if name not in blocked:
                group.in_use += 1
                if prefills and (rate := prefills.tokens_per_s()) is not None:
                    group.rates.append(rate)
            if (cache_usage := said.get(name, {}).get("cache_usage")) is not None:
                group.cache_usage.append(cache_usage)
        return groups
