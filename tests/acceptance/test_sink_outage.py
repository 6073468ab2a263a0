"""The S3 server that results are written to is killed under load, and started again."""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from processor import Client, NewJob
from processor.adapters.objects.stores import Objects
from processor.engine.submit import Accepted
from tests.acceptance.project import Process, Project, eventually
from tests.adapters.objects.conformance import read
from tests.adapters.objects.s3_server import fresh_base, settings_for

OUTAGE_SECONDS = float(os.environ.get("TEST_OUTAGE_SECONDS", "8"))
# The promise is 10 s, by a machine of its own. The short form shares one, whose disk may stall.
RESUMED_SECONDS_MAX = 10.0 if "TEST_OUTAGE_SECONDS" in os.environ else 60.0
KEYS = 40
RATE = 100  # Jobs a second.

MODULE = """
import os
from processor import App
from processor.adapters.objects.stores import Objects
from processor.settings import load_settings
from processor.sinks.objects import ObjectSink

app = App()

class Telling(ObjectSink):
    def write(self, effects):
        uris = super().write(effects)
        with open("wrote", "a") as file:
            file.write("".join(f"{e.result['key']} {e.result['seq']}\\n" for e in effects))
        return uris

@app.job("sink.write", sink=Telling(Objects(load_settings()), os.environ["RESULTS"]))
def write(payload: dict, ctx) -> dict:
    return {**payload, "attempt": ctx.attempt}

@app.job("sink.other")
def other(payload: dict, ctx) -> None:
    open("other", "a").write("x")
"""


def probe(worker: Process, path: str) -> int:
    url = next(row["url"] for row in worker.logged() if row["event"] == "probes and metrics answer")
    try:
        with urllib.request.urlopen(url + path, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.acceptance
@pytest.mark.broker
@pytest.mark.s3
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_s3_server_pauses_what_needs_it_and_work_goes_on_by_itself(
    project: Project, s3: Any
) -> None:
    base = fresh_base(s3)
    project.write_settings(
        s3=s3.settings,
        worker={"metrics_port": 0},
    )
    for job_type in ("sink.write", "sink.other"):
        project.add_schema(
            job_type, [{"name": "key", "type": "string"}, {"name": "seq", "type": "long"}]
        )
    main = project.add_topic("sink", ["sink.write"], partitions=4)
    others = project.add_topic("other", ["sink.other"], partitions=4)
    project.add_module("handlers", MODULE)
    project.provision()
    jobs: list[tuple[str, int]] = []
    over = threading.Event()

    def feed() -> None:
        with Client(project.settings()) as client:
            while not over.wait(10 / RATE):
                new = [(f"k{n % KEYS:02d}", n // KEYS) for n in range(len(jobs), len(jobs) + 10)]
                answers = client.submit_many(
                    NewJob("sink.write", {"key": key, "seq": seq}, key=key) for key, seq in new
                )
                assert all(isinstance(each, Accepted) for each in answers)
                jobs.extend(new)

    wrote = project.folder / "wrote"
    worker = project.start(
        "work", "handlers:app", "--topic", main, "--topic", others, env={"RESULTS": base}
    )
    feeding = threading.Thread(target=feed, daemon=True)
    feeding.start()
    try:
        eventually(lambda: wrote.exists() and lines(wrote) > RATE)
        s3.stop(kill=True)
        away_until = time.monotonic() + OUTAGE_SECONDS
        worker.wait_for("waiting for something that is away")
        submitted = [{"key": f"k{n}", "seq": n} for n in range(20)]
        text = "\n".join(json.dumps(each) for each in submitted)
        project.run("submit", "sink.other", "--from", "-", stdin=text).ok()
        eventually(lambda: (project.folder / "other").exists()
                   and (project.folder / "other").stat().st_size == len(submitted))  # fmt: skip
        probes = probe(worker, "/healthz"), probe(worker, "/readyz")
        before = lines(wrote)
        eventually(lambda: time.monotonic() >= away_until, timeout=2 * OUTAGE_SECONDS + 60)
        during = lines(wrote) - before
        s3.start()
        answers_at = time.monotonic()
        eventually(lambda: lines(wrote) > before, timeout=RESUMED_SECONDS_MAX + 10)
        resumed = time.monotonic() - answers_at
    finally:
        over.set()
        feeding.join()
    eventually(lambda: lines(wrote) >= len(jobs), timeout=120)
    assert worker.end() == 0

    print(f"{len(jobs)} jobs, S3 away for {OUTAGE_SECONDS:.0f} s; first result {resumed:.1f} s"
          " after it answered again")  # fmt: skip
    seen = [(key, int(seq)) for key, seq in map(str.split, wrote.read_text().splitlines())]
    by_key: dict[str, list[int]] = {}
    for key, seq in dict.fromkeys(seen):
        by_key.setdefault(key, []).append(seq)
    assert probes == (200, 503)
    assert during == 0
    assert resumed < RESUMED_SECONDS_MAX
    assert set(seen) == set(jobs)
    assert [each for each, count in Counter(seen).items() if count > 2] == []
    assert [key for key, seqs in by_key.items() if seqs != sorted(seqs)] == []
    assert project.run("dead", "list", main).rows() == []
    assert attempts(project, s3, base, jobs[-1]) == 1


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def attempts(project: Project, s3: Any, base: str, job: tuple[str, int]) -> int:
    """The most attempts that the ledger knows of; the last job's document is read back too."""
    import sqlite3

    connection = sqlite3.connect(project.folder / ".processor" / "ledger.db")
    (most,) = connection.execute("SELECT max(attempt) FROM processor_ledger").fetchone()
    rows = connection.execute(
        "SELECT job_id, result FROM processor_ledger WHERE job_type='sink.write'"
    ).fetchall()
    connection.close()
    job_id = next(job_id for job_id, result in rows
                  if (json.loads(result)["key"], json.loads(result)["seq"]) == job)  # fmt: skip
    document = json.loads(read(Objects(settings_for(s3)), f"{base}/sink.write/{job_id}.json"))
    assert document["result"]["seq"] == job[1]
    return int(most)
