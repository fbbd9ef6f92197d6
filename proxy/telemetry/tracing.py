"""OpenTelemetry spans of a request and its legs, when OTEL_EXPORTER_OTLP_ENDPOINT names a collector (OTLP over HTTP).

A client's `traceparent` is continued and passed on to both legs, so that vLLM's own spans find their place. Without an
endpoint there is nothing to do, and `traceparent` goes on as it came. The exporter's other OTEL_ variables work as they
are documented: https://opentelemetry.io/docs/specs/otel/protocol/exporter/
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Protocol

from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from proxy.settings import ProxySettings
from proxy.telemetry.request_facts import RequestFacts

SERVICE = "pd-proxy"
PASSED_ON = ("traceparent", "tracestate")

_propagator = TraceContextTextMapPropagator()


class RequestSpan(Protocol):
    """One request's span; `headers` are those that make the legs' spans its children."""

    headers: Mapping[str, str]

    def end(self, facts: RequestFacts, **attributes: str | int) -> None: ...


class Tracing:
    def __init__(self, settings: ProxySettings) -> None:
        self._provider: TracerProvider | None = None
        if settings.otel_exporter_otlp_endpoint:
            # It brings protobuf, of which stack/etcd_rpc.py chooses the implementation; by now it has.
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            self._provider = TracerProvider(resource=Resource.create({SERVICE_NAME: SERVICE}))
            self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
            self._tracer = self._provider.get_tracer(SERVICE)

    def start(self, name: str, headers: Mapping[str, str]) -> RequestSpan:
        given = {name: value for name in PASSED_ON if (value := headers.get(name))}
        if self._provider is None:
            return _Unrecorded(given)
        return _Recorded(
            self._tracer, self._tracer.start_span(name, context=_propagator.extract(given), kind=trace.SpanKind.SERVER)
        )

    async def close(self) -> None:
        """Sends what is left; the exporter blocks."""
        if self._provider is not None:
            await asyncio.to_thread(self._provider.shutdown)


class _Unrecorded:
    def __init__(self, headers: Mapping[str, str]) -> None:
        self.headers = headers

    def end(self, facts: RequestFacts, **attributes: str | int) -> None:
        pass


class _Recorded:
    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self._span = span
        self._context = trace.set_span_in_context(span)
        carrier: dict[str, str] = {}
        _propagator.inject(carrier, self._context)
        self.headers: Mapping[str, str] = carrier

    def end(self, facts: RequestFacts, **attributes: str | int) -> None:
        """The phases become spans of their own: they are known only now."""
        self._span.set_attributes({f"pd.{name}": value for name, value in (facts.dispatch | attributes).items()})
        begin = facts.arrived_at + time.time() - time.monotonic()
        for name, seconds in facts.phases.items():
            start = int(1e9 * begin)
            begin += seconds
            self._tracer.start_span(name, self._context, start_time=start).end(int(1e9 * begin))
        self._span.end()
