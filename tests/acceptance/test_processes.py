"""`processor work --processes 2`: both work, a fallen one is replaced, and none is left behind."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from typing import Any

import psutil
import pytest

from tests.acceptance.project import Process, Project, eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.broker]

PARTITIONS = 4

MODULE = """
import time
from processor import App
from processor.sinks.sqlite import SqliteSink

app = App()
TABLE = "CREATE TABLE IF NOT EXISTS effect (n INTEGER)"

@app.job("seq.count", sink=SqliteSink("effect", create=TABLE))
def count(payload: dict) -> dict:
    if payload["n"] < 0:
        open(f"started.{payload['n']}", "w").close()
        time.sleep(-2 * payload["n"])
    return {"n": payload["n"]}
"""


@pytest.fixture
def topic(project: Project) -> str:
    """A topic of four partitions, in a group that notices a dead member soon."""
    project.write_settings(
        kafka={"session.timeout.ms": 6000, "heartbeat.interval.ms": 1000},
        worker={"shutdown_seconds": 10, "drain_seconds": 8},
    )
    project.add_schema("seq.count", [{"name": "n", "type": "long"}])
    project.add_module("handlers", MODULE)
    name = project.add_topic("seq", ["seq.count"], partitions=PARTITIONS)
    project.provision()
    return name


@pytest.fixture
def supervisor(project: Project, topic: str) -> Any:
    """Two workers under one supervisor, each with partitions; none outlives the test."""
    started = project.start("work", "handlers:app", "--topic", topic, "--processes", "2")
    known: set[psutil.Process] = set()
    eventually(lambda: known.update(workers_of(started)) or len(known) == 2)
    eventually(
        lambda: min(owned(started, pid) for pid in pids(known)) >= 1,
        otherwise=lambda: started.log.read_text()[-3000:],
    )
    yield started
    for each in known | set(workers_of(started)):
        if each.is_running():
            each.kill()


def test_both_processes_get_partitions(project: Project, topic: str, supervisor: Process) -> None:
    workers = workers_of(supervisor)

    owners = eventually(lambda: fairly_shared(supervisor, pids(workers)))
    submit(project, range(200))
    eventually(lambda: effects(project) == list(range(200)))
    code = supervisor.end()

    assert sorted(owners.values()) == [2, 2]
    assert code == 0
    assert not any(each.is_running() for each in workers)


def test_a_killed_worker_is_replaced_after_a_pause(
    project: Project, topic: str, supervisor: Process
) -> None:
    first, second = workers_of(supervisor)

    first.kill()
    supervisor.wait_for("worker ended; another takes its place")
    replacement = eventually(
        lambda: [each for each in workers_of(supervisor) if each not in (first, second)]
    )[0]
    eventually(lambda: owned(supervisor, replacement.pid) >= 1)
    submit(project, range(100))
    eventually(lambda: effects(project) == list(range(100)))
    told = [row for row in supervisor.logged() if "takes its place" in str(row.get("event"))]
    code = supervisor.end()

    assert [(row["code"], row["in_seconds"]) for row in told] == [(-signal.SIGKILL, 1.0)]
    assert replacement.pid not in (first.pid, second.pid)
    assert code == 0


def test_a_worker_started_wrongly_ends_all(project: Project, topic: str) -> None:
    # Good when the supervisor looks at it, faulty after that: as when it is edited beneath them.
    once = "from pathlib import Path\nif Path('seen').exists():\n    app = 1\n"
    project.add_module("faulty", MODULE + once + "Path('seen').touch()\n")

    ran = project.run("work", "faulty:app", "--topic", topic, "--processes", "2")

    ran.refused(1, "`faulty:app` is a int, not a processor.App", "cannot start")


def test_sigterm_lets_all_finish_what_they_run(
    project: Project, topic: str, supervisor: Process
) -> None:
    workers = workers_of(supervisor)
    submit(project, [-1])
    eventually(lambda: (project.folder / "started.-1").exists())

    code = supervisor.end()

    assert code == 0
    assert not any(each.is_running() for each in workers)
    assert effects(project) == [-1]
    stopped = [row for row in supervisor.logged() if row.get("event") == "worker stopped"]
    assert {row["worker_id"].rpartition("-")[2] for row in stopped} == pids_as_text(workers)


def test_ctrl_c_on_a_terminal_stops_all_as_cleanly(
    project: Project, topic: str, supervisor: Process
) -> None:
    # A terminal sends SIGINT to its whole foreground process group.
    workers = workers_of(supervisor)
    groups = {os.getpgid(each.pid) for each in workers}
    submit(project, [-1])
    eventually(lambda: (project.folder / "started.-1").exists())

    code = supervisor.end(signal.SIGINT)

    assert os.getpgrp() not in groups  # The supervisor's: it was started from here.
    assert code == 0
    assert not any(each.is_running() for each in workers)
    assert effects(project) == [-1]


def test_a_second_signal_ends_all_at_once(
    project: Project, topic: str, supervisor: Process
) -> None:
    workers = workers_of(supervisor)
    submit(project, [-30])
    eventually(lambda: (project.folder / "started.-30").exists())

    supervisor.process.send_signal(signal.SIGTERM)
    eventually(lambda: count_of(supervisor, "worker stopping") == 2)
    began = time.monotonic()
    code = supervisor.end()
    seconds = time.monotonic() - began

    assert code == 1
    assert seconds < 5  # Less than the drain's budget.
    assert "not every worker stopped cleanly" in supervisor.log.read_text()
    assert not any(each.is_running() for each in workers)
    assert effects(project) == []


@pytest.mark.slow
def test_workers_stop_when_their_supervisor_is_killed(
    project: Project, topic: str, supervisor: Process
) -> None:
    workers = workers_of(supervisor)
    submit(project, [-1])
    eventually(lambda: (project.folder / "started.-1").exists())

    supervisor.end(signal.SIGKILL)
    eventually(
        lambda: not any(each.is_running() for each in workers),
        timeout=20,
        otherwise=lambda: supervisor.log.read_text()[-3000:],
    )

    # As on SIGTERM: what ran was finished and committed.
    assert effects(project) == [-1]
    assert sum(row["lag"] for row in project.run("lag", topic).ok().rows()) == 0
    assert count_of(supervisor, "the supervisor is gone; its worker stops") == 2


def workers_of(supervisor: Process) -> list[psutil.Process]:
    return psutil.Process(supervisor.pid).children() if supervisor.process.poll() is None else []


def pids(workers: Any) -> list[int]:
    return [each.pid for each in workers]


def pids_as_text(workers: list[psutil.Process]) -> set[str]:
    return {str(each.pid) for each in workers}


def count_of(supervisor: Process, event: str) -> int:
    return sum(row.get("event") == event for row in supervisor.logged())


def owned(supervisor: Process, pid: int) -> int:
    """How many partitions a worker has taken over so far, as the log they share tells."""
    return sum(
        row.get("event") == "partition taken over" and row["worker_id"].endswith(f"-{pid}")
        for row in supervisor.logged()
    )


def fairly_shared(supervisor: Process, workers: list[int]) -> dict[int, int] | None:
    """Who owns each partition now: the one that took it over last."""
    owner: dict[str, int] = {}
    for row in supervisor.logged():
        if row.get("event") == "partition taken over":
            owner[row["partition"]] = int(row["worker_id"].rpartition("-")[2])
    shares = {pid: sum(each == pid for each in owner.values()) for pid in workers}
    return shares if min(shares.values()) == PARTITIONS // 2 else None


def submit(project: Project, numbers: Any) -> None:
    lines = "".join(f'{{"n": {n}}}\n' for n in numbers)
    project.run("submit", "seq.count", "--from", "-", stdin=lines).ok()


def effects(project: Project) -> list[int]:
    with sqlite3.connect(project.folder / ".processor" / "ledger.db") as connection:
        known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'effect'").fetchone()
        rows = connection.execute("SELECT n FROM effect ORDER BY n").fetchall() if known else []
    return [row[0] for row in rows]
