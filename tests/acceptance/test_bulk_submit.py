"""`processor submit` with many jobs, killed and started again, and waited for."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.project import COMMAND, Process, Project, Ran, eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.broker]

JOBS = 20_000
FED_BEFORE_THE_KILL = 15_000  # More than the client keeps unanswered, so that some are reported.

MODULE = """
from processor import App, Reject
from processor.sinks.sqlite import SqliteSink

app = App()
TABLE = "CREATE TABLE IF NOT EXISTS effect (n INTEGER, key TEXT)"

@app.job("seq.count", sink=SqliteSink("effect", create=TABLE))
def count(payload: dict, ctx) -> dict:
    if payload["n"] < 0:
        raise Reject("less than nothing")
    return {"n": payload["n"], "key": ctx.key}
"""


@pytest.fixture
def topic(project: Project) -> str:
    """A topic that takes `seq.count`."""
    project.add_schema(
        "seq.count",
        [{"name": "n", "type": "long"}, {"name": "who", "type": "string", "default": ""}],
    )
    project.add_module("handlers", MODULE)
    name = project.add_topic("seq", ["seq.count"])
    project.provision()
    return name


@pytest.fixture
def worker(project: Project, topic: str) -> Iterator[Process]:
    """A worker for the topic, which ends with the test."""
    started = project.start("work", "handlers:app", "--topic", topic)
    yield started
    assert started.end() == 0


def line(n: int) -> str:
    return json.dumps({"n": n, "who": f"k{n % 97}"}) + "\n"


@pytest.fixture
def lines(project: Project) -> Path:
    """A file of jobs, one JSON object a line."""
    path = project.folder / "jobs.jsonl"
    with path.open("w") as file:
        file.writelines(line(n) for n in range(JOBS))
    return path


def test_every_line_of_a_file_is_submitted_and_takes_effect(
    project: Project, topic: str, lines: Path, worker: Process
) -> None:
    started = time.monotonic()
    ran = project.run("submit", "seq.count", "--from", lines.name, "--key-field", "who").ok()
    seconds = time.monotonic() - started

    rows = ran.rows()
    assert [row["line"] for row in rows] == list(range(1, JOBS + 1))
    assert len({row["job_id"] for row in rows}) == JOBS
    assert len({(row["partition"], row["offset"]) for row in rows}) == JOBS
    assert {row["topic"] for row in rows} == {topic}
    assert ran.stderr == f"{JOBS} accepted, 0 refused\n"
    eventually(lambda: len(effects(project)) == JOBS, otherwise=lambda: worker.log.read_text())
    assert set(effects(project)) == {(n, f"k{n % 97}") for n in range(JOBS)}
    print(f"{JOBS} lines in {seconds:.1f} s: {JOBS / seconds:.0f} a second, start included")


def test_killed_in_the_middle_it_goes_on_and_each_job_takes_effect_once(
    project: Project, topic: str, lines: Path, worker: Process
) -> None:
    report = project.folder / "done.jsonl"
    command = ["submit", "seq.count", "--key-field", "who", "--report", report.name]

    killed_after_some(project, command, report)
    noted = noted_lines(report)
    with report.open("a") as file:
        file.write('{"line": 19')  # As if the kill had come within a line.
    ran = project.run(*command, "--from", lines.name).ok()
    again = project.run(*command, "--from", lines.name).ok()

    assert 0 < len(noted) < JOBS
    assert ran.stderr == f"{JOBS - len(noted)} accepted, 0 refused, {len(noted)} accepted before\n"
    assert {row["line"] for row in ran.rows()}.isdisjoint(noted)
    assert sorted(noted_lines(report)) == list(range(1, JOBS + 1))
    assert again.rows() == []
    assert again.stderr == f"0 accepted, 0 refused, {JOBS} accepted before\n"
    eventually(lambda: waiting(project, topic) == 0, otherwise=lambda: worker.log.read_text())
    doubled = [n for n, count in Counter(n for n, _ in effects(project)).items() if count > 1]
    assert doubled == []
    assert {n for n, _ in effects(project)} == set(range(JOBS))


def killed_after_some(project: Project, command: list[str], report: Path) -> None:
    """Feed most of the lines through stdin, and kill the command once it has noted some."""
    process = subprocess.Popen(
        [*COMMAND, *command, "--from", "-"], cwd=project.folder, stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    try:
        process.stdin.writelines(line(n) for n in range(FED_BEFORE_THE_KILL))
        process.stdin.flush()
        eventually(lambda: report.exists() and len(noted_lines(report)) > 100)
    finally:
        process.kill()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        assert process.wait(10) == -9


def test_lines_that_cannot_be_jobs_are_refused_one_by_one(project: Project, topic: str) -> None:
    path = project.folder / "mixed.jsonl"
    faulty = [
        b'{"n": 1}',
        b"no json",
        b'{"n": "one"}',
        b'{"n": 2, "who": "\xff\xfe"}',
        b"[" * 100_000,
        b'{"n": ' + b"9" * 5000 + b"}",
        b"",
        b'{"n": 3, "more": 1}',
        b"[1]",
        b'{"n": 4}',
    ]
    path.write_bytes(b"\n".join(faulty))

    ran = project.run("submit", "seq.count", "--from", path.name)

    ran.refused(1, "line 2: not JSON", "line 3:", "field `n`", "line 4:", "line 5: not JSON",
                "line 6: not JSON", "line 8:", "field `more`", "line 9:",
                "2 accepted, 7 refused")  # fmt: skip
    assert "line 1:" not in ran.stderr
    assert [row["line"] for row in ran.rows()] == [1, 10]


def test_jobs_come_through_stdin(project: Project, topic: str, worker: Process) -> None:
    ran = project.run(
        "submit", "seq.count", "--from", "-", "--key", "all", "--wait", stdin=line(7) + line(8)
    ).ok()

    accepted, outcomes = ran.rows()[:2], ran.rows()[2:]
    assert [row["line"] for row in accepted] == [1, 2]
    assert {row["state"] for row in outcomes} == {"succeeded"}
    assert {row["job_id"] for row in outcomes} == {row["job_id"] for row in accepted}
    assert effects(project) == [(7, "all"), (8, "all")]


def test_waiting_tells_success_and_death_apart(
    project: Project, topic: str, worker: Process
) -> None:
    alive = submitted(project, '{"n": 1}', "--wait").ok().rows()
    dead = submitted(project, '{"n": -1}', "--wait")
    both = project.run("submit", "seq.count", "--from", "-", "--wait", stdin=line(2) + line(-2))

    assert [row.get("state") for row in alive] == [None, "succeeded"]
    assert alive[0]["job_id"] == alive[1]["job_id"]
    assert json.loads(alive[1]["result"])["n"] == 1
    assert dead.code == both.code == 1
    assert dead.stderr == ""
    assert dead.rows()[1]["state"] == "dead"
    assert dead.rows()[1]["error_message"] == "less than nothing"
    assert sorted(row["state"] for row in both.rows()[2:]) == ["dead", "succeeded"]
    assert {n for n, _ in effects(project)} == {1, 2}


def test_waiting_again_with_a_report_tells_what_ended_meanwhile(
    project: Project, topic: str, worker: Process
) -> None:
    command = ["submit", "seq.count", "--from", "-", "--report", "done.jsonl"]
    stdin = line(1) + line(-1)

    project.run(*command, stdin=stdin).ok()
    eventually(lambda: waiting(project, topic) == 0)
    again = project.run(*command, "--wait", stdin=stdin)

    assert again.code == 1
    assert sorted(row["state"] for row in again.rows()) == ["dead", "succeeded"]


def test_waiting_ends_when_nobody_works(project: Project, topic: str) -> None:
    ran = submitted(project, '{"n": 1}', "--wait", "--timeout", "1")

    ran.refused(1, "1 job(s) have no outcome yet", ran.rows()[0]["job_id"], "processor lag")


def test_idempotency_key_given_twice_takes_effect_once(
    project: Project, topic: str, worker: Process
) -> None:
    flags = ["--wait", "--idempotency-key", "order-7"]

    first = submitted(project, '{"n": 7}', *flags).ok().rows()[1]
    second = submitted(project, '{"n": 8}', *flags).ok().rows()[1]
    asked = project.run("status", second["job_id"]).ok().rows()

    assert effects(project) == [(7, None)]
    assert (first["state"], first["duplicate_of"]) == ("succeeded", None)
    assert second["state"] == "duplicate"
    assert second["job_id"] != first["job_id"]
    assert second["duplicate_of"] == first["job_id"]
    assert second["result"] == first["result"]
    assert asked == [second]


def test_a_dry_run_submits_nothing(project: Project, topic: str, lines: Path) -> None:
    ran = project.run("submit", "seq.count", "--from", lines.name, "--report", "r", "--dry-run")

    assert (ran.code, ran.stdout) == (0, "")
    assert ran.stderr == f"dry run: {JOBS} valid, 0 refused\n"
    assert waiting(project, topic) == 0
    assert not (project.folder / "r").exists()


def test_progress_is_shown_to_a_person_and_stays_out_of_the_output(
    project: Project, topic: str, lines: Path
) -> None:
    ours, theirs = pty.openpty()
    with (project.folder / "out.jsonl").open("wb") as out:
        process = subprocess.Popen(
            [*COMMAND, "submit", "seq.count", "--from", lines.name], cwd=project.folder,
            stdout=out, stderr=theirs, env={**os.environ, "TERM": "xterm-256color"},
        )  # fmt: skip
    os.close(theirs)
    shown = read_to_end(ours)
    code = process.wait(30)

    rows = [json.loads(each) for each in (project.folder / "out.jsonl").read_text().splitlines()]
    assert code == 0
    assert [row["line"] for row in rows] == list(range(1, JOBS + 1))
    assert "submitting seq.count" in shown
    assert "job_id" not in shown
    assert f"{JOBS} accepted, 0 refused" in shown


def read_to_end(terminal: int) -> str:
    shown = b""
    try:
        while select.select([terminal], [], [], 60)[0] and (chunk := os.read(terminal, 65536)):
            shown += chunk
    except OSError:
        pass  # Linux's way to say that the other end is closed.
    os.close(terminal)
    return shown.decode()


def submitted(project: Project, document: str, *more: str) -> Ran:
    return project.run("submit", "seq.count", "--json", document, *more)


def noted_lines(report: Path) -> list[int]:
    """The line numbers in a report, leaving out its head and a torn last line."""
    found: list[int] = []
    for text in report.read_text().splitlines():
        try:
            row: dict[str, Any] = json.loads(text)
        except json.JSONDecodeError:
            continue
        if "line" in row:
            found.append(row["line"])
    return found


def effects(project: Project) -> list[tuple[int, str | None]]:
    """The rows that the handlers have left, in order."""
    database = project.folder / ".processor" / "ledger.db"
    with sqlite3.connect(database) as connection:
        known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'effect'").fetchone()
        if not known:
            return []
        return connection.execute("SELECT n, key FROM effect ORDER BY rowid").fetchall()


def waiting(project: Project, topic: str) -> int:
    rows = project.run("lag", topic).ok().rows()
    return sum(row["lag"] + row["retrying"] for row in rows)
