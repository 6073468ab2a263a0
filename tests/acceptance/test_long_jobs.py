"""Jobs that run longer than the group's patience, and longer than a worker's when it must go."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
import urllib.request
from collections import Counter
from itertools import count

import pytest

from processor.contracts.partitioner import partition_of
from tests.acceptance.project import Process, Project, eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.broker, pytest.mark.slow]

PATIENCE_MS = 6000
LONG_SECONDS = 15
PARTITIONS = 3

MODULE = """
import asyncio, os, time
from processor import App
from processor.sinks.sqlite import SqliteSink

app = App()
TABLE = "CREATE TABLE IF NOT EXISTS effect (name TEXT)"
log = os.open("runs.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def tell(what, payload):
    os.write(log, f"{what} {payload['name']}\\n".encode())

@app.job("long.sync", sink=SqliteSink("effect", create=TABLE))
def sleep(payload: dict) -> dict:
    tell("start", payload)
    time.sleep(payload["seconds"])
    tell("end", payload)
    return {"name": payload["name"]}

@app.job("long.async", sink=SqliteSink("effect", create=TABLE))
async def sleep_async(payload: dict) -> dict:
    tell("start", payload)
    try:
        await asyncio.sleep(payload["seconds"])
    except asyncio.CancelledError:
        tell("cancelled", payload)
        raise
    tell("end", payload)
    return {"name": payload["name"]}

@app.job("long.polite", sink=SqliteSink("effect", create=TABLE))
def wait(payload: dict, ctx) -> dict:
    tell("start", payload)
    if ctx.cancellation.wait(payload["seconds"]):
        assert ctx.cancelled
        tell("cancelled", payload)
        ctx.raise_if_cancelled()
    tell("end", payload)
    return {"name": payload["name"]}

@app.job("long.stubborn", sink=SqliteSink("effect", create=TABLE))
def stay(payload: dict) -> dict:
    first = not os.path.exists(payload["name"])
    open(payload["name"], "w").close()
    tell("start", payload)
    until = time.monotonic() + payload["seconds"]
    while first and time.monotonic() < until and not os.path.exists("let go"):
        time.sleep(0.05)
    tell("end", payload)
    return {"name": payload["name"]}
"""
TYPES = ["long.sync", "long.async", "long.polite", "long.stubborn"]


@pytest.fixture
def topic(project: Project) -> str:
    """A topic in a group that takes a member for dead after six seconds without a poll."""
    project.write_settings(
        kafka={
            "max.poll.interval.ms": PATIENCE_MS,
            "session.timeout.ms": PATIENCE_MS,
            "heartbeat.interval.ms": 1000,
        },
        worker={"drain_seconds": 1, "shutdown_seconds": 3, "metrics_port": 0},
    )
    fields = [{"name": "name", "type": "string"}, {"name": "seconds", "type": "double"}]
    for job_type in TYPES:
        project.add_schema(job_type, fields)
    project.add_module("handlers", MODULE)
    name = project.add_topic("long", TYPES, partitions=PARTITIONS)
    project.provision()
    return name


def started(project: Project, topic: str) -> Process:
    worker = project.start("work", "handlers:app", "--topic", topic)
    worker.wait_for("partition taken over")
    return worker


def test_long_jobs_keep_their_partitions_and_others_go_on(project: Project, topic: str) -> None:
    worker = started(project, topic)

    submit(project, "long.sync", "sync", seconds=LONG_SECONDS, partition=0)
    submit(project, "long.async", "async", seconds=LONG_SECONDS, partition=1)
    eventually(lambda: told(project, "start") == Counter(sync=1, **{"async": 1}))
    submit(project, "long.sync", "behind", seconds=0, partition=0)
    submit(project, "long.sync", "beside", seconds=0, partition=2)
    eventually(lambda: effects(project) == ["beside"], timeout=LONG_SECONDS - 5)
    ended_meanwhile = told(project, "end")
    eventually(lambda: len(effects(project)) == 4)
    eventually(lambda: waiting(project, topic) == 0)
    metrics = scraped(worker)
    code = worker.end()

    assert ended_meanwhile == Counter(beside=1)
    assert sorted(effects(project)) == ["async", "behind", "beside", "sync"]
    assert effects(project).index("sync") < effects(project).index("behind")
    assert told(project, "start") == Counter(effects(project))  # No second run.
    assert metrics['processor_rebalances_total{kind="assigned"}'] == 1
    assert metrics.get('processor_rebalances_total{kind="revoked"}', 0) == 0
    assert metrics.get('processor_rebalances_total{kind="lost"}', 0) == 0
    assert code == 0


def test_worker_leaves_in_time_and_the_next_runs_its_job_again(
    project: Project, topic: str
) -> None:
    first = started(project, topic)
    job_id = submit(project, "long.stubborn", "stubborn", seconds=60, partition=0)
    eventually(lambda: told(project, "start")["stubborn"] == 1)

    began = time.monotonic()
    code = first.end()
    seconds = time.monotonic() - began
    handed_back = waiting(project, topic)
    second = started(project, topic)
    eventually(lambda: effects(project) == ["stubborn"])
    eventually(lambda: waiting(project, topic) == 0)
    second.end()

    print(f"left {seconds:.1f} s after SIGTERM")
    assert code == 0
    assert 1 <= seconds < 3 + 1
    assert handed_back == 1
    assert told(project, "start") == Counter(stubborn=2)
    assert told(project, "end") == Counter(stubborn=1)
    assert effects(project) == ["stubborn"]
    status = project.run("status", job_id).ok().rows()[0]
    assert (status["state"], status["attempts"]) == ("succeeded", 1)


@pytest.mark.parametrize("job_type", ["long.polite", "long.async"])
def test_job_is_told_when_its_worker_must_go(project: Project, topic: str, job_type: str) -> None:
    worker = started(project, topic)
    submit(project, job_type, "told", seconds=60, partition=0)
    eventually(lambda: told(project, "start")["told"] == 1)

    code = worker.end()

    assert code == 0
    assert told(project, "cancelled") == Counter(told=1)
    assert effects(project) == []
    assert waiting(project, topic) == 1


def test_job_whose_partition_moves_on_takes_effect_once(project: Project, topic: str) -> None:
    first = started(project, topic)
    names = [f"job-{number}" for number in range(PARTITIONS)]
    for number, name in enumerate(names):
        submit(project, "long.stubborn", name, seconds=60, partition=number)
    eventually(lambda: sum(told(project, "start").values()) == PARTITIONS)

    second = started(project, topic)
    (project.folder / "let go").touch()
    eventually(lambda: sorted(effects(project)) == names)
    eventually(lambda: waiting(project, topic) == 0)
    # Every run has ended, also those whose partition was taken away in the middle.
    eventually(lambda: told(project, "end") == told(project, "start"))
    codes = first.end(), second.end()

    runs = told(project, "start")
    assert set(runs) == set(names)
    assert sum(runs.values()) > len(names), "no partition moved: the test shows nothing"
    assert sorted(effects(project)) == names
    assert codes == (0, 0)


def test_job_that_ignores_its_timeout_loses_its_thread_not_its_partition(
    project: Project, topic: str
) -> None:
    project.write_settings(worker={"timeout_seconds": 1, "timeout_grace_seconds": 1})
    worker = started(project, topic)
    submit(project, "long.sync", "endless", seconds=60, partition=0)
    submit(project, "long.sync", "next", seconds=0, partition=0)

    worker.wait_for("job abandoned: it ignores its timeout")
    eventually(lambda: effects(project) == ["next"])
    code = worker.end(signal.SIGTERM)

    assert code == 0
    assert told(project, "end") == Counter(next=1)


def submit(project: Project, job_type: str, name: str, *, seconds: float, partition: int) -> str:
    """Submit a job with a key of its own that leads to the partition."""
    keys = (f"{name}-{n}" for n in count())
    key = next(key for key in keys if partition_of(key.encode(), PARTITIONS) == partition)
    document = json.dumps({"name": name, "seconds": seconds})
    row = project.run("submit", job_type, "--json", document, "--key", key).ok().rows()[0]
    assert row["partition"] == partition
    return str(row["job_id"])


def told(project: Project, what: str) -> Counter[str]:
    """How often each job has told this of itself."""
    log = project.folder / "runs.log"
    lines = log.read_text().splitlines() if log.exists() else []
    return Counter(line.split()[1] for line in lines if line.startswith(f"{what} "))


def effects(project: Project) -> list[str]:
    """The rows that the handlers have left, in order."""
    with sqlite3.connect(project.folder / ".processor" / "ledger.db") as connection:
        known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'effect'").fetchone()
        rows = connection.execute("SELECT name FROM effect ORDER BY rowid") if known else []
        return [name for (name,) in rows]


def waiting(project: Project, topic: str) -> int:
    rows = project.run("lag", topic).ok().rows()
    return sum(row["lag"] + row["retrying"] for row in rows)


def scraped(worker: Process) -> dict[str, float]:
    """The worker's metrics, by name and labels."""
    url = next(row["url"] for row in worker.logged() if row["event"] == "probes and metrics answer")
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    pairs = [line.rpartition(" ") for line in lines if not line.startswith("#")]
    return {name: float(value) for name, _, value in pairs}
