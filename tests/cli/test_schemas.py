from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from processor.cli.main import main
from tests.cli.told import Told

pytestmark = pytest.mark.registry

AWAY = "http://127.0.0.1:9"


Run = Callable[..., Told]


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The type of a job of its own topic, in a project of its own."""
    monkeypatch.chdir(tmp_path)
    name = f"t{uuid.uuid4().hex[:12]}"
    (tmp_path / "schemas").mkdir()
    (tmp_path / "topics").mkdir()
    # A file of the same name hides the built-in topic, whose subjects other tests may register.
    (tmp_path / "topics/copy.yaml").write_text(
        f"name: {name}\njobs: [{name}.job, object.copy, object.checksum]\npartitions: 1\n"
        "status: {publish: false}\n"
    )
    use_registry(AWAY)
    return f"{name}.job"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str) -> Told:
        with pytest.raises(SystemExit) as left:
            main(["schemas", *arguments])
        out, err = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return Told(left.value.code, [json.loads(line) for line in out.splitlines()], err)

    return call


def use_registry(url: str) -> None:
    Path("processor.toml").write_text(f'[registry]\nurl = "{url}"\ntimeout_seconds = 5\n')


def write(job: str, *fields: tuple[Any, ...], doc: str = "A field.") -> None:
    namespace, _, name = job.rpartition(".")
    described = [
        {"name": each, "type": kind, "doc": doc, **({"default": more[0]} if more else {})}
        for each, kind, *more in fields
    ]
    document = {"type": "record", "namespace": namespace, "name": name, "doc": "A job."}
    Path(f"schemas/{job}.avsc").write_text(json.dumps({**document, "fields": described}))


def git(*arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)


def of(job: str, told: Told) -> list[dict[str, Any]]:
    return [row for row in told.rows if row["schema"] == job]


def test_registered_schema_is_listed_with_its_id(run: Run, job: str, registry: Any):
    use_registry(registry.url)
    write(job, ("x", "string"))
    subject = f"{job.removesuffix('.job')}-{job}"

    before = of(job, run("list"))
    dry = of(job, run("register", "--dry-run"))
    after_dry = of(job, run("list"))
    registered = of(job, run("register"))
    again = of(job, run("register"))
    after = of(job, run("list"))

    assert before == after_dry
    assert before[0] == {
        "schema": job,
        "subject": subject,
        "id": None,
        "state": "not registered",
        "file": f"schemas/{job}.avsc",
    }
    assert dry == [{"subject": subject, "schema": job, "id": None, "action": "register"}]
    schema_id = registered[0]["id"]
    assert registered[0]["action"] == "registered"
    assert again == [{"subject": subject, "schema": job, "id": schema_id, "action": "none"}]
    assert (after[0]["id"], after[0]["state"]) == (schema_id, "registered")


def test_status_record_is_registered_where_a_topic_publishes_it(run: Run, job: str, registry: Any):
    use_registry(registry.url)
    write(job, ("x", "string"))
    topic = Path("topics/copy.yaml")
    topic.write_text(topic.read_text().replace("publish: false", "publish: true"))

    rows = of("processor.JobStatus", run("register"))

    assert [row["subject"] for row in rows] == [
        f"{job.removesuffix('.job')}.status-processor.JobStatus"
    ]


def test_change_is_compared_both_ways_with_every_registered_version(
    run: Run, job: str, registry: Any
):
    use_registry(registry.url)
    write(job, ("x", "string"))
    run("register")
    compatible = run("check", "--against", "registry")
    write(job, ("y", "string"))

    told = run("check", "--against", "registry")

    against = f"{job.removesuffix('.job')}-{job} version 1"
    assert (compatible.code, compatible.rows) == (0, [])
    assert told.code == 3
    assert told.rows == [
        {
            "schema": job,
            "direction": "backward: the new schema reads old records",
            "problem": "field `y`: is missing there, and has no default",
            "against": against,
        },
        {
            "schema": job,
            "direction": "forward: the old schema reads new records",
            "problem": "field `x`: is missing there, and has no default",
            "against": against,
        },
    ]


def test_change_is_compared_with_git_where_the_registry_is_away(run: Run, job: str):
    write(job, ("x", "string"))
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    unchanged = run("check")
    write(job, ("x", "int"))

    told = run("check")
    none = run("check", "--against", "none")

    assert (unchanged.code, unchanged.rows) == (0, [])
    assert "comparing with git HEAD" in unchanged.stderr
    assert told.code == 3
    assert [row["problem"] for row in told.rows] == [
        "field `x`: string cannot be read as int",
        "field `x`: int cannot be read as string",
    ]
    assert told.rows[0]["against"] == "git HEAD"
    assert (none.code, none.rows) == (0, [])


def test_older_revision_can_be_compared_with(run: Run, job: str):
    write(job, ("x", "string"))
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    write(job, ("x", "string"), ("y", ["null", "int"], None))
    git("commit", "-qam", "two")
    write(job, ("x", "string"), ("y", "int", 1))

    now = run("check", "--against", "git")
    then = run("check", "--against", "git", "--base", "HEAD~1")

    assert (now.code, then.code) == (3, 0)


def test_new_file_without_an_earlier_version_is_no_problem(run: Run, job: str):
    write(job, ("x", "string"))
    git("init", "-q")
    git("add", "schemas")
    git("commit", "-qm", "one")
    write("t.other", ("x", "string"))

    assert run("check", "--against", "git").code == 0


def test_project_without_registry_and_git_is_compared_with_nothing_only_when_asked(
    run: Run, job: str
):
    write(job, ("x", "string"))

    told = run("check")
    accepted = run("check", "--against", "none")
    asked_for = run("check", "--against", "git")

    assert (told.code, told.rows) == (1, [])
    assert "have no fault, but there is nothing to compare them with: git does not" in told.stderr
    assert "--against none" in told.stderr
    assert (accepted.code, "not compared" in accepted.stderr) == (0, True)
    assert asked_for.code == 2
    assert "not a git repository" in asked_for.stderr


def test_every_fault_of_the_files_is_a_problem_that_is_found(run: Run, job: str):
    write(job, ("X", "string"), ("y", ["int", "null"]), doc="")

    told = run("check")

    assert told.code == 3
    assert [row["problem"] for row in told.rows] == [
        "field `X`: the name is not snake_case; write e.g. `content_type`",
        "field `X`: `doc` is missing: say what the field means, and its unit",
        "field `y`: `doc` is missing: say what the field means, and its unit",
        'field `y`: a nullable field is `["null", …]` with `"default": null`: old records lack it',
    ]
    assert {row["schema"] for row in told.rows} == {f"schemas/{job}.avsc"}


def test_unknown_revision_is_misuse(run: Run, job: str):
    write(job, ("x", "string"))
    git("init", "-q")
    git("add", ".")

    told = run("check", "--against", "git", "--base", "nowhere")
    option = run("check", "--against", "git", "--base=--output=x")

    assert told.code == 2
    assert "nowhere" in told.stderr
    assert (option.code, Path("x").exists()) == (2, False)


def test_registry_that_is_away_fails_what_needs_it(run: Run, job: str):
    write(job, ("x", "string"))

    check, register, listed = (
        run("check", "--against", "registry"),
        run("register"),
        run("list"),
    )

    for told in (check, register):
        assert (told.code, told.rows) == (1, [])
        assert f"error: the registry at {AWAY} does not answer" in told.stderr
    assert listed.code == 0
    assert {row["state"] for row in of(job, listed)} == {"unknown"}
    assert "warning: the registry at" in listed.stderr
