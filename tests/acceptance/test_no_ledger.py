"""Workers without a ledger, one of them killed: nothing lost, first effects in their order."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from processor import Client, NewJob
from processor.engine.submit import Accepted
from tests.acceptance.project import Project, eventually

JOBS = int(os.environ.get("TEST_NO_LEDGER_JOBS", "4000"))
KEYS = 40

MODULE = """
import os
from hashlib import md5
from processor import App, Reject

app = App()
effects = os.open("effects", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@app.job("order.count")
def count(payload: dict, ctx) -> None:
    key, seq = payload["key"], payload["seq"]
    chance = int.from_bytes(md5(f"{key}:{seq}".encode()).digest()[:4], "big") % 100
    if chance < 2:
        raise Reject("never")
    if chance < 10 and ctx.attempt == 1:
        raise OSError("not now")
    os.write(effects, f"{key} {seq}\\n".encode())
"""


@pytest.mark.acceptance
@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_without_a_ledger_nothing_is_lost_and_first_effects_are_in_order(project: Project) -> None:
    project.write_settings(
        ledger={"url": "none"},
        kafka={"session.timeout.ms": 6000, "heartbeat.interval.ms": 1000},
    )
    project.add_schema(
        "order.count", [{"name": "key", "type": "string"}, {"name": "seq", "type": "long"}]
    )
    topic = project.add_topic(
        "plain", ["order.count"], partitions=4,
        retry={"delays": ["100ms", "500ms"], "jitter": 0}, status={"publish": False},
    )  # fmt: skip
    project.add_module("handlers", MODULE)
    project.provision()
    jobs = (
        NewJob("order.count", {"key": f"k{i % KEYS:02d}", "seq": i // KEYS}, key=f"k{i % KEYS:02d}")
        for i in range(JOBS)
    )
    with Client(project.settings()) as client:
        refused = [each for each in client.submit_many(jobs) if not isinstance(each, Accepted)]
    assert refused == []

    workers = [project.start("work", "handlers:app", "--topic", topic) for _ in range(2)]
    eventually(lambda: len(effects(project)) > JOBS // 4, timeout=60)
    workers[0].end(signal.SIGKILL)
    eventually(
        lambda: waiting(project, topic) == 0,
        timeout=100,
        otherwise=lambda: workers[1].log.read_text()[-3000:],
    )
    assert workers[1].end() == 0

    first = list(dict.fromkeys(effects(project)))
    dead = {row["job_id"] for row in project.run("dead", "list", topic).rows()}
    assert not Path(project.folder, ".processor").exists()
    assert len(first) + len(dead) == JOBS
    assert 0 < len(dead) < JOBS // 20
    by_key: dict[str, list[int]] = {}
    for key, seq in first:
        by_key.setdefault(key, []).append(seq)
    assert [key for key, seqs in by_key.items() if seqs != sorted(seqs)] == []


def test_policy_hold_needs_a_ledger(project: Project) -> None:
    project.write_settings(ledger={"url": "none"})
    project.add_schema("order.count", [{"name": "key", "type": "string"}])
    topic = project.add_topic("held", ["order.count"], dead_letter={"policy": "hold"})
    project.add_module("handlers", MODULE)
    project.provision()

    project.run("work", "handlers:app", "--topic", topic).refused(2, "hold", "ledger.url")


def test_giving_jobs_up_needs_a_ledger(project: Project) -> None:
    project.write_settings(ledger={"url": "none"})
    project.add_schema("order.count", [{"name": "key", "type": "string"}])
    topic = project.add_topic("given", ["order.count"])
    project.provision()

    for action in ("purge", "release"):
        project.run("dead", action, topic, "--yes").refused(2, "needs a ledger", "none")


def effects(project: Project) -> list[tuple[str, int]]:
    found = Path(project.folder) / "effects"
    lines = found.read_text().splitlines() if found.exists() else []
    return [(key, int(seq)) for key, _, seq in (line.partition(" ") for line in lines)]


def waiting(project: Project, topic: str) -> int:
    return sum(row["lag"] + row["retrying"] for row in project.run("lag", topic).rows())
