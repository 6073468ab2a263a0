from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from processor.adapters.health import HealthServer
from processor.adapters.metrics import Metrics
from processor.engine.telemetry import Check, Health
from processor.errors import UsageError


@contextmanager
def serving(health: Callable[[], Health] = Health, **kwargs) -> Iterator[HealthServer]:
    server = HealthServer(Metrics().registry, health, **kwargs)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def get(server: HealthServer, path: str) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, response.headers["Content-Type"], body


def test_metrics_are_served_in_prometheus_format():
    with serving() as server:
        status, content_type, body = get(server, "/metrics")

    assert status == 200
    assert content_type.startswith("text/plain")
    assert b"# TYPE processor_jobs_settled_total counter" in body


@pytest.mark.parametrize(
    ("health", "healthz", "readyz"),
    [
        (Health(), 200, 200),
        (Health((Check("loop", True),)), 200, 200),
        (Health((Check("loop", True),), ready=False), 200, 503),
        (Health((Check("loop", True), Check("copy[3]", False, "stalled"))), 503, 503),
    ],
)
def test_probes_answer_by_status(health: Health, healthz: int, readyz: int):
    with serving(lambda: health) as server:
        assert (get(server, "/healthz")[0], get(server, "/readyz")[0]) == (healthz, readyz)


def test_probe_tells_each_check():
    health = Health((Check("loop", True), Check("copy[3]", False, "no progress for 90 s")))

    with serving(lambda: health) as server:
        _, content_type, body = get(server, "/healthz?verbose")

    assert content_type == "application/json"
    assert json.loads(body) == {
        "status": "failing",
        "ready": True,
        "checks": [
            {"name": "loop", "ok": True, "detail": ""},
            {"name": "copy[3]", "ok": False, "detail": "no progress for 90 s"},
        ],
    }


def test_health_is_asked_anew_by_every_probe():
    answers = iter([Health(), Health((Check("loop", False),))])

    with serving(lambda: next(answers)) as server:
        assert [get(server, "/healthz")[0] for _ in range(2)] == [200, 503]


def test_other_paths_are_refused_with_the_ones_that_exist():
    with serving() as server:
        status, _, body = get(server, "/")

    assert status == 404
    assert "/metrics, /healthz and /readyz" in json.loads(body)["error"]


def test_probe_that_hangs_holds_up_neither_others_nor_the_stop():
    entered, leave = threading.Event(), threading.Event()

    def hang_once() -> Health:
        if not entered.is_set():
            entered.set()
            leave.wait(30)
        return Health()

    with serving(hang_once) as server, socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert entered.wait(5)

        assert get(server, "/healthz")[0] == 200
        server.stop()

    leave.set()


def test_port_0_takes_a_free_one_and_tells_it():
    with serving(port=0) as server:
        assert server.port > 0
        assert server.url == f"http://127.0.0.1:{server.port}"


def test_taken_port_is_a_fault_that_names_it():
    with serving() as first:
        second = HealthServer(Metrics().registry, Health, port=first.port)

        with pytest.raises(UsageError) as caught:
            second.start()

        assert caught.value.message == (
            f"cannot listen on 127.0.0.1:{first.port}: Address already in use"
        )
        assert "worker.metrics_port" in str(caught.value.hint)
        second.stop()
        assert get(first, "/healthz")[0] == 200


def test_unknown_host_is_a_fault_that_names_it():
    with pytest.raises(UsageError, match=r"cannot listen on no\.such\.host\.invalid:0"):
        HealthServer(Metrics().registry, Health, host="no.such.host.invalid").start()


def test_start_and_stop_tolerate_each_other_twice():
    server = HealthServer(Metrics().registry, Health)
    server.stop()
    server.start()
    port = server.port
    server.start()
    assert server.port == port

    server.stop()
    server.stop()

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    server.start()
    assert get(server, "/healthz")[0] == 200
    server.stop()
