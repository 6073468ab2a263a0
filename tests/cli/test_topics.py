from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from processor.cli.main import main
from tests.cli.told import Told

pytestmark = pytest.mark.broker


Run = Callable[..., Told]


@pytest.fixture
def run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kafka: Any,
) -> Run:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "topics").mkdir()
    (tmp_path / "processor.toml").write_text(
        f'[kafka]\n"bootstrap.servers" = "{kafka.bootstrap_servers}"\n'
    )

    def call(*arguments: str) -> Told:
        with pytest.raises(SystemExit) as left:
            main(["topics", *arguments])
        out, err = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return Told(left.value.code, [json.loads(line) for line in out.splitlines()], err)

    return call


def declare(name: str, *, partitions: int = 2, more: str = "retry: {delays: [1s]}") -> None:
    Path(f"topics/{name}.yaml").write_text(
        f"name: {name}\njobs: [object.copy]\npartitions: {partitions}\n{more}\n"
    )


def actions(told: Told) -> list[tuple[str, str]]:
    return [(row["action"], row["topic"]) for row in told.rows]


def test_plan_shows_what_is_missing_and_changes_nothing(run: Run, name: str):
    declare(name)

    first, second = run("plan", name), run("plan", name, "--check")

    assert first.code == 0
    assert actions(first) == [
        ("create", name),
        ("create", f"{name}.retry.1"),
        ("create", f"{name}.dlt"),
        ("create", f"{name}.status"),
    ]
    assert first.rows[0]["partitions"] == 2
    assert first.rows[0]["config"]["retention.ms"] == "604800000"
    assert (second.code, second.rows) == (3, first.rows)


def test_apply_creates_what_is_missing_and_a_second_time_nothing(run: Run, name: str):
    declare(name)

    first, second = run("apply", name), run("apply", name)

    assert (first.code, len(first.rows)) == (0, 4)
    assert (second.code, second.rows, second.stderr) == (0, [], "the cluster is as declared\n")
    assert run("plan", name, "--check").code == 0


def test_dry_run_shows_the_changes_and_makes_none(run: Run, name: str):
    declare(name)

    told = run("apply", name, "--dry-run")

    assert (told.code, told.stderr) == (0, "dry run: nothing was changed\n")
    assert len(told.rows) == len(run("plan", name).rows) == 4


def test_changed_setting_is_shown_as_a_difference_and_applied(run: Run, name: str):
    declare(name)
    run("apply", name)
    declare(name, more="retry: {delays: [1s]}\ndead_letter: {retention: 1d}")

    planned = run("plan", name)
    run("apply", name)

    assert planned.rows == [
        {
            "action": "set",
            "topic": f"{name}.dlt",
            "setting": "retention.ms",
            "before": "2592000000",
            "after": "86400000",
        }
    ]
    assert run("plan", name, "--check").code == 0


def test_partition_change_is_refused_without_the_flag_and_nothing_is_changed(run: Run, name: str):
    declare(name)
    run("apply", name)
    declare(name, partitions=3, more="retry: {delays: [1s, 2s]}")

    refused = run("apply", name)
    after = run("plan", name)
    allowed = run("apply", name, "--allow-partition-change")

    assert refused.code == 2
    assert f"topic `{name}` has 2 partitions, 3 are declared" in refused.stderr
    assert "a key's later jobs may run before its earlier ones are done" in refused.stderr
    assert "--allow-partition-change" in refused.stderr
    assert ("create", f"{name}.retry.2") in actions(after)
    assert allowed.code == 0
    assert run("plan", name, "--check").code == 0


def test_fewer_partitions_are_refused_with_the_flag_too(run: Run, name: str):
    declare(name)
    run("apply", name)
    declare(name, partitions=1)

    refused = run("apply", name, "--allow-partition-change")

    assert refused.code == 2
    assert "Kafka cannot take partitions away" in refused.stderr
    assert refused.rows == []


def test_broken_topic_file_is_misuse_with_every_fault(run: Run, name: str):
    declare(name, partitions=0, more="fense: key")

    told = run("plan")

    assert told.code == 2
    assert told.stderr == (
        "error: 2 faults in the topic files:\n"
        f"  topics/{name}.yaml:3: `partitions` (it is `0`): input should be greater than or equal"
        " to 1\n"
        f"  topics/{name}.yaml:4: `fense` is unknown; did you mean `fence`?\n"
    )


def test_unknown_topic_is_misuse(run: Run):
    told = run("plan", "copi")

    assert (told.code, told.stderr) == (
        2,
        "error: no topic `copi` is declared\nhint: did you mean `copy`?\n",
    )


def test_broker_that_is_away_fails_with_one_line(run: Run, monkeypatch: pytest.MonkeyPatch):
    Path("processor.toml").write_text('[kafka]\n"bootstrap.servers" = "127.0.0.1:9"\n')

    told = run("plan")

    assert told.code == 1
    assert told.stderr.startswith("error: Kafka at 127.0.0.1:9 does not answer: tried to list")
    assert told.stderr.count("\n") == 2
