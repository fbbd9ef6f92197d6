"""OpenTelemetry spans of a request and its legs, when OTEL_EXPORTER_OTLP_ENDPOINT names a collector (OTLP over HTTP).

    the client's span
    └─ POST /v1/completions        the request; below it its phases, which follow each other without a gap
       ├─ queue, prefill, transfer, first_step and tokens; or answer and sending
       ├─ text_completion MODEL    the producer's leg; vLLM's own `llm_request` below it
       ├─ text_completion MODEL    the consumer's leg; likewise
       └─ kv_transfer              all of the transfer, with an event for each write

A client's `traceparent` is continued. Without an endpoint there is nothing to do, and it goes on to both legs as it
came. The exporter's other OTEL_ variables work as they are documented:
https://opentelemetry.io/docs/specs/otel/protocol/exporter/
Names: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/; what these do not have begins with `pd.`.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from proxy.settings import ProxySettings
from proxy.telemetry.request_facts import RequestFacts
from proxy.telemetry.timeline import timeline_of
from stack.instances.record import Instance

SERVICE = "pd-proxy"
PASSED_ON = ("traceparent", "tracestate")
OPERATIONS = {"/v1/completions": "text_completion"}  # the others that generate are chats

_propagator = TraceContextTextMapPropagator()


class Asked(NamedTuple):
    """output_limit: the most tokens that the client wants, None where it does not say."""

    path: str
    model: str | None
    stream: bool
    output_limit: int | None

    def attributes(self) -> dict[str, Any]:
        told = {
            "gen_ai.operation.name": self.operation,
            "gen_ai.provider.name": "vllm",
            "gen_ai.request.model": self.model,
            "gen_ai.request.stream": self.stream,
            "gen_ai.request.max_tokens": self.output_limit,
        }
        return {name: value for name, value in told.items() if value is not None}

    @property
    def operation(self) -> str:
        return OPERATIONS.get(self.path, "chat")


class LegSpan(Protocol):
    """`headers` make the instance's own spans children of this one."""

    headers: Mapping[str, str]

    def end(self, error: BaseException | None = None) -> None:
        """The first call counts."""


class RequestSpan(Protocol):
    def asks(self, path: str, model: str | None, stream: bool, output_limit: int | None) -> None:
        """As in `Asked`, which is only made where spans are."""

    def leg(self, instance: Instance, transfer_id: str | None) -> LegSpan: ...

    def end(self, facts: RequestFacts, **attributes: str | int) -> None: ...


class Tracing:
    def __init__(self, settings: ProxySettings) -> None:
        self._provider: TracerProvider | None = None
        if settings.otel_exporter_otlp_endpoint:
            # It brings protobuf, of which stack/etcd/rpc.py chooses the implementation; by now it has.
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            self._provider = TracerProvider(resource=Resource.create({SERVICE_NAME: SERVICE}))
            self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
            self._tracer = self._provider.get_tracer(SERVICE)

    def start(self, name: str, headers: Mapping[str, str]) -> RequestSpan:
        given = {name: value for name in PASSED_ON if (value := headers.get(name))}
        if self._provider is None:
            return _Unrecorded(given) if given else _NOTHING
        return _Recorded(self._tracer, name, given)

    async def close(self) -> None:
        """Sends what is left; the exporter blocks."""
        if self._provider is not None:
            await asyncio.to_thread(self._provider.shutdown)


class _Unrecorded:
    """Of a request and of each of its legs."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.headers = headers

    def asks(self, path: str, model: str | None, stream: bool, output_limit: int | None) -> None:
        pass

    def leg(self, instance: Instance, transfer_id: str | None) -> LegSpan:
        return self

    def end(self, *facts: Any, **attributes: Any) -> None:
        pass


_NOTHING = _Unrecorded({})


class _Recorded:
    def __init__(self, tracer: trace.Tracer, name: str, given: Mapping[str, str]) -> None:
        self._tracer = tracer
        self._began_ns = time.time_ns()
        self._span = tracer.start_span(
            name, context=_propagator.extract(given), kind=trace.SpanKind.SERVER, start_time=self._began_ns
        )
        self._context = trace.set_span_in_context(self._span)
        self._asked: Asked | None = None

    def asks(self, path: str, model: str | None, stream: bool, output_limit: int | None) -> None:
        self._asked = asked = Asked(path, model, stream, output_limit)
        self._span.set_attributes(asked.attributes())

    def leg(self, instance: Instance, transfer_id: str | None) -> LegSpan:
        asked = self._asked
        server = urlsplit(instance.url)
        attributes = (asked.attributes() if asked else {}) | {
            "server.address": server.hostname or "",
            "server.port": server.port or 80,
            "pd.role": instance.role,
            "pd.instance": instance.instance_id,
            **({"pd.transfer_id": transfer_id} if transfer_id else {}),
        }
        name = f"{asked.operation} {asked.model}" if asked else instance.role
        span = self._tracer.start_span(name, self._context, kind=trace.SpanKind.CLIENT, attributes=attributes)
        return _RecordedLeg(span)

    def end(self, facts: RequestFacts, **attributes: str | int) -> None:
        """The phases become spans of their own: they are known only now."""
        told = {f"pd.{name}": value for name, value in (facts.dispatch | attributes).items()}
        if facts.stream and facts.ttft_s is not None:
            told["gen_ai.response.time_to_first_chunk"] = facts.ttft_s
        self._span.set_attributes(told)
        whole_s = time.monotonic() - facts.arrived_at
        phases = dict(facts.phases)
        if facts.ttft_s is not None and (left := whole_s - sum(phases.values())) > 0:
            phases["tokens" if facts.stream else "sending"] = left
        at = 0.0
        for name, seconds in phases.items():
            span = self._tracer.start_span(name, self._context, start_time=self._ns(at))
            at += seconds
            span.end(self._ns(at))
        if facts.transfer.get("bytes"):
            self._transfer(facts, phases["queue"] + phases.get("prefill", 0.0))
        self._span.end(self._ns(whole_s))

    def _transfer(self, facts: RequestFacts, prefilled_s: float) -> None:
        """Its times are those of the producer, after the end of the prefill, which is in ours at `prefilled_s`."""
        transfer = facts.transfer
        ended_s = prefilled_s + transfer.get("exposed_seconds", 0.0)
        names = ("transport", "bytes", "early_bytes", "tokens", "pieces", "seconds", "exposed_seconds")
        span = self._tracer.start_span(
            "kv_transfer",
            self._context,
            start_time=self._ns(max(0.0, ended_s - transfer.get("seconds", 0.0))),
            attributes={f"pd.transfer.{name}": transfer[name] for name in names if name in transfer},
        )
        for write in timeline_of(transfer)[0]:
            told = {f"pd.{name}": value for name, value in write._asdict().items() if name != "at"}
            span.add_event("write", told, self._ns(max(0.0, prefilled_s + write.at)))
        span.end(self._ns(ended_s))

    def _ns(self, after_s: float) -> int:
        return self._began_ns + round(1e9 * after_s)


class _RecordedLeg:
    def __init__(self, span: trace.Span) -> None:
        self._span = span
        carrier: dict[str, str] = {}
        _propagator.inject(carrier, trace.set_span_in_context(span))
        self.headers: Mapping[str, str] = carrier

    def end(self, error: BaseException | None = None) -> None:
        if not self._span.is_recording():
            return
        if error is not None:
            self._span.set_attribute("error.type", type(error).__name__)
            self._span.set_status(trace.StatusCode.ERROR, str(error))
        self._span.end()
