"""One request, one trace: the client's span, the request, phases without a gap, both legs, the transfer's writes."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import web

from tests.otlp_receiver import Receiver, Span, receiver
from tests.unit.proxy.conftest import PATIENCE_S, Stack, StartStack, eventually
from tests.unit.proxy.scripted import MODEL, error, prefilled, streams
from tests.unit.proxy.telemetry.test_truth import STREAM, WHOLE, told

TRACE, CLIENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE}-{CLIENT}-01"}
LEG = f"text_completion {MODEL}"
FACTS: dict[str, Any] = {
    "bytes": 4096,
    "tokens": 4,
    "seconds": 0.002,
    "exposed_seconds": 0.0005,
    "transport": "tcp",
    "timeline": "[[[0,3,4000,-1500,500,1],[4,5,96,100,400,2]],[[4,-3000,3000]]]",
}
PHASES = {"queue", "prefill", "transfer", "first_step", "answer", "tokens", "sending"}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with receiver() as started:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", started.url)
        yield started


async def start(start_stack: StartStack, collector: Receiver) -> Stack:
    async def consumer(request: web.Request) -> web.StreamResponse:
        await eventually(lambda: stack.proxy.gateway.fleet.outstanding("p0") == 0)
        return await told(streams(), FACTS)(request)

    stack = await start_stack([prefilled()], [consumer], otel_exporter_otlp_endpoint=collector.url)
    return stack


async def trace_of(stack: Stack, collector: Receiver) -> list[Span]:
    await stack.proxy.gateway.tracing.close()
    return collector.wait_for(TRACE, lambda spans: any(span.parent == CLIENT for span in spans), PATIENCE_S)


@pytest.mark.parametrize("body", [STREAM, WHOLE], ids=["stream", "whole"])
async def test_one_request_is_one_trace(body: dict[str, object], start_stack: StartStack, collector: Receiver) -> None:
    stack = await start(start_stack, collector)
    assert await stack.proxy.status("/v1/completions", json=body | {"max_tokens": 7}, headers=HEADERS) == 200
    spans = await trace_of(stack, collector)
    (root,) = (span for span in spans if span.parent == CLIENT)
    assert (root.name, root.kind, root.service) == ("POST /v1/completions", 2, "pd-proxy")
    assert {span.parent for span in spans if span is not root} == {root.id}
    asked = {"gen_ai.operation.name": "text_completion", "gen_ai.request.model": MODEL, "gen_ai.request.max_tokens": 7}
    assert asked.items() <= root.attributes.items()
    assert ("gen_ai.response.time_to_first_chunk" in root.attributes) == (body is STREAM)

    phases = [span for span in spans if span.name in PHASES]
    rest = ["first_step", "tokens"] if body is STREAM else ["answer", "sending"]
    assert [span.name for span in phases] == ["queue", "prefill", "transfer", *rest]
    assert (phases[0].begin_ns, phases[-1].end_ns) == (root.begin_ns, root.end_ns)
    for one, other in pairwise(phases):
        assert one.end_ns == other.begin_ns

    legs = {span.attributes["pd.role"]: span for span in spans if span.name == LEG}
    for role, server in (("prefill", stack.producers[0]), ("decode", stack.consumers[0])):
        leg = legs.pop(role)
        assert leg.kind == 3
        assert asked.items() <= leg.attributes.items()
        assert leg.attributes["server.port"] == int(server.record.url.rsplit(":", 1)[1])
        assert leg.attributes["pd.instance"] == server.name
        assert server.received[0].headers["traceparent"] == f"00-{TRACE}-{leg.id}-01"
        assert root.begin_ns <= leg.begin_ns <= leg.end_ns
    assert not legs


async def test_the_transfer_has_its_writes_as_events(start_stack: StartStack, collector: Receiver) -> None:
    stack = await start(start_stack, collector)
    assert await stack.proxy.status("/v1/completions", json=STREAM, headers=HEADERS) == 200
    spans = {span.name: span for span in await trace_of(stack, collector)}
    moved, prefill = spans["kv_transfer"], spans["prefill"]
    assert moved.end_ns == spans["transfer"].end_ns == prefill.end_ns + 500_000
    assert moved.attributes["pd.transfer.bytes"] == 4096
    assert [(each.name, each.attributes["pd.bytes"]) for each in moved.events] == [("write", 4000), ("write", 96)]
    assert moved.events[1].attributes["pd.first_layer"] == 4
    assert moved.events[1].at_ns == prefill.end_ns + 100_000


async def test_a_leg_that_fails_says_so(start_stack: StartStack, collector: Receiver) -> None:
    broken = error(500, "it broke")
    stack = await start_stack([prefilled()], [broken, broken], otel_exporter_otlp_endpoint=collector.url)
    assert await stack.proxy.status("/v1/completions", json=STREAM, headers=HEADERS) >= 500
    spans = await trace_of(stack, collector)
    legs = [span for span in spans if span.attributes.get("pd.role") == "decode"]
    assert [leg.failed for leg in legs] == [True, True]
    assert {leg.attributes["error.type"] for leg in legs} == {"InstanceError"}


async def test_a_collector_that_asks_for_a_password_gets_it(
    start_stack: StartStack, collector: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a header, because a URL may not have one."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20bWU6aHVudGVyMg==")
    stack = await start(start_stack, collector)
    assert await stack.proxy.status("/v1/completions", json=STREAM, headers=HEADERS) == 200
    await trace_of(stack, collector)
    assert collector.authorization == "Basic bWU6aHVudGVyMg=="


async def test_without_a_collector_the_traceparent_goes_on_as_it_came(start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [told(streams(), FACTS)])
    assert await stack.proxy.status("/v1/completions", json=STREAM, headers=HEADERS) == 200
    for leg in (stack.producers[0], stack.consumers[0]):
        assert leg.received[0].headers["traceparent"] == HEADERS["traceparent"]
