"""The probe of a real worker: what it says of a long job, a broker that is away, a stuck ledger."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import Any

import pytest

from tests.acceptance.project import Process, Project, eventually, stopped

pytestmark = [pytest.mark.acceptance, pytest.mark.broker, pytest.mark.slow]

STALL_SECONDS = 4

MODULE = """
import os, time
from processor import App

app = App()

class Stuck:
    def write(self, effects):
        while not os.path.exists("go"):
            time.sleep(0.05)
        return [""]

def wait(seconds):
    open("started", "w").close()
    until = time.monotonic() + seconds
    while not os.path.exists("go") and time.monotonic() < until:
        time.sleep(0.05)

@app.job("stall.fail", timeout="1h")
def fail(payload: dict, ctx) -> dict:
    if ctx.attempt == 1:
        wait(3600)
        raise OSError("the first run fails")
    return {}

@app.job("stall.stuck", sink=Stuck())
def stuck(payload: dict) -> dict:
    return {}
"""


@pytest.fixture
def topic(project: Project) -> str:
    project.write_settings(
        worker={"stall_seconds": STALL_SECONDS, "metrics_port": 0, "drain_seconds": 2}
    )
    jobs = ["stall.fail", "stall.stuck"]
    for job_type in jobs:
        project.add_schema(job_type, [{"name": "n", "type": "long"}])
    project.add_module("handlers", MODULE)
    delays = {"delays": ["1s"]}
    name = project.add_topic("stall", jobs, partitions=1, retry=delays)
    project.provision()
    return name


def working(project: Project, topic: str, job_type: str) -> Process:
    worker = project.start("work", "handlers:app", "--topic", topic)
    worker.wait_for("partition taken over")
    project.run("submit", job_type, "--json", json.dumps({"n": 1}), "--key", "k").ok()
    return worker


def asked(worker: Process, path: str) -> tuple[int, str]:
    url = next(row["url"] for row in worker.logged() if row["event"] == "probes and metrics answer")
    try:
        with urllib.request.urlopen(url + path, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def stalled_seconds(worker: Process, topic: str) -> float:
    metric = f'processor_partition_stalled_seconds{{topic="{topic}"}} '
    lines = asked(worker, "/metrics")[1].splitlines()
    return float(next(line for line in lines if line.startswith(metric)).rpartition(" ")[2])


def stalls(worker: Process) -> list[dict[str, Any]]:
    return [row for row in worker.logged() if row["event"] == "partition stalled"]


def test_long_run_within_its_timeout_is_healthy(project: Project, topic: str) -> None:
    worker = working(project, topic, "stall.fail")
    eventually((project.folder / "started").exists)

    time.sleep(3 * STALL_SECONDS)
    status, body = asked(worker, "/healthz")
    seconds = stalled_seconds(worker, topic)
    (project.folder / "go").touch()

    assert status == 200, body
    assert seconds == 0
    assert stalls(worker) == []
    assert worker.end() == 0


def test_sink_that_hangs_fails_the_probe_until_it_goes_on(project: Project, topic: str) -> None:
    worker = working(project, topic, "stall.stuck")

    eventually(lambda: asked(worker, "/healthz")[0] == 503)
    told = json.loads(asked(worker, "/healthz")[1])
    seconds = stalled_seconds(worker, topic)
    (project.folder / "go").touch()
    worker.wait_for("partition moves again")
    recovered = asked(worker, "/healthz")

    (failing,) = [each for each in told["checks"] if not each["ok"]]
    assert failing["name"] == f"{topic}[0]"
    assert failing["detail"].endswith("a slice with the pool does not report")
    assert seconds >= STALL_SECONDS
    assert recovered[0] == 200, recovered[1]
    assert len(stalls(worker)) == 1
    assert worker.end() == 0


def test_copy_that_a_stopped_broker_does_not_acknowledge_is_an_outage(
    project: Project, topic: str, kafka: Any
) -> None:
    worker = working(project, topic, "stall.fail")
    eventually((project.folder / "started").exists)
    # The takeover's markers are committed: a commit that a stopped broker does not answer would
    # keep the loop, and then it is the probe of the loop that tells.
    eventually(lambda: waiting(project, topic) == (1, 0))

    with stopped(kafka):
        (project.folder / "go").touch()
        worker.wait_for("partition stalled")
        healthz, readyz = asked(worker, "/healthz"), asked(worker, "/readyz")
        seconds = stalled_seconds(worker, topic)
    worker.wait_for("partition moves again")
    eventually(lambda: waiting(project, topic) == (0, 0))

    assert healthz[0] == 200, healthz[1]
    assert "the broker is away" in healthz[1]
    assert readyz[0] == 503
    assert seconds >= STALL_SECONDS
    (state,) = stalls(worker)
    assert (state["away"], state["settling"], state["fence"]) == ("broker", 1, 1)
    assert worker.end() == 0


def waiting(project: Project, topic: str) -> tuple[int, int]:
    """Records of the topic, and of its retry topics, that are not committed."""
    told = project.run("lag", topic)
    if told.code != 0:  # A broker that was stopped leads nothing for a moment.
        return -1, -1
    rows = told.rows()
    return sum(row["lag"] for row in rows), sum(row["retrying"] for row in rows)
