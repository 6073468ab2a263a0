"""Dead letters as an operator meets them: held keys, replay, release and purge, on real Kafka."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from processor import Client, NewJob
from processor.engine.submit import Accepted
from tests.acceptance.project import Project, eventually

BEHIND = int(os.environ.get("TEST_HELD_JOBS", "1000"))
ROUNDS = int(os.environ.get("TEST_HELD_ROUNDS", "1"))

MODULE = """
from pathlib import Path
from processor import App, Reject
from processor.sinks.sqlite import SqliteSink

app = App()
TABLE = (
    "CREATE TABLE IF NOT EXISTS effect (place INTEGER PRIMARY KEY, key TEXT, seq INTEGER,"
    " at REAL DEFAULT (julianday('now') * 86400))"
)

@app.job("order.count", sink=SqliteSink("effect", create=TABLE))
def count(payload: dict, ctx) -> dict:
    if Path(f"down-{payload['key']}-{payload['seq']}").exists():
        raise Reject(f"job {payload['seq']} is broken")
    return payload
"""

pytestmark = [pytest.mark.acceptance, pytest.mark.broker]


def prepared(project: Project, *, policy: str = "hold", partitions: int = 2) -> str:
    project.write_settings(kafka={"session.timeout.ms": 6000, "heartbeat.interval.ms": 1000})
    project.add_schema(
        "order.count", [{"name": "key", "type": "string"}, {"name": "seq", "type": "long"}]
    )
    topic = project.add_topic(
        "held", ["order.count"], partitions=partitions, dead_letter={"policy": policy},
        retry={"delays": ["100ms", "500ms"], "jitter": 0},
    )  # fmt: skip
    project.add_module("handlers", MODULE)
    project.provision()
    return topic


def submit(project: Project, key: str, *seqs: int) -> list[str]:
    jobs = (NewJob("order.count", {"key": key, "seq": seq}, key=key) for seq in seqs)
    with Client(project.settings()) as client:
        accepted = list(client.submit_many(jobs))
    assert all(isinstance(each, Accepted) for each in accepted)
    return [each.job_id for each in accepted]  # type: ignore[union-attr]


def broken(project: Project, key: str, seq: int, down: bool = True) -> None:
    path = Path(project.folder, f"down-{key}-{seq}")
    path.touch() if down else path.unlink()


def effects(project: Project, key: str) -> list[int]:
    database = Path(project.folder) / ".processor" / "ledger.db"
    if not database.exists():
        return []
    connection = sqlite3.connect(database, timeout=30)
    try:
        rows = connection.execute("SELECT seq FROM effect WHERE key=? ORDER BY place", (key,))
        return [row[0] for row in rows]
    except sqlite3.OperationalError:
        return []  # No job has taken effect yet.
    finally:
        connection.close()


def letters(project: Project, topic: str, *options: str) -> list[dict[str, Any]]:
    return project.run("dead", "list", topic, *options).ok().rows()


def held(project: Project, topic: str) -> list[tuple[str, int]]:
    return [(r["key"], r["held"]) for r in project.run("dead", "keys", topic).ok().rows()]


def work(project: Project, topic: str) -> Any:
    worker = project.start("work", "handlers:app", "--topic", topic)
    worker.wait_for("partition taken over", count=1)
    return worker


def test_held_sequence_survives_restarts_and_is_replayed_in_order_against_live_jobs(
    project: Project,
) -> None:
    topic = prepared(project)
    broken(project, "a", 2)
    first = work(project, topic)
    submit(project, "a", *range(25))
    submit(project, "b", *range(25))
    eventually(lambda: held(project, topic) == [("a", 22)])
    first.end(signal.SIGKILL)
    submit(project, "a", *range(25, 40))
    work(project, topic)
    work(project, topic)
    eventually(lambda: held(project, topic) == [("a", 37)])
    before = (effects(project, "a"), effects(project, "b"))
    broken(project, "a", 2, down=False)

    submit(project, "a", *range(40, 50))
    replay = project.start("dead", "replay", topic, "--key", "a", "--yes")
    for seq in range(50, 70):
        submit(project, "a", seq)
    assert replay.process.wait(60) == 0, replay.log.read_text()
    eventually(lambda: len(effects(project, "a")) == 70)

    assert before == ([0, 1], list(range(25)))
    assert effects(project, "a") == list(range(70))
    assert held(project, topic) == []
    assert letters(project, topic) == []
    audit = project.run("dead", "audit").ok().rows()
    assert {(each["action"], each["state"], each["topic"]) for each in audit} == {
        ("replay", "ended", topic)
    }


def test_job_that_dies_in_its_replay_holds_its_key_again(project: Project) -> None:
    topic = prepared(project)
    broken(project, "a", 0)
    broken(project, "a", 1)
    work(project, topic)
    submit(project, "a", 0, 1, 2)
    eventually(lambda: held(project, topic) == [("a", 2)])
    broken(project, "a", 0, down=False)

    again = project.run("dead", "replay", topic, "--key", "a", "--yes")
    rows = letters(project, topic)
    broken(project, "a", 1, down=False)
    project.run("dead", "replay", topic, "--key", "a", "--yes").ok()

    again.refused(1, "held again", "not open")
    assert [(row["state"], row["replays"]) for row in rows] == [("dead", 1), ("held", 1)]
    assert effects(project, "a") == [0, 1, 2]


def test_release_runs_what_was_held_and_leaves_the_dead_job_dead(project: Project) -> None:
    topic = prepared(project)
    broken(project, "a", 0)
    work(project, topic)
    submit(project, "a", 0, 1, 2)
    eventually(lambda: held(project, topic) == [("a", 2)])

    project.run("dead", "release", topic, "--key", "a", "--yes").ok()
    submit(project, "a", 3)
    eventually(lambda: len(effects(project, "a")) == 3)

    assert effects(project, "a") == [1, 2, 3]
    assert [row["state"] for row in letters(project, topic)] == ["dead"]


def test_purge_gives_the_sequence_up_and_opens_the_key(project: Project) -> None:
    topic = prepared(project)
    broken(project, "a", 0)
    work(project, topic)
    submit(project, "a", 0, 1, 2)
    eventually(lambda: held(project, topic) == [("a", 2)])

    project.run("dead", "purge", topic, "--key", "a", "--yes").ok()
    submit(project, "a", 3)
    eventually(lambda: effects(project, "a") == [3])

    assert letters(project, topic) == []
    assert [row["state"] for row in letters(project, topic, "--all")] == ["purged"] * 3
    project.run("dead", "replay", topic, "--yes").ok()
    assert effects(project, "a") == [3]


def test_one_job_out_of_a_held_sequence_is_refused(project: Project) -> None:
    topic = prepared(project)
    broken(project, "a", 0)
    work(project, topic)
    ids = submit(project, "a", 0, 1, 2)
    eventually(lambda: held(project, topic) == [("a", 2)])

    for job_id in ids:
        refused = project.run("dead", "replay", topic, "--job-id", job_id, "--yes")
        refused.refused(2, job_id, "one of 3", "out of order", "--key a")

    assert held(project, topic) == [("a", 2)]
    assert project.run("dead", "audit").ok().rows() == []


def test_bulk_replay_asks_limits_goes_on_and_stops_at_the_cap(project: Project) -> None:
    topic = prepared(project, policy="continue")
    for seq in range(6):
        broken(project, "a", seq)
    work(project, topic)
    submit(project, "a", *range(7))
    eventually(lambda: len(letters(project, topic)) == 6)

    unasked = project.run("dead", "replay", topic)
    dry = project.run("dead", "replay", topic, "--dry-run").ok()
    untouched = (effects(project, "a"), project.run("dead", "audit").rows())
    groups = letters(project, topic, "--group-by", "fingerprint")
    for seq in range(6):
        broken(project, "a", seq, down=False)
    first = project.run("dead", "replay", topic, "--limit", "2", "--rate", "100/s", "--yes").ok()
    cursor = first.stderr.split("cursor: ")[1].split()[0]
    eventually(lambda: effects(project, "a") == [6, 0, 1])
    project.run("dead", "replay", topic, "--cursor", cursor, "--yes").ok()
    eventually(lambda: len(effects(project, "a")) == 7)

    unasked.refused(2, "6 job(s)", "--yes")
    assert len(dry.rows()) == 6
    assert untouched == ([6], [])
    assert [(group["jobs"], group["keys"]) for group in groups] == [(6, 1)]
    assert effects(project, "a") == [6, 0, 1, 2, 3, 4, 5]


def test_job_is_not_replayed_for_ever(project: Project) -> None:
    topic = prepared(project, policy="continue")
    broken(project, "a", 0)
    work(project, topic)
    submit(project, "a", 0)
    eventually(lambda: len(letters(project, topic)) == 1)
    for replays in range(1, 3):
        project.run("dead", "replay", topic, "--yes").ok()
        eventually(lambda: letters(project, topic)[0]["replays"] == replays)  # noqa: B023

    capped = project.run("dead", "replay", topic, "--replays-max", "2", "--yes").ok()

    assert "replayed 2 times" in capped.stderr
    assert "nothing to replay" in capped.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_held_key_with_many_jobs_costs_others_little_and_is_replayed_in_order(
    project: Project,
) -> None:
    """Prints the ratio of the other keys' rates; for the full size
    `TEST_HELD_JOBS=10000`, and `TEST_HELD_ROUNDS=3` for a steadier figure."""
    topic = prepared(project, partitions=4)
    others = [f"k{n:03d}" for n in range(400)]
    each = BEHIND // 40
    seconds = {"without": 0.0, "with": 0.0}
    broken(project, "bad", 0)
    for number in range(ROUNDS):
        for kind in seconds:
            name = f"{kind}-{number}"
            jobs = [
                NewJob("order.count", {"key": f"{name}-{key}", "seq": seq}, key=key)
                for seq in range(each)
                for key in others
            ]
            if kind == "with":
                step = len(jobs) // BEHIND
                for seq in range(BEHIND):
                    bad = {"key": "bad", "seq": number * BEHIND + seq}
                    jobs.insert(seq * (step + 1), NewJob("order.count", bad, key="bad"))
            with Client(project.settings()) as client:
                assert all(isinstance(a, Accepted) for a in client.submit_many(jobs))
            worker = work(project, topic)
            started = time.monotonic()
            eventually(lambda: count(project, f"{name}-%") == each * len(others), timeout=120)  # noqa: B023
            seconds[kind] += time.monotonic() - started
            worker.end()
    broken(project, "bad", 0, down=False)
    work(project, topic)
    eventually(lambda: held(project, topic) == [("bad", ROUNDS * BEHIND - 1)], timeout=60)

    started = time.monotonic()
    project.run("dead", "replay", topic, "--key", "bad", "--yes", timeout=120).ok()

    told = {
        "others": each * len(others), "held": BEHIND, "rounds": ROUNDS,
        "seconds_without": seconds["without"], "seconds_with": seconds["with"],
        "ratio": seconds["without"] / seconds["with"],
        "replay_seconds": time.monotonic() - started,
    }  # fmt: skip
    print(json.dumps(told))
    assert effects(project, "bad") == list(range(ROUNDS * BEHIND))
    assert held(project, topic) == []
    assert told["ratio"] > 0.5  # Its own machine; `make bench` measures.


def count(project: Project, like: str) -> int:
    connection = sqlite3.connect(Path(project.folder) / ".processor" / "ledger.db", timeout=30)
    try:
        found = connection.execute("SELECT count(*) FROM effect WHERE key LIKE ?", (like,))
        return int(found.fetchone()[0])
    except sqlite3.OperationalError:
        return 0  # No job has taken effect yet.
    finally:
        connection.close()
