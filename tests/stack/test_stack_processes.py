"""Processes that outlive us: which are ours, which are not, and how they end."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from processor.errors import ProcessorError
from processor.stack.process import Daemon
from processor.stack.report import LogReport
from processor.stack.site import Site, port_is_free

SLEEPS = [sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPS[-1],
]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon("sleeper", directory=tmp_path, stop_seconds_max=0.5)
    yield made
    made.stop(kill=True)


def until_ready(daemon: Daemon) -> None:
    daemon.wait_until(lambda: "ready" in daemon.log_path.read_text(), seconds_max=10.0)


def test_another_command_finds_the_process_and_stops_it(tmp_path: Path, daemon: Daemon) -> None:
    daemon.start(SLEEPS)
    other = Daemon("sleeper", directory=tmp_path)

    seen = other.pids
    stopped = other.stop()

    assert len(seen) == 1
    assert stopped
    assert not psutil.pid_exists(seen[0])
    assert not daemon.running
    assert not daemon.stale


def test_second_start_changes_nothing(daemon: Daemon) -> None:
    assert daemon.start(SLEEPS)
    before = daemon.pids

    assert not daemon.start(SLEEPS)

    assert daemon.pids == before


def test_stopping_what_does_not_run_changes_nothing(daemon: Daemon) -> None:
    assert not daemon.stop()
    assert not daemon.stop()


def test_killed_process_is_noticed_as_ended(daemon: Daemon) -> None:
    daemon.start(SLEEPS)

    victim = psutil.Process(daemon.pids[0])
    victim.kill()
    victim.wait(10.0)

    assert not daemon.running
    assert daemon.stale


def test_pid_given_to_another_program_is_never_signalled(tmp_path: Path, daemon: Daemon) -> None:
    daemon.start(SLEEPS)
    record = tmp_path / "run" / "other.json"
    record.write_text(json.dumps({"pid": daemon.pids[0], "born": 1_000_000.0}))
    other = Daemon("other", directory=tmp_path)

    assert not other.running
    assert other.stale
    assert not other.stop(kill=True)

    assert daemon.running
    assert not record.exists()


def test_torn_record_proves_nothing(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "torn.json").write_text('{"pid": 1')

    assert not Daemon("torn", directory=tmp_path).running


def test_process_is_out_of_reach_of_ctrl_c(daemon: Daemon) -> None:
    daemon.start(SLEEPS)

    assert os.getsid(daemon.pids[0]) == daemon.pids[0]
    assert os.getsid(0) != daemon.pids[0]


def test_process_that_will_not_leave_is_killed(daemon: Daemon) -> None:
    daemon.start(STUBBORN)
    until_ready(daemon)
    (pid,) = daemon.pids

    assert daemon.stop()

    assert not psutil.pid_exists(pid)


def test_process_that_ends_too_soon_is_told_with_the_end_of_its_log(daemon: Daemon) -> None:
    daemon.start([sys.executable, "-c", "print('no space left'); raise SystemExit(3)"])

    with pytest.raises(ProcessorError, match="ended before it answered") as failure:
        daemon.wait_until(lambda: False, seconds_max=10.0)

    assert "no space left" in failure.value.message
    assert str(daemon.log_path) in str(failure.value.hint)


def test_process_that_never_answers_is_told_after_the_limit(daemon: Daemon) -> None:
    daemon.start(SLEEPS)

    with pytest.raises(ProcessorError, match=r"did not answer within 0\.1 s"):
        daemon.wait_until(lambda: False, seconds_max=0.1)


class Notes(LogReport):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def test_taken_port_is_replaced_with_a_note(tmp_path: Path, taken_port: int) -> None:
    notes = Notes()

    port = Site(tmp_path, ports="prefer", report=notes).claim_port("registry", usual=taken_port)

    assert port != taken_port
    assert notes.lines == [f"registry: port {taken_port} is taken, {port} is used instead"]
    assert Site(tmp_path, ports="prefer", report=notes).port("registry") == port


def test_taken_fixed_port_is_refused(tmp_path: Path, taken_port: int) -> None:
    site = Site(tmp_path, ports="fixed", report=LogReport())

    with pytest.raises(ProcessorError, match=f"port {taken_port} for `registry` is taken"):
        site.claim_port("registry", usual=taken_port)

    assert site.port("registry") is None


def test_port_and_secret_are_kept_for_the_next_run(tmp_path: Path) -> None:
    first = Site(tmp_path, ports="free", report=LogReport())
    port, secret = first.claim_port("s3"), first.secret("s3")

    second = Site(tmp_path, ports="free", report=LogReport())

    assert port_is_free(port)
    assert second.claim_port("s3") == port
    assert second.secret("s3") == secret
    assert (tmp_path / "stack.json").stat().st_mode & 0o077 == 0
