"""`python -m processor.probe` asks every process of a pod and says which is not well."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from processor.adapters.health import HealthServer
from processor.engine.telemetry import Check, Health


@pytest.fixture
def servers() -> Iterator[list[HealthServer]]:
    """Two workers of a pod: both live, the second not ready."""
    made = [
        HealthServer(CollectorRegistry(), lambda ready=ready: Health((LOOP,), ready=ready))
        for ready in (True, False)
    ]
    for each in made:
        each.start()
    yield made
    for each in made:
        each.stop()


LOOP = Check("loop", True, "turned 0.1 s ago")


def probe(path: str, *ports: int, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "processor.probe", path, *map(str, ports)],
        capture_output=True, text=True, timeout=30, env={**os.environ, **environment},
    )  # fmt: skip


def test_all_must_answer_well(servers: list[HealthServer]) -> None:
    first, second = (each.port for each in servers)

    live = probe("/healthz", first, second)
    ready = probe("/readyz", first, second)

    assert (live.returncode, live.stderr) == (0, "")
    assert ready.returncode == 1
    assert ready.stderr.startswith(f"port {second}: 503 ")
    assert f"port {first}" not in ready.stderr


def test_one_that_has_fallen_is_told(servers: list[HealthServer]) -> None:
    first, second = (each.port for each in servers)
    servers[1].stop()

    told = probe("/healthz", first, second)

    assert told.returncode == 1
    assert told.stderr.startswith(f"port {second}: ")


def test_they_are_asked_where_the_workers_listen(servers: list[HealthServer]) -> None:
    port = servers[0].port

    elsewhere = probe("/healthz", port, PROCESSOR_WORKER_METRICS_HOST="127.0.0.2")

    assert elsewhere.returncode == 1
