"""Jobs of many keys, one attempt in ten failing: each key's effects stay in order, and no key waits
for another. Judged from the effects alone; with a worker killed half way the same must hold.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from hashlib import md5
from pathlib import Path

import pytest

from processor import Client, NewJob
from processor.engine.submit import Accepted
from tests.acceptance.project import Project, eventually

JOBS = int(os.environ.get("TEST_ORDER_JOBS", "20000"))
KEYS = 200
FLOOR_SECONDS = 25.0  # From the delays alone no system that keeps order can be faster.

MODULE = """
import os, time
from hashlib import md5
from processor import App
from processor.sinks.sqlite import SqliteSink

app = App()
TABLE = "CREATE TABLE IF NOT EXISTS effect (place INTEGER PRIMARY KEY, key TEXT, seq INTEGER)"

@app.job("order.count", sink=SqliteSink("effect", create=TABLE))
def count(payload: dict, ctx) -> dict:
    key, seq = payload["key"], payload["seq"]
    if int.from_bytes(md5(f"{key}:{seq}:{ctx.attempt}".encode()).digest()[:4], "big") % 100 < 10:
        raise OSError("not now")
    return {"key": key, "seq": seq}
"""


def fails(key: str, seq: int, attempt: int) -> bool:
    digest = md5(f"{key}:{seq}:{attempt}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < 10


def expected_dead() -> set[tuple[str, int]]:
    every = ((f"k{i % KEYS:03d}", i // KEYS) for i in range(JOBS))
    return {(k, s) for k, s in every if all(fails(k, s, attempt) for attempt in range(1, 5))}


@pytest.mark.acceptance
@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kill", [False, True], ids=["undisturbed", "one worker killed"])
def test_keys_keep_their_order_while_jobs_fail(project: Project, kill: bool) -> None:
    project.write_settings(kafka={"session.timeout.ms": 6000, "heartbeat.interval.ms": 1000})
    project.add_schema(
        "order.count", [{"name": "key", "type": "string"}, {"name": "seq", "type": "long"}]
    )
    topic = project.add_topic(
        "order", ["order.count"], partitions=8,
        retry={"delays": ["100ms", "1s", "5s"], "jitter": 0}, status={"publish": False},
    )  # fmt: skip
    project.add_module("handlers", MODULE)
    project.provision()
    jobs = (
        NewJob("order.count", {"key": f"k{i % KEYS:03d}", "seq": i // KEYS}, key=f"k{i % KEYS:03d}")
        for i in range(JOBS)
    )
    with Client(project.settings()) as client:
        refused = [each for each in client.submit_many(jobs) if not isinstance(each, Accepted)]
    assert refused == []

    started = time.monotonic()
    workers = [project.start("work", "handlers:app", "--topic", topic) for _ in range(2)]
    if kill:
        eventually(lambda: len(effects(project)) > JOBS // 2, timeout=120)
        workers[0].end(signal.SIGKILL)
    dead = expected_dead()
    eventually(
        lambda: len(effects(project)) >= JOBS - len(dead),
        timeout=200,
        otherwise=lambda: workers[1].log.read_text()[-3000:],
    )
    seconds = time.monotonic() - started
    eventually(lambda: waiting(project, topic) == 0, timeout=60)
    for worker in workers[kill:]:
        assert worker.end() == 0

    seen = effects(project)
    letters = project.run("dead", "list", topic).rows()
    print(f"{JOBS} jobs, killed {kill}: {seconds:.1f} s, {len(letters)} dead")
    assert [each for each, n in Counter(seen).items() if n > 1] == []
    assert len(seen) == JOBS - len(dead)
    assert {(row["key"]) for row in letters} == {key for key, _ in dead}
    assert out_of_order(seen) == []
    if not kill:
        assert seconds < 3 * FLOOR_SECONDS  # Its own machine: `make bench` measures.


def effects(project: Project) -> list[tuple[str, int]]:
    import sqlite3

    database = Path(project.folder) / ".processor" / "ledger.db"
    if not database.exists():
        return []
    connection = sqlite3.connect(database, timeout=30)
    try:
        return connection.execute("SELECT key, seq FROM effect ORDER BY place").fetchall()
    except sqlite3.OperationalError:
        return []  # The first worker is just making the table.
    finally:
        connection.close()


def out_of_order(seen: list[tuple[str, int]]) -> list[str]:
    latest: dict[str, int] = {}
    broken = set()
    for key, seq in seen:
        if seq < latest.get(key, -1):
            broken.add(key)
        latest[key] = max(seq, latest.get(key, -1))
    return sorted(broken)


def waiting(project: Project, topic: str) -> int:
    return sum(row["lag"] + row["retrying"] for row in project.run("lag", topic).rows())
