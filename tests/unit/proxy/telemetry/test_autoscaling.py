"""What an autoscaler reads: sums and ratios of each role and model, and nothing of those that are gone."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from proxy.routing.admission import Prefills
from proxy.routing.fleet import Fleet, View
from proxy.telemetry.autoscaling import AutoscalingCollector
from stack.instances.record import Adapter, Instance
from tests.unit.proxy.conftest import StartStack, eventually
from tests.unit.proxy.scripted import DONE, MODEL, hangs, instance, prefilled, streams, token

STREAM = {"model": MODEL, "prompt": "San Francisco is a", "stream": True}


class SaidBefore:
    """Stands in for what the instances said: their cache's use, by id."""

    def __init__(self, usage: Mapping[str, float]) -> None:
        self._usage = usage

    def known(self, instances: object) -> dict[str, dict[str, float]]:
        return {name: {"cache_usage": usage} for name, usage in self._usage.items()}


class Shown:
    """A fleet, and what is shown of it."""

    def __init__(self, *instances: Instance, usage: Mapping[str, float] | None = None) -> None:
        self.fleet = Fleet()
        self.fleet.update(View(instances, revision=1))
        self.prefills = {each.instance_id: Prefills() for each in instances}
        self.blocked: set[str] = set()
        said: Any = SaidBefore(usage or {})
        self._registry = CollectorRegistry()
        self._registry.register(AutoscalingCollector(self.fleet, self.prefills, said, lambda: self.blocked))

    def computed(self, instance_id: str, tokens_per_s: int) -> None:
        """One prompt, within a second."""
        self.prefills[instance_id].begin(tokens_per_s, 0.0)
        self.prefills[instance_id].end(tokens_per_s, tokens_per_s, 1.0)

    def value(self, name: str, role: str, model: str = MODEL) -> float | None:
        return self._registry.get_sample_value(f"pd_proxy_{name}", {"role": role, "model": model})

    def names(self) -> set[tuple[str, str, str]]:
        samples = (sample for metric in self._registry.collect() for sample in metric.samples)
        return {(each.name.removeprefix("pd_proxy_"), each.labels["role"], each.labels["model"]) for each in samples}


def test_what_waits_for_producers_and_for_how_long() -> None:
    shown = Shown(instance("prefill", "p0"), instance("prefill", "p1"), instance("decode", "d0"))
    assert shown.value("prefill_tokens_waiting", "prefill") == 0
    assert shown.value("prefill_wait_seconds", "prefill") == 0
    shown.prefills["p0"].begin(300, 2.0)
    assert shown.value("prefill_wait_seconds", "prefill") is None  # nobody knows yet
    shown.prefills["p1"].begin(500, 2.0)
    shown.prefills["p1"].end(500, 500, 3.0)
    assert shown.value("prefill_tokens_waiting", "prefill") == 300
    # p0 is taken to be as fast as p1.
    assert shown.value("prefill_wait_seconds", "prefill") == pytest.approx(300 / (500 + 500), rel=0.05)


def test_rates_add_up() -> None:
    shown = Shown(instance("prefill", "p0"), instance("prefill", "p1"))
    shown.computed("p0", 1000)
    shown.computed("p1", 3000)
    shown.prefills["p0"].begin(8000, 1.0)
    assert shown.value("prefill_wait_seconds", "prefill") == pytest.approx(2.0, rel=0.05)


def test_who_is_left_alone_computes_nothing() -> None:
    shown = Shown(instance("prefill", "p0"), instance("prefill", "p1"))
    shown.computed("p0", 1000)
    shown.computed("p1", 1000)
    shown.prefills["p0"].begin(4000, 1.0)
    both = shown.value("prefill_wait_seconds", "prefill")
    shown.blocked.add("p1")
    alone = shown.value("prefill_wait_seconds", "prefill")
    assert both is not None
    assert alone == pytest.approx(2 * both)


def test_streams_are_what_has_its_cache() -> None:
    consumer = instance("decode", "d0")
    shown = Shown(consumer, instance("decode", "d1"), instance("prefill", "p0"))
    shown.fleet.begin(consumer, 10)
    shown.fleet.begin(consumer, 10, awaits_cache=True)
    assert shown.value("running_streams", "decode") == 1
    shown.fleet.cache_came(consumer)
    assert shown.value("running_streams", "decode") == 2


def test_the_cache_is_full_as_the_mean_of_those_that_have_said() -> None:
    consumers = [instance("decode", f"d{number}") for number in range(3)]
    shown = Shown(*consumers, usage={"d0": 0.5, "d1": 0.9, "gone": 1.0})
    assert shown.value("kv_cache_usage_ratio", "decode") == pytest.approx(0.7)


def test_each_model_and_role_for_itself() -> None:
    adapter = Adapter(id="poet", root="/poet", parent=MODEL)
    shown = Shown(
        instance("prefill", "p0"),
        instance("decode", "d0", served_models=("poet", MODEL), adapters=(adapter,)),
        instance("aggregated", "a0", served_models=("other",)),
        usage={"a0": 0.25},
    )
    assert shown.names() == {
        ("prefill_tokens_waiting", "prefill", MODEL),
        ("prefill_wait_seconds", "prefill", MODEL),
        ("running_streams", "decode", MODEL),
        ("prefill_tokens_waiting", "aggregated", "other"),
        ("prefill_wait_seconds", "aggregated", "other"),
        ("running_streams", "aggregated", "other"),
        ("kv_cache_usage_ratio", "aggregated", "other"),
    }
    shown.fleet.update(View((instance("prefill", "p1"),), revision=2))
    assert {role for _, role, _ in shown.names()} == {"prefill"}


async def test_at_a_proxy(start_stack: StartStack) -> None:
    go_on = asyncio.Event()

    async def producer(request: web.Request) -> web.StreamResponse:
        return await hangs(go_on, prefilled())(request)

    more = asyncio.Event()
    stack = await start_stack([producer], [streams(token(" city"), more, DONE)])
    stack.consumers[0].metrics = b'vllm:kv_cache_usage_perc{engine="0"} 0.625\n'
    labels, consumers = f'{{model="{MODEL}",role="prefill"}}', f'{{model="{MODEL}",role="decode"}}'
    metric = stack.proxy.metric
    assert await metric(f"pd_proxy_prefill_tokens_waiting{labels}") == 0
    gateway = stack.proxy.gateway
    await eventually(lambda: "d0" in gateway.gauges.known(gateway.fleet.view.usable))
    assert await metric(f"pd_proxy_kv_cache_usage_ratio{consumers}") == 0.625
    async with stack.proxy.post("/v1/completions", json=STREAM) as answer:
        assert await metric(f"pd_proxy_prefill_tokens_waiting{labels}") > 0
        assert await metric(f"pd_proxy_running_streams{consumers}") == 0
        go_on.set()
        await eventually(lambda: gateway.fleet.streams("d0") == 1)
        assert await metric(f"pd_proxy_prefill_tokens_waiting{labels}") == 0
        assert await metric(f"pd_proxy_prefill_wait_seconds{labels}") == 0
        assert await metric(f"pd_proxy_running_streams{consumers}") == 1
        more.set()
        await answer.read()
    await eventually(lambda: gateway.fleet.streams("d0") == 0)
    assert await metric(f"pd_proxy_running_streams{consumers}") == 0
