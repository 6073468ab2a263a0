"""The peers: what each needs, in an environment of its own, and the script that runs it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

from tests.acceptance.project import eventually


@dataclass(frozen=True, slots=True)
class Peer:
    """One system on the same work. `script` is in ways/; those on Redis take `fill` and `work`."""

    name: str
    script: str
    packages: tuple[str, ...]
    redis: bool = False
    slow: bool = False  # A few thousand jobs a second.

    @property
    def environment(self) -> str:
        """The folder of its virtual environment: scripts with the same packages share it."""
        return self.packages[0].split("=")[0].split("[")[0]


_FASTSTREAM = ("faststream[confluent]==0.7.8", "fastavro", "uvloop")
PEERS = (
    Peer("FastStream, batch", "with_faststream_batch.py", _FASTSTREAM),
    Peer("Bytewax", "with_bytewax.py", ("bytewax[kafka]==0.21.1", "fastavro")),
    Peer("Quix Streams", "with_quix.py", ("quixstreams[avro]==3.28.1",)),
    Peer("Arroyo", "with_arroyo.py", ("sentry-arroyo==2.48.0", "fastavro")),
    Peer("FastStream, one by one", "with_faststream.py", _FASTSTREAM, slow=True),
    Peer("Celery", "with_celery.py",
         ("celery==5.7.0", "kombu==5.7.0", "redis>=6.1,<7", "packaging"), redis=True),
    Peer("Dramatiq", "with_dramatiq.py", ("dramatiq==2.2.1", "redis<7"), redis=True),
    Peer("streaq", "with_streaq.py", ("streaq==7.2.0", "uvloop"), redis=True),
)  # fmt: skip


def python_of(peer: Peer, folder: Path) -> Path:
    """Make a peer's environment, unless it is there; returns its interpreter."""
    home = folder / peer.environment
    python, made = home / "bin" / "python", home / "made"
    if not made.exists():
        print(f"installing {peer.name}", file=sys.stderr, flush=True)
        venv.create(home, clear=True, with_pip=True)
        quiet = ["-q", "--disable-pip-version-check"]
        subprocess.run([python, "-m", "pip", "install", *quiet, *peer.packages], check=True)
        made.touch()
    return python


class Redis:
    """A Redis server of this run's own, in memory; `url` is None where none is installed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.url: str | None = None

    def __enter__(self) -> Redis:
        server = shutil.which("redis-server")
        if server is None:
            print("left out: peers on Redis; there is no redis-server", file=sys.stderr, flush=True)
            return self
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._folder.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
             "--dir", str(self._folder)],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        eventually(lambda: _answers(port), timeout=20)
        self.url = f"redis://127.0.0.1:{port}"
        return self

    def __exit__(self, *exc: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def clean_environment() -> dict[str, str]:
    """What a peer's process is given: nothing of this project's environment."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PROCESSOR_")}
