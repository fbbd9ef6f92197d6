"""A receiver of OpenTelemetry's spans, OTLP over HTTP, as a collector has one: protobuf in, the last spans kept."""

import gzip
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

MOST_SPANS = 5000  # a whole run of the tests is traced, and most of it is not looked at


class Event(NamedTuple):
    name: str
    at_ns: int
    attributes: dict[str, Any]


class Span(NamedTuple):
    """service: of the resource. parent: the id of a span, empty for a trace's first. kind: 2 is SERVER, 3 CLIENT."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    kind: int
    begin_ns: int
    end_ns: int
    attributes: dict[str, Any]
    events: list[Event]
    failed: bool


class Receiver:
    """`url` is what OTEL_EXPORTER_OTLP_ENDPOINT is to be; `authorization` is what the last request had."""

    def __init__(self) -> None:
        self.url = ""
        self.authorization: str | None = None
        self._spans: deque[Span] = deque(maxlen=MOST_SPANS)
        self._news = threading.Condition()

    def wait_for(self, trace: str, complete: Callable[[list[Span]], bool], limit_s: float) -> list[Span]:
        """The spans of the trace, once they are `complete`, by their beginnings."""

        def found() -> list[Span]:
            return sorted((span for span in self._spans if span.trace == trace), key=lambda span: span.begin_ns)

        with self._news:
            assert self._news.wait_for(lambda: complete(found()), limit_s), found()
            return found()

    def receive(self, body: bytes) -> None:
        exported = ExportTraceServiceRequest.FromString(body)
        spans = [
            _read(_values(resource.resource.attributes).get("service.name", ""), span)
            for resource in exported.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        with self._news:
            self._spans.extend(spans)
            self._news.notify_all()


@contextmanager
def receiver() -> Iterator[Receiver]:
    kept = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            kept.authorization = self.headers.get("Authorization")
            if self.path == "/v1/traces":
                kept.receive(body)
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        kept.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield kept
        finally:
            server.shutdown()
            thread.join()


def _read(service: str, span: Any) -> Span:
    return Span(
        service=service,
        name=span.name,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        kind=span.kind,
        begin_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        attributes=_values(span.attributes),
        events=[Event(each.name, each.time_unix_nano, _values(each.attributes)) for each in span.events],
        failed=span.status.code == 2,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
