"""One stack's folder: what outlives a run of it, such as its ports and its secrets."""

from __future__ import annotations

import json
import random
import secrets
import signal
import socket
from pathlib import Path
from threading import Event, RLock
from typing import Any, Literal

from processor.errors import ProcessorError
from processor.stack.artifacts import Artifacts
from processor.stack.process import Daemon, write_atomically
from processor.stack.report import Report

PortChoice = Literal["prefer", "fixed", "free"]

# Below the ports that systems lend to outgoing connections (from 32768 on Linux, 49152 on macOS):
# a chosen port is not lent to someone else between the choice and the server's bind.
FREE_PORTS = range(20_000, 32_000)


class Site:
    """The folder of one stack, and the numbers and secrets it was given at its first start."""

    def __init__(self, directory: Path, *, ports: PortChoice, report: Report) -> None:
        self.directory = directory.absolute()
        self.report = report
        self.cancelled = Event()  # Set while a start is given up: whoever waits stops waiting.
        self.artifacts = Artifacts(report=report, cancelled=self.cancelled)
        self._port_choice = ports
        self._path = self.directory / "stack.json"
        self._lock = RLock()  # Parts start in threads of their own.
        self._state: dict[str, Any] = {}
        self.reload()

    def reload(self) -> None:
        """Read again what is remembered: another command may have started the stack since."""
        with self._lock:
            if self._path.exists():
                self._state = json.loads(self._path.read_text())

    def daemon(
        self,
        name: str,
        *,
        stop_signal: signal.Signals = signal.SIGTERM,
        stop_seconds_max: float = 20.0,
    ) -> Daemon:
        """A server process whose record and log are kept in this folder."""
        return Daemon(
            name,
            directory=self.directory,
            cancelled=self.cancelled,
            stop_signal=stop_signal,
            stop_seconds_max=stop_seconds_max,
        )

    def recall(self, name: str) -> Any:
        """The remembered value, or None."""
        with self._lock:
            return self._state.get(name)

    def remember(self, name: str, value: Any) -> None:
        """Keep a value for later runs."""
        with self._lock:
            self._state[name] = value
            self._save()

    def secret(self, name: str) -> str:
        """A random secret of this stack, made at its first use."""
        with self._lock:
            kept: dict[str, str] = self._state.setdefault("secrets", {})
            if name not in kept:
                kept[name] = secrets.token_hex(16)
                self._save()
            return kept[name]

    def port(self, name: str) -> int | None:
        """The port that `name` listens on, or did in its last run; None before its first."""
        with self._lock:
            port = self._state.get("ports", {}).get(name)
            assert port is None or isinstance(port, int)
            return port

    def claim_port(self, name: str, *, usual: int | None = None) -> int:
        """Choose the port that `name` will listen on: its last one, the usual one, a free one.

        Raises ProcessorError if the ports are to be fixed and the usual one is taken.
        """
        with self._lock:
            ports: dict[str, int] = self._state.setdefault("ports", {})
            others = {port for other, port in ports.items() if other != name}
            fixed = self._port_choice == "fixed" and usual is not None
            wanted = usual if fixed else ports.get(name)
            if wanted is None and self._port_choice == "prefer":
                wanted = usual
            if wanted is None or wanted in others or not port_is_free(wanted):
                if fixed:
                    raise ProcessorError(
                        f"port {wanted} for `{name}` is taken by another program",
                        hint="stop that program, or choose free ports with --free-ports",
                    )
                port = find_free_port(others)
                if wanted is not None:
                    self.report.say(f"{name}: port {wanted} is taken, {port} is used instead")
            else:
                port = wanted
            ports[name] = port
            self._save()
            return port

    def _save(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, json.dumps(self._state, indent=1) + "\n")


def port_is_free(port: int) -> bool:
    """Whether a server could listen on the loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Connections of a server that just stopped linger for a minute; they do not keep the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def port_answers(port: int) -> bool:
    """Whether something accepts connections on the loopback port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def find_free_port(taken: set[int]) -> int:
    """Pick a free loopback port at random, so that stacks which start together seldom meet."""
    for port in random.sample(FREE_PORTS, 500):
        if port not in taken and port_is_free(port):
            return port
    raise ProcessorError(
        f"no free port found between {FREE_PORTS.start} and {FREE_PORTS.stop}",
        hint="stop programs that listen there",
    )
