"""Server processes that outlive the command that started them, known by pid *and* birth.

Rule 1: a process is ours only if its pid and its time of birth are the recorded ones. A pid alone
        may have been given to another program since.
Rule 2: only recorded processes, and children of theirs, are ever signalled.
Rule 3: the record is written as soon as there is a pid and removed once the process is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from processor.errors import ProcessorError

if TYPE_CHECKING:
    import psutil

BIRTH_SECONDS_MAX = (
    2.0  # Clock corrections move the reported birth a little; pids do not recur so fast.
)
LOG_BYTES_MAX = 20_000_000  # A longer log is put aside at the next start.
PROBE_SECONDS = 0.05
TAIL_LINES = 20


class Cancelled(ProcessorError):
    """A start was given up because another part failed, or on Ctrl-C."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the start of `{name}` was given up")


class Daemon:
    """One server process in a session of its own, with a record and a log.

    Starting one that runs, and stopping one that does not, changes nothing.
    """

    def __init__(
        self,
        name: str,
        *,
        directory: Path,
        cancelled: Event | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        stop_seconds_max: float = 20.0,
    ) -> None:
        self.name = name
        self.log_path = directory / "logs" / f"{name}.log"
        self._record_path = directory / "run" / f"{name}.json"
        self._cancelled = cancelled or Event()
        self._stop_signal = stop_signal
        self._stop_seconds_max = stop_seconds_max
        self._popen: subprocess.Popen[bytes] | None = None

    def process(self) -> psutil.Process | None:
        """Find the recorded process if it is alive and the same that was recorded."""
        import psutil

        if self._popen is not None:
            self._popen.poll()  # Reaps it: a zombie would look alive.
        record = self._read_record()
        if record is None:
            return None
        pid, born = record
        try:
            process = psutil.Process(pid)
            if abs(process.create_time() - born) > BIRTH_SECONDS_MAX:
                return None
            return None if process.status() == psutil.STATUS_ZOMBIE else process
        except psutil.NoSuchProcess:
            return None

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self.process() is not None

    @property
    def stale(self) -> bool:
        """Whether a record remains of a process that is no more: it was killed, or it crashed."""
        return self._record_path.exists() and not self.running

    @property
    def pids(self) -> tuple[int, ...]:
        """The process and its children, the process first; empty when it is down."""
        return tuple(each.pid for each in self._family())

    @property
    def memory_bytes(self) -> int:
        """Resident memory of the process and its children; 0 when it is down."""
        import psutil

        total = 0
        for each in self._family():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                total += each.memory_info().rss
        return total

    def start(
        self,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        user: str | None = None,
    ) -> bool:
        """Start the process unless it runs; false if it ran. `user` is honoured for root only."""
        import psutil

        if self.running:
            return False
        self._check_not_cancelled()
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self._record_path.parent.mkdir(parents=True, exist_ok=True)
        if self.log_path.exists() and self.log_path.stat().st_size > LOG_BYTES_MAX:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))
        with self.log_path.open("ab") as log:
            self._popen = subprocess.Popen(  # noqa: S603  # Our own command lines.
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env={**os.environ, **environment} if environment else None,
                start_new_session=True,  # Ctrl-C in the terminal is not for the servers.
                user=user,
                group=_group_of(user),
                extra_groups=[] if user else None,
            )
        pid = self._popen.pid
        try:
            born = psutil.Process(pid).create_time()
        except psutil.NoSuchProcess:
            return True  # It ended at once; who waits for it will tell its log.
        write_atomically(self._record_path, json.dumps({"pid": pid, "born": born}) + "\n")
        return True

    def wait_until(self, probe: Callable[[], bool], *, seconds_max: float) -> None:
        """Wait for the probe to say yes; ProcessorError with the log's tail if it never does."""
        deadline = time.monotonic() + seconds_max
        while not probe():
            self._check_not_cancelled()
            if not self.running:
                raise self._failure("ended before it answered")
            if time.monotonic() > deadline:
                raise self._failure(f"did not answer within {seconds_max:g} s")
            time.sleep(PROBE_SECONDS)

    def stop(self, *, kill: bool = False) -> bool:
        """Stop the process and wait until it and its children are gone; false if it did not run.

        It gets its stop signal, and after `stop_seconds_max` SIGKILL; with `kill` SIGKILL at once.
        """
        import psutil

        family = self._family()
        if family:
            family[0].send_signal(signal.SIGKILL if kill else self._stop_signal)
            try:
                family[0].wait(self._stop_seconds_max)
            except psutil.TimeoutExpired:
                family[0].kill()
            # The children of a killed server (PostgreSQL's) notice and leave by themselves.
            _, alive = psutil.wait_procs(family, timeout=3.0)
            for each in alive:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            psutil.wait_procs(alive, timeout=5.0)
        if self._popen is not None:
            self._popen.poll()
        self._record_path.unlink(missing_ok=True)
        return bool(family)

    def log_tail(self) -> str:
        """The last lines of the log, each indented; empty if there are none."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - 16_384))
            lines = log.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
        return "\n".join(f"    {line[:300]}" for line in lines)

    def _family(self) -> list[psutil.Process]:
        import psutil

        process = self.process()
        if process is None:
            return []
        try:
            return [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _read_record(self) -> tuple[int, float] | None:
        try:
            record = json.loads(self._record_path.read_text())
            return int(record["pid"]), float(record["born"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            return None  # A torn record proves nothing, so nothing may be signalled by it.

    def _check_not_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled(self.name)

    def _failure(self, fact: str) -> ProcessorError:
        tail = self.log_tail() or "    (it wrote nothing)"
        return ProcessorError(
            f"`{self.name}` {fact}; the end of its log:\n{tail}",
            hint=f"the whole log is {self.log_path}",
        )


@contextlib.contextmanager
def locked(path: Path, *, when_waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold an exclusive lock between processes and threads. It goes with a holder that dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if when_waiting is not None:
                when_waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_atomically(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Write a file as a whole: a reader sees the old text or the new, never a piece."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    fresh.touch(mode=0o600)  # A secret is never readable for others, not for a moment.
    fresh.write_text(text)
    fresh.chmod(mode)
    fresh.replace(path)


def run(
    command: Sequence[str | Path],
    *,
    seconds_max: float,
    directory: Path | None = None,
    user: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a short command to its end and return its code and what it wrote."""
    return subprocess.run(  # noqa: S603  # Our own command lines.
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds_max,
        cwd=directory,
        user=user,
        group=_group_of(user),
        extra_groups=[] if user else None,
    )


def _group_of(user: str | None) -> int | None:
    if user is None:
        return None
    import pwd

    return pwd.getpwnam(user).pw_gid
