"""What the demo copies: a real tree of files, some behind a server that fails on purpose."""

from __future__ import annotations

import sysconfig
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote

ROOT = Path(sysconfig.get_path("stdlib")).resolve()
FILES_MAX = 2000
FLAKY = 40  # Files whose server fails twice before it gives them.
BROKEN = 5  # Files whose server never gives them.
MISSING = 5  # Files that do not exist.
FAILURES = 2


@dataclass(frozen=True, slots=True)
class Wish:
    """One file to copy. `path` None: no such file, the job can never succeed."""

    uri: str
    key: str
    name: str  # Under the target.
    path: Path | None


def wishes(server: str) -> list[Wish]:
    """List the standard library's files, keyed by folder, and those that fail, with own keys."""
    paths = [path for path in sorted(ROOT.rglob("*")) if _wanted(path.relative_to(ROOT), path)]
    plain, flaky = paths[:-FLAKY][:FILES_MAX], paths[-FLAKY:]
    found = [
        Wish(path.as_uri(), str(path.parent.relative_to(ROOT)), _name(path, ROOT), path)
        for path in plain
    ]
    found += [
        Wish(f"{server}/flaky{quote(str(path))}", f"flaky-{n}", f"flaky/{_name(path, ROOT)}", path)
        for n, path in enumerate(flaky)
    ]
    found += [
        Wish(f"{server}/broken/{n}", f"broken-{n}", f"broken/{n}", None) for n in range(BROKEN)
    ]
    found += [
        Wish((ROOT / f"no-such-file-{n}").as_uri(), f"missing-{n}", f"missing/{n}", None)
        for n in range(MISSING)
    ]
    step = max(1, len(plain) // (FLAKY + BROKEN + MISSING))
    order = {wish.name: at for at, wish in enumerate(found[: len(plain)])}
    late = {wish.name: at * step for at, wish in enumerate(found[len(plain) :])}
    return sorted(found, key=lambda wish: late.get(wish.name, order.get(wish.name, 0)))


def _wanted(relative: Path, path: Path) -> bool:
    hidden = {"site-packages", "dist-packages", "__pycache__"}
    if not path.resolve().is_relative_to(ROOT):  # Some systems link to a file of /etc.
        return False
    return hidden.isdisjoint(relative.parts) and path.is_file()


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


@contextmanager
def flaky_server() -> Iterator[str]:
    """Serve files on loopback, each only at the third time of asking; gives the server's URL."""
    asked: Counter[str] = Counter()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with lock:
                asked[self.path] += 1
                fails = asked[self.path] <= FAILURES or self.path.startswith("/broken/")
            if fails:
                self.send_error(503, "not now")
                return
            content = Path(unquote(self.path.removeprefix("/flaky"))).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing: the failures are wanted."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
