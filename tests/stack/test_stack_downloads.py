"""Downloads against a small server that can be as faulty as the real ones."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from processor.errors import ProcessorError
from processor.stack.artifacts import Artifacts
from processor.stack.report import LogReport


class Repository(ThreadingHTTPServer):
    """Serves `files`; cuts the first answer of a path in `cut_once` short; honours Range or not."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: dict[str, bytes] = {}
        self.cut_once: set[str] = set()
        self.honours_range = True
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/maven2"


class Answer(BaseHTTPRequestHandler):
    server: Repository

    def do_GET(self) -> None:
        path = self.path.removeprefix("/maven2/")
        wanted = self.headers.get("Range")
        self.server.asked.append((path, wanted))
        body = self.server.files.get(path)
        if body is None:
            self.send_error(404)
            return
        first = 0
        if wanted and self.server.honours_range:
            first = int(wanted.removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(body) - first))
        self.end_headers()
        if path in self.server.cut_once:
            self.server.cut_once.remove(path)
            body = body[: len(body) // 2]
        self.wfile.write(body[first:])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def repository() -> Iterator[Repository]:
    server = Repository()
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def pin(folder: Path, group: str, files: dict[str, bytes]) -> Path:
    lock_file = folder / "artifacts.toml"
    lock_file.write_text(
        "\n".join(
            f'[[{group}]]\npath = "{path}"\nbytes = {len(body)}\n'
            f'sha256 = "{hashlib.sha256(body).hexdigest()}"\n'
            for path, body in files.items()
        )
    )
    return lock_file


def artifacts(folder: Path, url: str, lock_file: Path) -> Artifacts:
    return Artifacts(report=LogReport(), cache=folder / "cache", base_url=url, lock_file=lock_file)


def kept(folder: Path) -> list[str]:
    """The files in the cache, locks apart."""
    paths = (folder / "cache").rglob("*")
    return sorted(path.name for path in paths if path.is_file() and path.suffix != ".lock")


JARS = {f"org/example/{name}.jar": name.encode() * 50_000 for name in ("one", "two", "three")}


def test_files_are_fetched_once_and_then_taken_from_the_cache(
    tmp_path: Path, repository: Repository
) -> None:
    repository.files = dict(JARS)
    lock_file = pin(tmp_path, "jars", JARS)

    first = artifacts(tmp_path, repository.url, lock_file).fetch("jars")
    second = artifacts(tmp_path, "http://127.0.0.1:9/nobody", lock_file).fetch("jars")

    assert [path.read_bytes() for path in first] == list(JARS.values())
    assert second == first
    assert sorted(path for path, _ in repository.asked) == sorted(JARS)


def test_file_with_a_wrong_sum_is_refused_and_not_kept(
    tmp_path: Path, repository: Repository
) -> None:
    lock_file = pin(tmp_path, "jars", {"a/good.jar": b"good"})
    repository.files = {"a/good.jar": b"evil"}

    with pytest.raises(ProcessorError, match="is not the pinned file") as refusal:
        artifacts(tmp_path, repository.url, lock_file).fetch("jars")

    assert f"{repository.url}/a/good.jar" in refusal.value.message
    assert kept(tmp_path) == []
    assert len(repository.asked) == 1


def test_file_longer_than_pinned_is_refused_and_not_kept(
    tmp_path: Path, repository: Repository
) -> None:
    lock_file = pin(tmp_path, "jars", {"a/good.jar": b"good"})
    repository.files = {"a/good.jar": b"good, and then some"}

    with pytest.raises(ProcessorError, match="is not the pinned file"):
        artifacts(tmp_path, repository.url, lock_file).fetch("jars")

    assert kept(tmp_path) == []


def test_broken_download_goes_on_where_it_stopped(tmp_path: Path, repository: Repository) -> None:
    body = bytes(range(256)) * 4096
    repository.files = {"a/big.jar": body}
    repository.cut_once = {"a/big.jar"}

    (path,) = artifacts(tmp_path, repository.url, pin(tmp_path, "big", repository.files)).fetch(
        "big"
    )

    assert path.read_bytes() == body
    assert [wanted for _, wanted in repository.asked] == [None, f"bytes={len(body) // 2}-"]
    assert kept(tmp_path) == ["big.jar"]


def test_server_that_ignores_ranges_is_read_from_the_start(
    tmp_path: Path, repository: Repository
) -> None:
    body = bytes(range(256)) * 4096
    repository.files = {"a/big.jar": body}
    repository.cut_once = {"a/big.jar"}
    repository.honours_range = False

    (path,) = artifacts(tmp_path, repository.url, pin(tmp_path, "big", repository.files)).fetch(
        "big"
    )

    assert path.read_bytes() == body


def test_damaged_remains_of_an_earlier_run_are_thrown_away(
    tmp_path: Path, repository: Repository
) -> None:
    repository.files = {"a/big.jar": b"0123456789" * 1000}
    lock_file = pin(tmp_path, "big", repository.files)
    part = tmp_path / "cache" / "maven" / "a" / "big.jar.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"damaged")

    (path,) = artifacts(tmp_path, repository.url, lock_file).fetch("big")

    assert path.read_bytes() == repository.files["a/big.jar"]
    assert [wanted for _, wanted in repository.asked] == ["bytes=7-", None]
    assert kept(tmp_path) == ["big.jar"]


def test_missing_file_is_told_at_once_with_its_url(tmp_path: Path, repository: Repository) -> None:
    lock_file = pin(tmp_path, "jars", JARS)
    repository.files = {path: body for path, body in JARS.items() if "two" not in path}

    with pytest.raises(ProcessorError) as refusal:
        artifacts(tmp_path, repository.url, lock_file).fetch("jars")

    assert f"{repository.url}/org/example/two.jar" in refusal.value.message
    assert "404" in refusal.value.message
    assert "two.jar" not in kept(tmp_path)


def test_network_that_is_away_is_told_with_what_was_tried(tmp_path: Path) -> None:
    lock_file = pin(tmp_path, "jars", {"a/one.jar": b"one"})

    with pytest.raises(ProcessorError) as refusal:
        artifacts(tmp_path, "http://127.0.0.1:9/maven2", lock_file).fetch("jars")

    assert "http://127.0.0.1:9/maven2/a/one.jar" in refusal.value.message
    assert "4 of 4 attempts" in refusal.value.message
    assert "PROCESSOR_MAVEN_URL" in str(refusal.value.hint)
    assert kept(tmp_path) == []


def test_runs_that_share_a_cache_fetch_each_file_once(
    tmp_path: Path, repository: Repository
) -> None:
    repository.files = dict(JARS)
    lock_file = pin(tmp_path, "jars", JARS)
    runs = [
        threading.Thread(
            target=artifacts(tmp_path, repository.url, lock_file).fetch, args=["jars"], daemon=True
        )
        for _ in range(4)
    ]

    for run in runs:
        run.start()
    for run in runs:
        run.join()

    assert sorted(path for path, _ in repository.asked) == sorted(JARS)
    assert len(kept(tmp_path)) == len(JARS)


def test_archive_is_unpacked_once_and_not_kept(tmp_path: Path, repository: Repository) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        entry = tarfile.TarInfo("lib/run.jar")
        entry.size = 3
        tar.addfile(entry, io.BytesIO(b"run"))
    repository.files = {"a/app.tar.gz": packed.getvalue()}
    lock_file = pin(tmp_path, "app", repository.files)

    first = artifacts(tmp_path, repository.url, lock_file).unpacked("app")
    second = artifacts(tmp_path, "http://127.0.0.1:9/nobody", lock_file).unpacked("app")

    assert first == second
    assert (first / "lib" / "run.jar").read_bytes() == b"run"
    assert kept(tmp_path) == ["run.jar"]


def test_pinned_files_have_sums_and_sizes() -> None:
    pinned = Artifacts(report=LogReport())

    kafka, registry = pinned._pinned("kafka"), pinned._pinned("registry")

    assert len(kafka) == 46
    assert len(registry) == 1
    assert all(len(each.sha256) == 64 and each.bytes_total > 0 for each in kafka + registry)
