from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.project import Process, Project


@pytest.fixture
def servers(kafka: Any, registry: Any) -> dict[str, dict[str, Any]]:
    return {
        "kafka": {"bootstrap.servers": kafka.bootstrap_servers},
        "registry": {"url": registry.url},
    }


@pytest.fixture
def project(tmp_path: Path, servers: dict[str, dict[str, Any]]) -> Iterator[Project]:
    """A project with a file claim store; what it started is ended with the test."""
    made = Project(tmp_path, {**servers, "claims": {"store": (tmp_path / "claims").as_uri()}})
    started: list[Process] = []
    start = made.start

    def remembered(*arguments: str, **more: Any) -> Process:
        started.append(start(*arguments, **more))
        return started[-1]

    made.start = remembered  # type: ignore[method-assign]
    yield made
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()
