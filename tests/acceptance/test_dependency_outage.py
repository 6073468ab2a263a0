"""What a handler calls is away for a while, so every job fails; then it is back.

Each job keeps the attempts it is owed: one that waited behind another of its key has not been
attempted. So an outage that is shorter than a job's own delays kills none.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import pytest

from processor import Client, NewJob
from processor.engine.submit import Accepted
from tests.acceptance.project import Project, eventually

JOBS = int(os.environ.get("TEST_OUTAGE_JOBS", "2000"))
KEYS = 50
DELAYS = ["500ms", "1s", "3s"]
OUTAGE_SECONDS = 3.0  # A job lives through 4.5 s, its delays together; busy machines are late.

MODULE = """
from pathlib import Path
from processor import App
from processor.sinks.sqlite import SqliteSink

app = App()
TABLE = "CREATE TABLE IF NOT EXISTS effect (place INTEGER PRIMARY KEY, key TEXT, seq INTEGER)"

@app.job("order.count", sink=SqliteSink("effect", create=TABLE))
def count(payload: dict, ctx) -> dict:
    Path("tries").open("a").write(".")
    if not Path("up").exists():
        raise ConnectionError("the dependency is away")
    return payload
"""


@pytest.mark.acceptance
@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_outage_shorter_than_the_delays_kills_no_job_and_breaks_no_order(project: Project) -> None:
    project.add_schema(
        "order.count", [{"name": "key", "type": "string"}, {"name": "seq", "type": "long"}]
    )
    topic = project.add_topic(
        "outage", ["order.count"], partitions=4,
        retry={"delays": DELAYS, "jitter": 0}, status={"publish": False},
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
    tries = Path(project.folder) / "tries"

    workers = [project.start("work", "handlers:app", "--topic", topic) for _ in range(2)]
    eventually(tries.exists)
    away_until = time.monotonic() + OUTAGE_SECONDS
    eventually(lambda: time.monotonic() >= away_until)
    failed = tries.stat().st_size
    (Path(project.folder) / "up").touch()
    eventually(lambda: len(effects(project)) >= JOBS, timeout=120)
    for worker in workers:
        assert worker.end() == 0

    seen = effects(project)
    print(f"{JOBS} jobs, {failed} attempts failed in an outage of {OUTAGE_SECONDS:.0f} s")
    assert failed >= 2 * KEYS
    assert project.run("dead", "list", topic).rows() == []
    assert [each for each, n in Counter(seen).items() if n > 1] == []
    by_key: dict[str, list[int]] = {}
    for key, seq in seen:
        by_key.setdefault(key, []).append(seq)
    assert [key for key, seqs in by_key.items() if seqs != sorted(seqs)] == []


def effects(project: Project) -> list[tuple[str, int]]:
    import sqlite3

    database = Path(project.folder) / ".processor" / "ledger.db"
    connection = sqlite3.connect(database, timeout=30)
    try:
        return connection.execute("SELECT key, seq FROM effect ORDER BY place").fetchall()
    except sqlite3.OperationalError:
        return []  # No job has taken effect yet.
    finally:
        connection.close()
