"""The worker's own small HTTP server: /metrics, /healthz and /readyz, on a daemon thread."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from processor.engine.telemetry import Health
from processor.errors import UsageError

REQUEST_SECONDS_MAX = 5.0  # A client that sends nothing is let go.


class HealthServer:
    """Answers probes and scrapes while it is started.

    `health` is called on the server's threads for each probe: it must read, not ask the loop.
    Start and stop tolerate being called twice, and a stop without a start.
    """

    def __init__(
        self,
        metrics_registry: CollectorRegistry,
        health: Callable[[], Health],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._metrics_registry = metrics_registry
        self._health = health
        self._host = host
        self._port = port
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port that answers: while started the real one, also where 0 was asked for."""
        return self._server.server_address[1] if self._server else self._port

    @property
    def url(self) -> str:
        """The address to put a path after."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.port}"

    def start(self) -> None:
        """Listen. Raises UsageError when the host and port cannot be had."""
        if self._server is not None:
            return
        try:
            self._server = _Server(self._host, self._port, self._metrics_registry, self._health)
        except OSError as fault:
            raise UsageError(
                f"cannot listen on {self._host}:{self._port}: {fault.strerror}",
                hint="set worker.metrics_port to a free port, or to 0 for any free one",
            ) from fault
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="processor-health", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Answer no more, and free the port."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server = self._thread = None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # A probe that hangs must not hold up the worker's exit.

    def __init__(
        self, host: str, port: int, registry: CollectorRegistry, health: Callable[[], Health]
    ) -> None:
        self.registry = registry
        self.health = health
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Bind without the reverse name look-up, which takes seconds where names do not resolve."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "processor"
    sys_version = ""
    timeout = REQUEST_SECONDS_MAX

    def do_GET(self) -> None:
        """Answer one of the three paths."""
        match self.path.partition("?")[0]:
            case "/metrics":
                encode, content_type = choose_encoder(self.headers.get("Accept", ""))
                self._answer(HTTPStatus.OK, content_type, encode(self.server.registry))
            case "/healthz":
                health = self.server.health()
                self._tell(health, ok=health.ok)
            case "/readyz":
                health = self.server.health()
                self._tell(health, ok=health.ok and health.ready)
            case _:
                body = b'{"error": "no such path; there are /metrics, /healthz and /readyz"}\n'
                self._answer(HTTPStatus.NOT_FOUND, "application/json", body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name in the base)
        """Say nothing: probes come every few seconds."""

    def _tell(self, health: Health, *, ok: bool) -> None:
        checks = [{"name": c.name, "ok": c.ok, "detail": c.detail} for c in health.checks]
        told = {"status": "ok" if ok else "failing", "ready": health.ready, "checks": checks}
        status = HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE
        self._answer(status, "application/json", json.dumps(told).encode() + b"\n")

    def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
