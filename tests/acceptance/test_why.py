"""`processor why`: where a job is, what it waits for, and who says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from processor import Client, NewJob
from processor.engine.submit import Accepted
from tests.acceptance.project import Project, eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.broker]

MODULE = """
from pathlib import Path
from processor import App, Reject

app = App()

@app.job("order.count")
def count(payload: dict, ctx) -> None:
    if payload["seq"] < 0:
        raise Reject("never")
    if Path("down").exists():
        raise ConnectionError("the shop is closed")
"""


@pytest.fixture
def topic(project: Project) -> str:
    project.add_schema("order.count", [{"name": "seq", "type": "long"}])
    name = project.add_topic(
        "why", ["order.count"], retry={"delays": ["1h"], "jitter": 0},
        dead_letter={"policy": "hold"},
    )  # fmt: skip
    project.add_module("handlers", MODULE)
    project.provision()
    return name


def submit(project: Project, key: str, *seqs: int) -> list[str]:
    jobs = (NewJob("order.count", {"seq": seq}, key=key) for seq in seqs)
    with Client(project.settings()) as client:
        accepted = list(client.submit_many(jobs))
    return [each.job_id for each in accepted if isinstance(each, Accepted)]


def why(project: Project, what: str) -> list[dict[str, Any]]:
    return project.run("why", what).ok().rows()


def test_job_without_a_worker_is_queued(project: Project, topic: str) -> None:
    ids = submit(project, "a", 1, 2)

    by_key = why(project, "a")
    by_id = why(project, ids[1])

    assert [(row["job_id"], row["state"]) for row in by_key] == [
        (ids[0], "queued"), (ids[1], "queued"),
    ]  # fmt: skip
    assert "1 record(s) are before it" in by_key[1]["why"]
    assert by_key[1]["worker"].startswith("none")
    assert by_id == [by_key[1]]


def test_job_behind_a_retry_names_it_and_its_next_try(project: Project, topic: str) -> None:
    Path(project.folder, "down").touch()
    ids = submit(project, "a", 1, 2)
    project.start("work", "handlers:app", "--topic", topic)

    eventually(lambda: sum(topic + ".retry" in row["source"] for row in why(project, "a")) == 2)
    first, second = why(project, "a")

    assert (first["job_id"], first["state"], first["attempts"]) == (ids[0], "retrying", "1 of 2")
    assert "the shop is closed" in first["why"]
    assert first["next_try"] is not None
    assert (second["job_id"], second["state"]) == (ids[1], "waiting")
    assert f"behind job {ids[0]}" in second["why"]
    assert "attempt 1 of 2 failed with ConnectionError" in second["why"]
    assert second["next_try"] == first["next_try"]
    assert not second["worker"].startswith("none")
    assert why(project, ids[1]) == [second]


def test_dead_job_and_those_held_behind_it(project: Project, topic: str) -> None:
    ids = submit(project, "a", -1, 2)
    project.start("work", "handlers:app", "--topic", topic)

    eventually(lambda: [r["state"] for r in why(project, "a")] == ["dead", "held"])
    dead, held = why(project, "a")

    assert (dead["job_id"], held["job_id"]) == (ids[0], ids[1])
    assert "Reject: never" in dead["why"] and "dead replay" in dead["why"]
    assert f"{topic}-" in held["why"]
    assert topic + ".dlt" in dead["source"]


def test_dead_job_that_is_replayed_is_not_to_be_replayed_again(
    project: Project, topic: str
) -> None:
    (job_id,) = submit(project, "b", -1)
    worker = project.start("work", "handlers:app", "--topic", topic)
    eventually(lambda: [r["state"] for r in why(project, "b")] == ["dead"])
    assert worker.end() == 0

    project.run("dead", "replay", topic, "--job-id", job_id, "--yes", "--no-wait").ok()
    queued, dead = why(project, "b")

    assert (queued["job_id"], queued["state"]) == (job_id, "queued")
    assert dead["why"] == "Reject: never; it is on its way again"


def test_job_that_ended_and_one_that_nobody_knows(project: Project, topic: str) -> None:
    (job_id,) = submit(project, "a", 1)
    project.start("work", "handlers:app", "--topic", topic)
    eventually(lambda: project.run("status", job_id).code == 0)

    (fact,) = why(project, job_id)
    assert (fact["state"], fact["source"]) == ("succeeded", f"{topic}.status")
    project.run("why", "nobody").refused(3, "nobody")


def test_ended_job_is_told_by_its_own_topic_though_another_shares_the_ledger(
    project: Project, topic: str
) -> None:
    project.add_schema("order.other", [])
    project.add_topic("before", ["order.other"])  # Looked at before the job's own.
    project.provision()
    (job_id,) = submit(project, "a", 1)
    project.start("work", "handlers:app", "--topic", topic)
    eventually(lambda: project.run("status", job_id).code == 0)

    (fact,) = why(project, job_id)
    assert (fact["state"], fact["source"]) == ("succeeded", f"{topic}.status")


def test_the_ledger_tells_of_a_job_whose_topic_publishes_no_outcome(
    project: Project, topic: str
) -> None:
    (project.folder / "topics" / "why.yaml").unlink()
    quiet = project.add_topic("quiet", ["order.count"], status={"publish": False})
    project.provision()
    (job_id,) = submit(project, "a", 1)
    project.start("work", "handlers:app", "--topic", quiet)
    eventually(lambda: why(project, job_id)[0]["source"] == "ledger")

    assert [row["state"] for row in why(project, job_id)] == ["succeeded"]
