"""Objects far larger than a worker's memory: copied, uploaded and fetched, and whole at the end.

`TEST_LARGE_BYTES=5368709120` runs the same with 5 GiB.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from processor.adapters.objects.stores import s3_client
from tests.acceptance.project import COMMAND, Process, Project, Ran
from tests.serving import served

LARGE_BYTES = int(os.environ.get("TEST_LARGE_BYTES", str(512 * 1024**2)))
SECONDS_MAX = 60 + LARGE_BYTES / (10 * 1024**2)  # Of a slow disk and two busy processors.
MEMORY_MAX = 300 * 1024**2
CHUNK_BYTES = 1024**2

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.broker,
    pytest.mark.s3,
    pytest.mark.slow,
    pytest.mark.timeout(3 * SECONDS_MAX),
]


class Large(NamedTuple):
    """A large file, and what it hashes to."""

    path: Path
    sha256: str


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Large]:
    """A sparse file with a mark in each MiB, so that no two parts of it are alike."""
    path = tmp_path_factory.mktemp("large") / "large.bin"
    digest = hashlib.sha256()
    with path.open("wb") as file:
        file.truncate(LARGE_BYTES)
        for at in range(0, LARGE_BYTES, CHUNK_BYTES):
            file.seek(at)
            file.write(b"%020d" % at)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    yield Large(path, digest.hexdigest())
    path.unlink()


@pytest.fixture
def topic(project: Project, s3: Any, large: Large) -> str:
    """The built-in jobs on a topic of the project's own, with S3 and a claim store there."""
    project.write_settings(
        s3=s3.settings,
        claims={"store": f"s3://processor-claims/{project.name}"},
        http={"networks": ["127.0.0.0/8"]},  # The tests' web server.
        files={"folders": [str(project.folder), str(large.path.parent)]},
    )
    name = project.add_topic("files", ["object.copy", "object.checksum"])
    project.provision()
    return name


@pytest.fixture
def worker(project: Project, topic: str) -> Process:
    started = project.start("work", "processor.jobs:app", "--topic", topic)
    started.wait_for("partition taken over")
    return started


@pytest.fixture
def web(large: Large) -> Iterator[str]:
    """A web server for the large file's folder, on loopback."""
    handler = partial(Silent, directory=str(large.path.parent))
    with served(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as server:
        yield f"http://127.0.0.1:{server.server_port}"


class Silent(SimpleHTTPRequestHandler):
    """Serves files and says nothing of it."""

    def log_message(self, *words: object) -> None:
        pass


def test_large_file_is_copied_to_s3_within_little_memory(
    project: Project, worker: Process, large: Large
) -> None:
    target = f"s3://processor-claims/{project.name}/large.bin"

    began = time.monotonic()
    outcome = submitted(
        project, "object.copy", {"source": {"uri": large.path.as_uri()}, "target": target}
    )
    seconds = time.monotonic() - began
    memory = peak_memory(worker.pid)

    result = json.loads(outcome["result"])
    print(f"{LARGE_BYTES / 1024**2:.0f} MiB file -> S3 in {seconds:.1f} s, "
          f"worker's peak {memory / 1024**2:.0f} MiB")  # fmt: skip
    assert outcome["state"] == "succeeded"
    assert result == {
        "uri": target,
        "size": LARGE_BYTES,
        "sha256": large.sha256,
        "copied": True,
    }
    assert memory < MEMORY_MAX
    assert sha256_in_s3(project, "processor-claims", f"{project.name}/large.bin") == large.sha256


def test_large_input_is_uploaded_and_read_within_little_memory(
    project: Project, worker: Process, large: Large
) -> None:
    began = time.monotonic()
    ran, memory = measured(
        project, "submit", "object.checksum", "--file", str(large.path), "--wait",
        "--timeout", str(SECONDS_MAX),
    )  # fmt: skip
    seconds = time.monotonic() - began

    outcome = ran.ok().rows()[1]
    print(f"{LARGE_BYTES / 1024**2:.0f} MiB --file -> S3 -> checksum in {seconds:.1f} s, peak "
          f"{memory / 1024**2:.0f} MiB in the command, "
          f"{peak_memory(worker.pid) / 1024**2:.0f} MiB in the worker")  # fmt: skip
    assert outcome["state"] == "succeeded"
    assert json.loads(outcome["result"]) == {
        "uri": f"s3://processor-claims/{project.name}/{large.sha256[:2]}/{large.sha256}",
        "size": LARGE_BYTES,
        "sha256": large.sha256,
    }
    assert memory < MEMORY_MAX
    assert peak_memory(worker.pid) < MEMORY_MAX


def test_large_object_is_fetched_from_a_web_server(
    project: Project, worker: Process, large: Large, web: str
) -> None:
    target = project.folder / "fetched" / "large.bin"
    source = {"uri": f"{web}/large.bin", "size": LARGE_BYTES, "sha256": large.sha256}

    began = time.monotonic()
    outcome = submitted(project, "object.copy", {"source": source, "target": target.as_uri()})
    seconds = time.monotonic() - began
    memory = peak_memory(worker.pid)

    print(f"{LARGE_BYTES / 1024**2:.0f} MiB http -> file in {seconds:.1f} s, "
          f"worker's peak {memory / 1024**2:.0f} MiB")  # fmt: skip
    assert outcome["state"] == "succeeded"
    assert memory < MEMORY_MAX
    assert target.stat().st_size == LARGE_BYTES
    with target.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == large.sha256
    target.unlink()


def test_large_object_that_is_not_what_was_promised_never_appears(
    project: Project, worker: Process, large: Large, web: str
) -> None:
    target = project.folder / "fetched" / "large.bin"
    source = {"uri": f"{web}/large.bin", "size": LARGE_BYTES, "sha256": "0" * 64}

    outcome = submitted(
        project, "object.copy", {"source": source, "target": target.as_uri()}, code=1
    )

    assert (outcome["state"], outcome["error_class"]) == ("dead", "ContractError")
    assert "sha256" in outcome["error_message"]
    assert list(target.parent.iterdir()) == []


def submitted(
    project: Project, job_type: str, payload: dict[str, Any], *, code: int = 0
) -> dict[str, Any]:
    """Submit a job, wait, and give its outcome."""
    ran = project.run(
        "submit", job_type, "--json", json.dumps(payload), "--wait",
        "--timeout", str(SECONDS_MAX), timeout=SECONDS_MAX + 30,
    )  # fmt: skip
    assert ran.code == code, ran.stderr
    outcome: dict[str, Any] = ran.rows()[1]
    return outcome


def measured(project: Project, *arguments: str) -> tuple[Ran, int]:
    """Run a command to its end; returns it, and the most memory it has had."""
    process = subprocess.Popen(
        [*COMMAND, *arguments], cwd=project.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    memory = 0
    while process.poll() is None:
        memory = max(memory, peak_memory(process.pid))
        time.sleep(0.02)
    stdout, stderr = process.communicate()
    return Ran(process.returncode, stdout, stderr), memory


def peak_memory(pid: int) -> int:
    """The most resident memory a process has had, in bytes; 0 when it has just ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:  # No such system, or no such process.
        return psutil.Process(pid).memory_info().rss if psutil.pid_exists(pid) else 0
    peaks = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(peaks[0]) * 1024 if peaks else 0


def sha256_in_s3(project: Project, bucket: str, key: str) -> str:
    """Hash an object as the store gives it, and remove it."""
    client = s3_client(project.settings().s3)
    digest = hashlib.sha256()
    for chunk in client.get_object(Bucket=bucket, Key=key)["Body"].iter_chunks(CHUNK_BYTES):
        digest.update(chunk)
    client.delete_object(Bucket=bucket, Key=key)
    return digest.hexdigest()
