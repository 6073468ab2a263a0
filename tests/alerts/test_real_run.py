"""Alerts and dashboard with a real Prometheus, on real workers that are well and then are not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance.project import Process, Project
from tests.alerts.rules import alerts
from tests.alerts.run import Seen, queries, whole_run

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.broker,
    pytest.mark.slow,
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, kafka: Any, registry: Any) -> Iterator[Seen]:
    """One run for all of these tests."""
    settings = {
        "kafka": {"bootstrap.servers": kafka.bootstrap_servers},
        "registry": {"url": registry.url},
    }
    project = Project(tmp_path_factory.mktemp("project"), settings)
    started: list[Process] = []
    start = project.start

    def remembered(*arguments: str, **more: Any) -> Process:
        started.append(start(*arguments, **more))
        return started[-1]

    project.start = remembered  # type: ignore[method-assign]
    try:
        found = whole_run(project, kafka, tmp_path_factory.mktemp("prometheus"), print)
    finally:
        for each in started:
            if each.process.poll() is None:
                each.process.kill()
                each.process.wait()
    table = "\n".join(f"  {title}: {values}" for title, values in found.panels.items())
    times = "\n".join(f"  {name}: {seconds:.1f} s" for name, (seconds, _) in found.fired.items())
    print(f"alerts\n{times}\npanels\n{table}")
    yield found


def test_nothing_fires_while_all_is_well(seen: Seen):
    assert seen.healthy == []


@pytest.mark.parametrize("name", [each["alert"] for each in alerts()])
def test_alert_fires_in_a_run_that_provokes_it(seen: Seen, name: str):
    _, alert = seen.fired[name]

    assert "<no value>" not in str(alert["annotations"])


def test_topic_that_is_well_beside_the_others_has_no_alert(seen: Seen):
    assert seen.good <= {"ProcessorPartitionsUnowned"}  # Its worker was stopped, too.


@pytest.mark.parametrize(("title", "query"), queries())
def test_panel_s_query_gives_data(seen: Seen, title: str, query: str):
    assert seen.panels[f"{title}: {query}"] != []
