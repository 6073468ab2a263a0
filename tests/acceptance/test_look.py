"""What a person and a script see of the queue: lag, status, dead letters, and the help."""

from __future__ import annotations

import json
import os
import pty
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest
from confluent_kafka.admin import AdminClient

from processor.cli.main import COMMANDS, cli
from tests.acceptance.project import COMMAND, Process, Project, eventually

MODULE = """
from processor import App, Reject

app = App()

@app.job("mail.send")
def send(payload: dict) -> dict:
    if payload["to"] == "nobody":
        raise Reject("nobody is no address")
    return {"sent": payload["to"]}
"""
UNKNOWN = "0192aaaa-0000-7000-8000-000000000000"


@pytest.fixture
def topic(project: Project) -> str:
    """A topic with two jobs, one of which dies when it is worked."""
    project.add_schema("mail.send", [{"name": "to", "type": "string"}])
    project.add_module("handlers", MODULE)
    name = project.add_topic("mail", ["mail.send"])
    project.provision()
    return name


def submit(project: Project, to: str) -> str:
    ran = project.run("submit", "mail.send", "--json", json.dumps({"to": to}), "--key", to).ok()
    return str(ran.rows()[0]["job_id"])


def worked(project: Project, topic: str) -> Process:
    """Run a worker until nothing waits; it is stopped before this returns."""
    worker = project.start("work", "handlers:app", "--topic", topic)
    eventually(
        lambda: sum(row["lag"] for row in project.run("lag", topic).ok().rows()) == 0,
        otherwise=lambda: worker.log.read_text()[-3000:],
    )
    assert worker.end() == 0
    return worker


@pytest.fixture
def no_built_in_topic(kafka: Any) -> None:
    """Other tests of the session may have applied it."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})

    def there() -> list[str]:
        found = admin.list_topics(timeout=10).topics
        return [name for name in found if name.partition(".")[0] == "copy"]

    if names := there():
        for done in admin.delete_topics(names).values():
            done.result(20)
        eventually(lambda: not there())


@pytest.mark.acceptance
@pytest.mark.broker
@pytest.mark.usefixtures("no_built_in_topic")
def test_lag_counts_what_waits_and_what_is_dead(project: Project, topic: str) -> None:
    for to in ("ada", "bob", "nobody"):
        submit(project, to)

    before = project.run("lag", topic).ok().rows()
    worked(project, topic)
    after = project.run("lag", topic).ok().rows()

    assert [row["partition"] for row in before] == [0, 1, 2]
    assert sum(row["lag"] for row in before) == sum(row["end"] for row in before) == 3
    assert {row["committed"] for row in before} == {None}
    assert sum(row["lag"] + row["retrying"] + row["in_flight"] for row in after) == 0
    assert [row["committed"] for row in after] == [row["end"] for row in after]
    assert sum(row["dead"] for row in after) == 1
    # With no topic named, all that were applied: the built-in one was not.
    assert project.run("lag").ok().rows() == after


@pytest.mark.acceptance
@pytest.mark.broker
def test_lag_of_an_unknown_topic_names_the_nearest(project: Project, topic: str) -> None:
    project.run("lag", topic + "s").refused(2, "no topic", f"did you mean `{topic}`")


@pytest.mark.acceptance
@pytest.mark.broker
@pytest.mark.usefixtures("no_built_in_topic")
def test_before_any_topic_is_applied_the_next_step_is_told(project: Project) -> None:
    project.add_schema("mail.send", [{"name": "to", "type": "string"}])
    project.add_topic("mail", ["mail.send"])

    for command in (["lag"], ["status", UNKNOWN], ["dead", "list"], ["dead", "show", UNKNOWN]):
        project.run(*command).refused(2, "none of the declared topics", "processor topics apply")


@pytest.mark.acceptance
@pytest.mark.broker
def test_status_tells_how_a_job_ended(project: Project, topic: str) -> None:
    sent, dead = submit(project, "ada"), submit(project, "nobody")

    unsettled = project.run("status", sent)
    worked(project, topic)
    succeeded = project.run("status", sent).ok().rows()
    died = project.run("status", dead).ok().rows()
    unknown = project.run("status", UNKNOWN)

    assert (unsettled.code, unsettled.stdout) == (3, "")
    assert len(succeeded) == len(died) == 1
    assert (succeeded[0]["state"], succeeded[0]["result"]) == ("succeeded", '{"sent": "ada"}')
    assert (died[0]["state"], died[0]["error_message"]) == ("dead", "nobody is no address")
    unknown.refused(3, UNKNOWN, "processor why")
    assert unknown.stdout == ""


@pytest.mark.acceptance
@pytest.mark.broker
def test_dead_letters_are_listed_and_shown(project: Project, topic: str) -> None:
    submit(project, "ada")
    job_id = submit(project, "nobody")
    other = submit(project, "nobody")
    worked(project, topic)

    listed = project.run("dead", "list").ok().rows()
    by_topic = project.run("dead", "list", topic, "--error-class", "Reject").ok().rows()
    none = project.run("dead", "list", topic, "--error-class", "ContractError").ok()
    one = project.run("dead", "list", topic, "--limit", "1").ok().rows()
    shown = project.run("dead", "show", job_id).ok().rows()
    unknown = project.run("dead", "show", UNKNOWN)

    assert {row["job_id"] for row in listed} == {job_id, other}
    assert by_topic == listed
    assert (none.stdout, none.stderr) == ("", "")
    assert len(one) == 1
    assert "value_base64" not in listed[0]
    assert [row["job_id"] for row in shown] == [job_id]
    assert shown[0]["headers"]["ce_type"] == "mail.send"
    assert shown[0]["value_base64"]
    unknown.refused(3, UNKNOWN)
    assert unknown.stdout == ""


@pytest.mark.acceptance
@pytest.mark.broker
def test_a_person_on_a_terminal_gets_tables(project: Project, topic: str) -> None:
    job_id = submit(project, "nobody")
    worked(project, topic)

    tables = {
        "topic": ["lag", topic],
        "state": ["status", job_id],
        "error class": ["dead", "list"],
        "name": ["dead", "show", job_id],
    }
    for heading, command in tables.items():
        code, shown = on_a_terminal(command, project.folder)
        assert code == 0, shown
        assert heading in shown
        assert "{" not in shown.splitlines()[0], shown
        assert json.loads(on_a_terminal([*command, "--json"], project.folder)[1].splitlines()[0])


def on_a_terminal(arguments: list[str], folder: Path) -> tuple[int, str]:
    """Run a command whose output is a terminal of 200 columns."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "COLUMNS": "200", "TERM": "xterm-256color", "PYTHONPATH": str(folder)}
    process = subprocess.Popen(
        [*COMMAND, *arguments], cwd=folder, stdout=theirs, stderr=theirs, env=env
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:
        pass  # Linux's way to say that the other end is closed.
    os.close(ours)
    return process.wait(30), shown.decode().replace("\r\n", "\n")


def test_help_answers_in_less_than_300_ms() -> None:
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([*COMMAND, "--help"], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - started)

    print(f"processor --help: {statistics.median(seconds) * 1000:.0f} ms")
    assert statistics.median(seconds) < 0.3


def paths(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command and group, by the words a user types."""
    found = [path]
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            child = command.get_command(click.Context(command), name)
            assert child is not None
            found += paths(child, (*path, name))
    return found


def test_every_command_has_help_that_works() -> None:
    every = paths(cli)
    assert {path[0] for path in every if path} == set(COMMANDS)

    # One process for all: starting one for each takes longer than the rest of this file.
    code = (
        "import json, sys\n"
        "from processor.cli.main import run\n"
        "for path in json.load(sys.stdin):\n"
        "    assert run([*path, '--help']) == 0, path\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(every), capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip

    assert ran.returncode == 0, ran.stderr
    for path in every:
        assert f"Usage: {' '.join(['processor', *path])}" in ran.stdout
