"""A partition with very many records parked in a retry tier is taken over in little time and room.

`TEST_PARKED_RECORDS=1000000` for the full size.
"""

from __future__ import annotations

import json
import os
import time
from datetime import datetime
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from confluent_kafka import Producer

from processor import Client, NewJob
from processor.contracts import headers
from processor.engine.submit import Accepted
from processor.model import Hop, Position
from tests.acceptance.project import Project, eventually

PARKED = int(os.environ.get("TEST_PARKED_RECORDS", "100000"))
SECONDS_MAX = 30.0
MEGABYTES_MAX = 500.0

MODULE = """
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen
from processor import App

app = App()

@app.job("order.count")
def count(payload: dict, ctx) -> None:
    if ctx.attempt == 1 and payload["seq"] < 0:
        raise OSError("not now")
    while payload["seq"] < 0 and not Path("open").exists():
        time.sleep(0.02)
    Path("done").open("a").write(f"{payload['seq']}\\n")
"""


def park(servers: str, topic: str, count: int, keys: int) -> None:
    """Write copies to a tier as a worker does; their time lies far ahead."""
    producer = Producer(
        {"bootstrap.servers": servers, "linger.ms": 20, "queue.buffering.max.messages": 200_000,
         "compression.type": "lz4"}
    )  # fmt: skip
    far = int((time.time() + 3600) * 1000)
    own = headers.write_job(
        job_id="01927f0e-8a5c-7cc3-9d5a-1f7f0f4c2b11", job_type="order.count", source="test",
        time="2026-01-01T00:00:00Z",
    )  # fmt: skip
    for number in range(count):
        hop = Hop(
            Position(topic, 0, number), far, attempt=1, not_before_ms=far, first_failure_ms=far,
            last_failure_ms=far, error_class="OSError", error_message="no answer from 10.0.0.1",
            fingerprint="abcdefabcdef", epoch=1, copy=f"1-{number + 1}",
        )  # fmt: skip
        while True:
            try:
                producer.produce(
                    f"{topic}.retry.1", partition=0, key=f"customer-{number % keys:07d}".encode(),
                    value=b"x" * 300, headers=headers.write_hop(own, hop),  # type: ignore[arg-type]
                )  # fmt: skip
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(60) == 0


@pytest.mark.acceptance
@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("keys", [PARKED, 200], ids=["a key each", "200 keys"])
def test_many_parked_records_are_taken_over_in_little_time_and_room(
    project: Project, keys: int
) -> None:
    project.write_settings(worker={"fence_records_max": 10_000_000})
    project.add_schema("order.count", [{"name": "seq", "type": "long"}])
    topic = project.add_topic(
        "parked", ["order.count"], partitions=1, retry={"delays": ["1h"]},
        status={"publish": False},
    )  # fmt: skip
    project.add_module("handlers", MODULE)
    project.provision()
    park(project.settings().kafka["bootstrap.servers"], topic, PARKED, keys)
    with Client(project.settings()) as client:
        jobs = [NewJob("order.count", {"seq": 1}, key=key) for key in ("other", "customer-0000000")]
        assert all(isinstance(each, Accepted) for each in client.submit_many(jobs))

    worker = project.start("work", "handlers:app", "--topic", topic)
    worker.wait_for("partition taken over", timeout=120)
    eventually(Path(project.folder, "done").exists, timeout=30)
    peak = megabytes(worker.pid)
    seconds = time_of(worker.logged(), "partition taken over") - time_of(
        worker.logged(), "worker starting"
    )
    # The job behind the parked ones joins them; the other key goes on.
    eventually(lambda: "retry.1" in project.run("why", "customer-0000000", "--limit", "1").stdout)
    assert worker.end() == 0

    print(json.dumps({"parked": PARKED, "keys": keys, "seconds": seconds, "megabytes": peak}))
    assert Path(project.folder, "done").read_text().split() == ["1"]
    assert seconds < SECONDS_MAX
    assert peak < MEGABYTES_MAX


@pytest.mark.acceptance
@pytest.mark.broker
def test_full_fence_pauses_main_and_recovers(project: Project) -> None:
    project.write_settings(worker={"fence_records_max": 20, "lane_records_max": 10})
    project.add_schema("order.count", [{"name": "seq", "type": "long"}])
    topic = project.add_topic(
        "bound", ["order.count"], partitions=1, retry={"delays": ["500ms"], "jitter": 0},
        status={"publish": False},
    )  # fmt: skip
    project.add_module("handlers", MODULE)
    project.provision()
    with Client(project.settings()) as client:
        jobs = [NewJob("order.count", {"seq": -n}, key=f"k{n}") for n in range(1, 201)]
        assert all(isinstance(each, Accepted) for each in client.submit_many(jobs))

    worker = project.start("work", "handlers:app", "--topic", topic)
    paused = eventually(lambda: (seen := waiting(project, topic))[1] >= 20 and seen)
    done = Path(project.folder, "done")
    assert not done.exists()
    Path(project.folder, "open").touch()
    eventually(lambda: done.exists() and len(done.read_text().split()) == 200, timeout=90)
    assert worker.end() == 0

    assert paused[0] >= 200 - 20 - 2 * 10  # More than the fence and a lane hold is left on main.
    assert sorted(map(int, done.read_text().split())) == sorted(range(-200, 0))
    assert waiting(project, topic) == (0, 0)


def megabytes(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def time_of(logged: list[dict[str, str]], event: str) -> float:
    row = next(row for row in logged if row.get("event") == event)
    return datetime.fromisoformat(row["timestamp"]).timestamp()


def waiting(project: Project, topic: str) -> tuple[int, int]:
    (row,) = project.run("lag", topic).rows()
    return row["lag"], row["retrying"]


@pytest.mark.acceptance
@pytest.mark.broker
def test_worker_that_waits_to_join_is_not_ready_and_stops_at_once(project: Project) -> None:
    project.write_settings(worker={"start_jitter_seconds": "10000d", "metrics_port": 0})
    project.add_schema("order.count", [{"name": "seq", "type": "long"}])
    topic = project.add_topic("late", ["order.count"])
    project.add_module("handlers", MODULE)
    project.provision()

    worker = project.start("work", "handlers:app", "--topic", topic)
    worker.wait_for("worker starting")
    (told,) = [row for row in worker.logged() if row["event"] == "probes and metrics answer"]
    with pytest.raises(HTTPError) as refused:
        urlopen(f"{told['url']}/readyz", timeout=10)
    code = worker.end(timeout=10)

    assert refused.value.code == 503
    assert code == 0
    assert "partition taken over" not in worker.log.read_text()
