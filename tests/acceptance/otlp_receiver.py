"""A collector for tests: takes traces over OTLP/HTTP on loopback, and decodes them."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.serving import served


@dataclass(frozen=True)
class Got:
    """One span as it came over the wire."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    service: str
    started: int  # Nanoseconds since the epoch.
    ended: int
    kind: int
    failed: bool
    attributes: dict[str, Any] = field(hash=False)
    links: dict[str, str] = field(hash=False)  # What it is linked to: kind by span id.


class Receiver:
    """What has come so far, and where it is taken."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._spans: list[Got] = []
        self._lock = threading.Lock()

    @property
    def spans(self) -> list[Got]:
        """In the order in which they began."""
        with self._lock:
            return sorted(self._spans, key=lambda each: each.started)

    def trace(self, trace_id: str) -> list[Got]:
        return [each for each in self.spans if each.trace_id == trace_id]

    def named(self, name: str) -> list[Got]:
        return [each for each in self.spans if each.name == name]

    def take(self, request: ExportTraceServiceRequest) -> None:
        for group in request.resource_spans:
            service = _values(group.resource.attributes).get("service.name", "")
            with self._lock:
                self._spans += [
                    _got(span, service) for scope in group.scope_spans for span in scope.spans
                ]


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Serve on a free port of loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/traces"
            receiver.take(ExportTraceServiceRequest.FromString(body))
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver = Receiver(f"http://127.0.0.1:{server.server_port}")
    with served(server):
        yield receiver


def tree(spans: list[Got]) -> str:
    """One trace as text: each span below its parent, with what tells most."""
    ids = {each.span_id for each in spans}
    lines: list[str] = []

    def add(span: Got, depth: int) -> None:
        shown = [
            str(span.attributes[name])
            for name in ("processor.job.outcome", "error.type", "processor.object.store")
            if name in span.attributes
        ]
        if "processor.job.attempt" in span.attributes:
            shown.insert(0, f"attempt {span.attributes['processor.job.attempt']}")
        shown += [f"-> {what}" for what in span.links.values()]
        milliseconds = (span.ended - span.started) / 1e6
        label = f"{'  ' * depth}{span.name}"
        lines.append(f"{label:44} {span.service:20} {milliseconds:7.1f} ms  {', '.join(shown)}")
        for child in spans:
            if child.parent_id == span.span_id:
                add(child, depth + 1)

    for root in spans:
        if root.parent_id not in ids:
            add(root, 0)
    return "\n".join(line.rstrip() for line in lines)


def _got(span: Any, service: str) -> Got:
    return Got(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        name=span.name,
        service=service,
        started=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
        kind=span.kind,
        failed=span.status.code == 2,
        attributes=_values(span.attributes),
        links={
            each.span_id.hex(): _values(each.attributes).get("processor.link", "")
            for each in span.links
        },
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
