"""One request through the real stack is one trace: the client's span, the proxy's, vLLM's own of both engines."""

from itertools import pairwise

import aiohttp
import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tests.otlp_receiver import Receiver, Span
from tests.real_stack import CHUNK_TOKENS, MODEL, RealStack

LIMIT_S = 60
REQUEST = "POST /v1/completions"
TOKENS = 2 * CHUNK_TOKENS + 100
ENGINES = {"pd-prefill": "prefill", "pd-decode": "decode"}
PHASES = ("queue", "prefill", "transfer", "first_step", "tokens")
SAME_HOST_NS = 5_000_000  # between clocks of one host: `time.time()` is read before and after what is compared


def by_name(spans: list[Span], name: str) -> Span:
    (found,) = (span for span in spans if span.name == name)
    return found


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_one_request_is_one_trace(stream: bool, stack: RealStack, collector: Receiver) -> None:
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: "the-client"}))
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(collector.url + "/v1/traces")))
    body = {"model": MODEL, "prompt": stack.english[80_000 + 2000 * stream :][:TOKENS], "max_tokens": 8}
    headers: dict[str, str] = {}
    with provider.get_tracer("tests").start_as_current_span("ask", kind=trace.SpanKind.CLIENT) as asked:
        TraceContextTextMapPropagator().inject(headers)
        async with (
            aiohttp.ClientSession() as session,
            session.post(stack.api_url + "/v1/completions", json=body | {"stream": stream}, headers=headers) as answer,
        ):
            assert answer.status == 200, await answer.text()
            assert answer.headers["X-PD-Path"] == "disaggregated"
            await answer.read()

    def complete(spans: list[Span]) -> bool:
        """The request's own span is the proxy's last."""
        return {"the-client", *ENGINES} <= {span.service for span in spans} and REQUEST in {span.name for span in spans}

    spans = collector.wait_for(f"{asked.get_span_context().trace_id:032x}", complete, LIMIT_S)
    provider.shutdown()

    client, root = by_name(spans, "ask"), by_name(spans, REQUEST)
    assert client.parent == ""
    assert root.parent == client.id
    assert {span.parent for span in spans if span is not client} <= {span.id for span in spans}
    assert root.attributes["gen_ai.request.model"] == MODEL

    phases = [span for span in spans if span.name in (*PHASES, "answer", "sending")]
    assert {span.parent for span in phases} == {root.id}
    assert (phases[0].begin_ns, phases[-1].end_ns) == (root.begin_ns, root.end_ns)
    for one, other in pairwise(phases):
        assert one.end_ns == other.begin_ns

    legs = {span.attributes["pd.role"]: span for span in spans if "pd.role" in span.attributes}
    for service, role in ENGINES.items():
        (engine,) = (span for span in spans if span.service == service)
        leg = legs[role]
        assert (engine.name, engine.parent, leg.parent) == ("llm_request", leg.id, root.id)
        assert engine.attributes["gen_ai.usage.prompt_tokens"] == TOKENS
        assert leg.begin_ns - SAME_HOST_NS <= engine.begin_ns <= engine.end_ns <= leg.end_ns + SAME_HOST_NS

    moved = by_name(spans, "kv_transfer")
    assert moved.parent == root.id
    assert moved.events
    assert {event.name for event in moved.events} == {"write"}
    assert sum(event.attributes["pd.bytes"] for event in moved.events) == moved.attributes["pd.transfer.bytes"]
    assert all(root.begin_ns <= event.at_ns <= moved.end_ns for event in moved.events)
