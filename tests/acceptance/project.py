"""A user's project in a folder of its own: schemas, topics, handlers, and the commands typed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from processor.settings import Settings, load_settings

COMMAND = [sys.executable, "-m", "processor"]


class Project:
    """A folder with a processor.toml that points at the test's servers."""

    def __init__(self, folder: Path, settings: Mapping[str, Mapping[str, Any]]) -> None:
        self.folder = folder
        self.name = f"t{uuid.uuid4().hex[:8]}"  # A prefix for topics and groups of this test.
        self.tables = {table: dict(values) for table, values in settings.items()}
        self.tables.setdefault("worker", {}).setdefault("group", self.name)
        (folder / "schemas").mkdir()
        (folder / "topics").mkdir()
        self.write_settings()

    def write_settings(self, **tables: Mapping[str, Any]) -> None:
        """Write processor.toml; tables given here are merged in."""
        for table, values in tables.items():
            self.tables.setdefault(table, {}).update(values)
        lines = []
        for table, values in self.tables.items():
            lines.append(f"[{table}]")
            lines += [f'"{name}" = {json.dumps(value)}' for name, value in values.items()]
        (self.folder / "processor.toml").write_text("\n".join(lines) + "\n")

    def settings(self) -> Settings:
        """The settings as the commands read them."""
        return load_settings(
            folder=self.folder,
            environ={},
            overrides={
                "schemas_dir": str(self.folder / "schemas"),
                "topics_dir": str(self.folder / "topics"),
            },
        )

    def add_schema(self, job_type: str, fields: Sequence[Mapping[str, Any]]) -> None:
        """Write a job type's schema; each field is given without its doc."""
        namespace, _, name = job_type.rpartition(".")
        documented = [{"doc": "A field.", **field} for field in fields]
        schema = {"type": "record", "namespace": namespace, "name": name, "doc": "A job.",
                  "fields": documented}  # fmt: skip
        (self.folder / "schemas" / f"{job_type}.avsc").write_text(json.dumps(schema))

    def add_topic(self, name: str, jobs: Sequence[str], **more: Any) -> str:
        """Write a topic's file; returns its full name."""
        topic = f"{self.name}.{name}"
        document = {"name": topic, "jobs": list(jobs), "partitions": 3, **more}
        (self.folder / "topics" / f"{name}.yaml").write_text(json.dumps(document))
        return topic

    def add_module(self, name: str, source: str) -> None:
        """Write a Python module beside processor.toml."""
        (self.folder / f"{name}.py").write_text(source)

    def provision(self) -> None:
        """Apply the topics and register the schemas."""
        own = [path.stem for path in (self.folder / "topics").glob("*.yaml")]
        self.run("topics", "apply", *[f"{self.name}.{name}" for name in own]).ok()
        self.run("schemas", "register").ok()

    def run(
        self, *arguments: str, stdin: str = "", env: Mapping[str, str] | None = None,
        timeout: float = 60,
    ) -> Ran:  # fmt: skip
        """Run a command to its end."""
        done = subprocess.run(
            [*COMMAND, *arguments], cwd=self.folder, input=stdin, capture_output=True, text=True,
            timeout=timeout, env=self._environment(env),
        )  # fmt: skip
        return Ran(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> Process:
        """Start a command that stays."""
        log = self.folder / f"{arguments[0]}-{uuid.uuid4().hex[:6]}.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [*COMMAND, *arguments], cwd=self.folder, stdin=subprocess.DEVNULL,
                stdout=stream, stderr=subprocess.STDOUT, env=self._environment(env),
            )  # fmt: skip
        return Process(process, log)

    def _environment(self, more: Mapping[str, str] | None) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("PROCESSOR_")}
        return {**clean, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(self.folder), **(more or {})}


class Ran:
    """A command's end."""

    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code, self.stdout, self.stderr = code, stdout, stderr

    def ok(self) -> Ran:
        """Check that it exited 0."""
        assert self.code == 0, f"exit {self.code}\n{self.stdout}\n{self.stderr}"
        return self

    def rows(self) -> list[dict[str, Any]]:
        """Its JSON lines."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    def refused(self, code: int, *words: str) -> Ran:
        """Check that it failed as a command should: the code, one clear fault, no traceback."""
        assert self.code == code, f"exit {self.code}\n{self.stdout}\n{self.stderr}"
        assert "Traceback" not in self.stderr, self.stderr
        for word in words:
            assert word in self.stderr, f"{word!r} not in:\n{self.stderr}"
        return self


class Process:
    """A command that stays, and its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log = process, log

    @property
    def pid(self) -> int:
        return self.process.pid

    def logged(self) -> list[dict[str, Any]]:
        """Its log so far, as JSON lines."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def wait_for(self, event: str, *, count: int = 1, timeout: float = 60) -> None:
        """Wait until an event was logged so often."""
        eventually(
            lambda: sum(row.get("event") == event for row in self.logged()) >= count,
            timeout=timeout,
            otherwise=lambda: f"no {event!r} in:\n{self.log.read_text()[-3000:]}",
        )

    def end(self, number: int = signal.SIGTERM, timeout: float = 40) -> int:
        """Send a signal and wait for the end; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout)


def eventually(
    fact: Callable[[], Any], *, timeout: float = 60, otherwise: Callable[[], str] = str
) -> Any:
    """Wait until a fact of another process holds; returns it."""
    until = time.monotonic() + timeout
    while not (found := fact()):
        assert time.monotonic() < until, f"not within {timeout} s: {otherwise()}"
        time.sleep(0.05)
    return found


@contextmanager
def stopped(kafka: Any) -> Iterator[None]:
    """Have the broker answer nothing for a while."""
    for pid in kafka.pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in kafka.pids:
            os.kill(pid, signal.SIGCONT)
