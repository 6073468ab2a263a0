"""Workers killed and stopped under load: every job takes effect once, and no commit runs ahead."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from processor import Client, NewJob
from processor.adapters.reader import TopicReader
from processor.engine.submit import Accepted
from processor.model import Partition
from tests.acceptance.project import Process, Project, eventually

JOBS = int(os.environ.get("TEST_KILLS_JOBS", "100000"))
PARTITIONS = 12
WORKERS = 3

MODULE = """
import os
from processor import App
from processor.sinks.sqlite import SqliteSink

app = App()
runs = os.open("runs.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
TABLE = "CREATE TABLE IF NOT EXISTS effect (n INTEGER)"

@app.job("seq.count", sink=SqliteSink("effect", create=TABLE))
def count(payload: dict) -> dict:
    os.write(runs, b"%d %d\\n" % (payload["n"], os.getpid()))
    return {"n": payload["n"]}
"""


class Sampler:
    """Compares what the broker has committed with what the ledger has settled, again and again."""

    def __init__(self, project: Project, topic: str) -> None:
        self._project, self._topic = project, topic
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample_all, daemon=True)
        self.samples = 0
        self.ahead: list[str] = []

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample_all(self) -> None:
        settings = self._project.settings()
        partitions = [Partition(self._topic, number) for number in range(PARTITIONS)]
        contiguous = Counter[int]()  # The first offset of each partition not known as settled.
        beyond: dict[int, set[int]] = defaultdict(set)
        seen_at = -1.0
        database = self._project.folder / ".processor" / "ledger.db"
        with TopicReader(settings.kafka, group=settings.worker.group) as reader:
            while not self._stop.wait(0.2):
                committed = reader.committed(partitions)
                # Read after the commits: what they rest on must be there by now.
                for number, offset, at in _settled_since(database, seen_at):
                    beyond[number].add(offset)
                    seen_at = at
                for number in range(PARTITIONS):
                    while contiguous[number] in beyond[number]:
                        beyond[number].remove(contiguous[number])
                        contiguous[number] += 1
                    offset = committed[Partition(self._topic, number)][0] or 0
                    self.samples += 1
                    if offset > contiguous[number]:
                        self.ahead.append(f"p{number}: committed {offset} > {contiguous[number]}")


def _settled_since(database: Path, at: float) -> list[tuple[int, int, float]]:
    if not database.exists():
        return []
    connection = sqlite3.connect(database, timeout=30)
    try:
        # Some seconds' overlap: rows of slower transactions carry earlier times.
        return connection.execute(
            "SELECT origin_partition, origin_offset, at FROM processor_ledger"
            " WHERE state = 'done' AND at > ? ORDER BY at",
            (at - 5,),
        ).fetchall()
    except sqlite3.OperationalError:
        return []  # The first worker is just making the table.
    finally:
        connection.close()


@pytest.mark.acceptance
@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_workers_killed_and_stopped_lose_and_double_nothing(project: Project) -> None:
    project.write_settings(kafka={"session.timeout.ms": 6000, "heartbeat.interval.ms": 1000})
    project.add_schema("seq.count", [{"name": "n", "type": "long"}])
    topic = project.add_topic("seq", ["seq.count"], partitions=PARTITIONS)
    project.add_module("handlers", MODULE)
    project.provision()
    killed: set[int] = set()

    def start() -> Process:
        return project.start("work", "handlers:app", "--topic", topic)

    with Sampler(project, topic) as sampler:
        workers = [start() for _ in range(WORKERS)]
        with Client(project.settings()) as client:
            jobs = (NewJob("seq.count", {"n": n}, key=f"k{n % 997}") for n in range(JOBS))
            feeding = threading.Thread(
                target=lambda: refused.extend(
                    a for a in client.submit_many(jobs) if not isinstance(a, Accepted)
                ),
                daemon=True,
            )
            refused: list[object] = []
            feeding.start()
            for number, how in enumerate([signal.SIGKILL, signal.SIGTERM] * WORKERS):
                _wait_for_runs(project, JOBS * (number + 1) // (2 * WORKERS + 2))
                place = number // 2
                workers[place].wait_for("partition taken over")
                if how == signal.SIGKILL:
                    killed.add(workers[place].pid)
                code = workers[place].end(how)
                assert code == (-signal.SIGKILL if how == signal.SIGKILL else 0)
                workers[place] = start()
            feeding.join()
        assert refused == []
        eventually(
            lambda: _lag(project, topic) == 0,
            timeout=120,
            otherwise=lambda: "".join(w.log.read_text()[-1500:] for w in workers),
        )
        for worker in workers:
            assert worker.end() == 0

    effects = _effects(project)
    runs = _runs(project)
    assert set(effects) == set(range(JOBS))
    assert [n for n, count in effects.items() if count > 1] == []
    assert sampler.ahead == []
    assert sampler.samples >= PARTITIONS * 10
    # Only a killed worker may leave a run behind that another repeats.
    repeated = [n for n, pids in runs.items() if any(pid not in killed for pid in pids[:-1])]
    assert repeated == []
    print(f"jobs {JOBS}, samples {sampler.samples}, "
          f"runs repeated after SIGKILL {sum(len(p) - 1 for p in runs.values())}")  # fmt: skip


def _wait_for_runs(project: Project, count: int) -> None:
    log = project.folder / "runs.log"
    eventually(lambda: log.exists() and log.stat().st_size >= count * 9, timeout=120)


def _runs(project: Project) -> dict[int, list[int]]:
    runs: dict[int, list[int]] = defaultdict(list)
    for line in (project.folder / "runs.log").read_text().splitlines():
        n, pid = line.split()
        runs[int(n)].append(int(pid))
    return runs


def _effects(project: Project) -> Counter[int]:
    database = project.folder / ".processor" / "ledger.db"
    with sqlite3.connect(database) as connection:
        return Counter(row[0] for row in connection.execute("SELECT n FROM effect"))


def _lag(project: Project, topic: str) -> int:
    time.sleep(0.3)
    rows = project.run("lag", topic).rows()
    return sum(row["lag"] + row["retrying"] for row in rows)
