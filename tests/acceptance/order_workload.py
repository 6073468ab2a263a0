"""The workload "order under failure": jobs of many keys, one attempt in ten failing.

20,000 jobs of 200 keys on 8 partitions; which attempts fail is fixed, so that every correct run
has the same 2 dead jobs. From the delays alone no system that keeps order is faster than
`FLOOR_SECONDS`. Judged from the effects and the letters alone.
"""

from __future__ import annotations

import signal
import sqlite3
import time
from collections import Counter
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path

from processor import Client, NewJob
from processor.engine.submit import Accepted
from tests.acceptance.project import Project, eventually

KEYS = 200
FLOOR_SECONDS = 25.0

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


Job = tuple[str, int]  # Key and sequence.


@dataclass(frozen=True, slots=True)
class Told:
    """What came of a run: from the start of the workers to the last effect."""

    seconds: float
    lost: int
    doubled: list[Job]
    out_of_order: list[str]
    dead: list[str]  # Keys of dead letters, one for each.


def worked(project: Project, *, jobs: int, kill: bool) -> Told:
    """Let two workers do it; `kill`: one is killed when half of the jobs have taken effect."""
    project.write_settings(kafka={"session.timeout.ms": 6000, "heartbeat.interval.ms": 1000})
    project.add_schema(
        "order.count", [{"name": "key", "type": "string"}, {"name": "seq", "type": "long"}]
    )
    topic = project.add_topic(
        "order", ["order.count"], partitions=8,
        retry={"delays": ["100ms", "1s", "5s"], "jitter": 0}, status={"publish": False},
    )  # fmt: skip
    project.add_module("order_handlers", MODULE)
    project.provision()
    new = (NewJob("order.count", {"key": key, "seq": seq}, key=key) for key, seq in every(jobs))
    with Client(project.settings()) as client:
        assert all(isinstance(each, Accepted) for each in client.submit_many(new))
    living = jobs - len(expected_dead(jobs))

    started = time.monotonic()
    workers = [project.start("work", "order_handlers:app", "--topic", topic) for _ in range(2)]
    if kill:
        eventually(lambda: len(effects(project)) > jobs // 2, timeout=120)
        workers[0].end(signal.SIGKILL)
    eventually(
        lambda: len(effects(project)) >= living,
        timeout=200,
        otherwise=lambda: workers[1].log.read_text()[-3000:],
    )
    seconds = time.monotonic() - started
    eventually(lambda: waiting(project, topic) == 0, timeout=60)
    for worker in workers[kill:]:
        assert worker.end() == 0
    seen = effects(project)
    return Told(
        seconds=seconds,
        lost=living - len(set(seen)),
        doubled=[each for each, count in Counter(seen).items() if count > 1],
        out_of_order=out_of_order(seen),
        dead=[row["key"] for row in project.run("dead", "list", topic).rows()],
    )


def every(jobs: int) -> list[Job]:
    """All jobs, as they are submitted."""
    return [(f"k{number % KEYS:03d}", number // KEYS) for number in range(jobs)]


def expected_dead(jobs: int) -> list[Job]:
    """The jobs whose four attempts all fail."""
    return [(k, s) for k, s in every(jobs) if all(fails(k, s, n) for n in range(1, 5))]


def fails(key: str, seq: int, attempt: int) -> bool:
    """Whether an attempt fails, as the handler decides it."""
    digest = md5(f"{key}:{seq}:{attempt}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < 10


def effects(project: Project) -> list[Job]:
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


def out_of_order(seen: list[Job]) -> list[str]:
    latest: dict[str, int] = {}
    broken = set()
    for key, seq in seen:
        if seq < latest.get(key, -1):
            broken.add(key)
        latest[key] = max(seq, latest.get(key, -1))
    return sorted(broken)


def waiting(project: Project, topic: str) -> int:
    return sum(row["lag"] + row["retrying"] for row in project.run("lag", topic).rows())
