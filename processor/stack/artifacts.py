"""What is downloaded: pinned files of Maven Central, verified, in a cache that runs share.

Rule 1: a file bears its final name only after its SHA-256 sum was found right.
Rule 2: an interrupted download goes on where it stopped; if the whole is then wrong, it is begun
        anew.
Rule 3: one run downloads a group of files at a time; the others wait and find them there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
import tomllib
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from processor.errors import ProcessorError
from processor.stack.process import Cancelled, locked
from processor.stack.report import Report

if TYPE_CHECKING:
    import httpx

MAVEN_CENTRAL = "https://repo.maven.apache.org/maven2"
LOCK_FILE = Path(__file__).with_name("artifacts.toml")
DOWNLOADS_AT_ONCE_MAX = 8
ATTEMPTS_MAX = 4
ATTEMPT_WAIT_SECONDS = 0.5  # Doubled after each attempt: 0.5 s, 1 s, 2 s.
CHUNK_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Artifact:
    """One pinned file: its path below the repository's base URL, its size and its SHA-256 sum."""

    path: str
    bytes_total: int
    sha256: str


class _Unfit(Exception):
    """What arrived is not the file; another attempt may bring it."""


def cache_directory() -> Path:
    """$PROCESSOR_CACHE_DIR, else $XDG_CACHE_HOME/processor, else ~/.cache/processor."""
    if chosen := os.environ.get("PROCESSOR_CACHE_DIR"):
        return Path(chosen).absolute()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).absolute() / "processor"
    return Path.home() / ".cache" / "processor"


class Artifacts:
    """The pinned files, fetched when first asked for."""

    def __init__(
        self,
        *,
        report: Report,
        cache: Path | None = None,
        base_url: str | None = None,
        lock_file: Path = LOCK_FILE,
        cancelled: Event | None = None,
    ) -> None:
        self._report = report
        self._cache = cache or cache_directory()
        url = base_url or os.environ.get("PROCESSOR_MAVEN_URL") or MAVEN_CENTRAL
        self._base_url = url.rstrip("/")
        self._lock_file = lock_file
        self._cancelled = cancelled or Event()

    def fetch(self, group: str) -> tuple[Path, ...]:
        """Return the group's files, downloading those that the cache lacks.

        Raises ProcessorError if one cannot be had or is not the pinned one; then nothing of that
        file is kept under its name.
        """
        artifacts = self._pinned(group)
        with self._locked(group):
            missing = [each for each in artifacts if not self._present(each)]
            if missing:
                self._download(group, missing)
        return tuple(self._path(each) for each in artifacts)

    def unpacked(self, group: str) -> Path:
        """Return the folder with the content of the group's one archive, which is not kept."""
        (artifact,) = self._pinned(group)
        folder = self._cache / "unpacked" / f"{group}-{artifact.sha256[:16]}"
        with self._locked(group):
            if folder.exists():
                return folder
            archive = self._path(artifact)
            if not self._present(artifact):
                self._download(group, [artifact])
            folder.parent.mkdir(parents=True, exist_ok=True)
            fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{group}-"))
            try:
                with tarfile.open(archive) as tar:
                    # Python before 3.11.4 knows no filter; the sum has vouched for the content.
                    tar.extraction_filter = getattr(
                        tarfile, "data_filter", lambda member, _: member
                    )
                    tar.extractall(fresh)  # noqa: S202
                fresh.chmod(0o755)
                fresh.replace(folder)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
            archive.unlink()
        return folder

    def _pinned(self, group: str) -> list[Artifact]:
        pinned = tomllib.loads(self._lock_file.read_text())[group]
        return [Artifact(each["path"], each["bytes"], each["sha256"]) for each in pinned]

    def _path(self, artifact: Artifact) -> Path:
        return self._cache / "maven" / artifact.path

    def _present(self, artifact: Artifact) -> bool:
        path = self._path(artifact)
        return path.exists() and path.stat().st_size == artifact.bytes_total

    def _locked(self, group: str) -> AbstractContextManager[None]:
        return locked(
            self._cache / f"{group}.lock",
            when_waiting=lambda: self._report.say(f"{group}: waiting for another run's download"),
        )

    def _download(self, group: str, artifacts: Sequence[Artifact]) -> None:
        import httpx

        self._report.downloading(group, sum(each.bytes_total for each in artifacts))
        given_up = Event()
        with (
            httpx.Client(timeout=30.0, follow_redirects=True) as client,
            ThreadPoolExecutor(DOWNLOADS_AT_ONCE_MAX) as pool,
        ):
            jobs = [
                pool.submit(self._download_one, client, group, each, given_up)
                for each in sorted(artifacts, key=lambda each: -each.bytes_total)
            ]
            try:
                done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
                for job in done:
                    job.result()
            finally:  # The first fault, or Ctrl-C, ends the others soon.
                given_up.set()
                pool.shutdown(cancel_futures=True)
        if self._cancelled.is_set():
            raise Cancelled(group)
        self._report.downloaded(group)

    def _download_one(
        self, client: httpx.Client, group: str, artifact: Artifact, given_up: Event
    ) -> None:
        import httpx

        url = f"{self._base_url}/{artifact.path}"
        target = self._path(artifact)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        fault = ""
        for attempt in range(ATTEMPTS_MAX):
            if attempt:
                given_up.wait(ATTEMPT_WAIT_SECONDS * 2 ** (attempt - 1))
            if given_up.is_set() or self._cancelled.is_set():
                return
            try:
                if self._receive(client, url, group, artifact, part, given_up):
                    part.replace(target)
                return
            except _Unfit as unfit:
                fault = str(unfit)
            except httpx.HTTPStatusError as refusal:
                fault = f"the server answered {refusal.response.status_code}"
                if refusal.response.status_code in (401, 403, 404, 410):
                    break
            except httpx.TransportError as trouble:
                fault = f"{type(trouble).__name__}: {trouble}"
        raise ProcessorError(
            f"cannot download {url} ({attempt + 1} of {ATTEMPTS_MAX} attempts): {fault}",
            hint="check the network, or name a Maven repository with PROCESSOR_MAVEN_URL; "
            "what was downloaded is kept, the next run goes on from there",
        )

    def _receive(
        self,
        client: httpx.Client,
        url: str,
        group: str,
        artifact: Artifact,
        part: Path,
        given_up: Event,
    ) -> bool:
        """Bring `part` to its full length and verify it; false if it was cancelled on the way."""
        digest = hashlib.sha256()
        offset = _resume_from(part, artifact, digest)
        counted, resumed = offset, offset > 0
        self._report.received(group, offset)
        try:
            headers = {"Range": f"bytes={offset}-"} if offset else {}
            with client.stream("GET", url, headers=headers) as response:
                response.raise_for_status()
                if offset and response.status_code != 206:  # It sends the whole file again.
                    digest, counted, resumed = hashlib.sha256(), 0, False
                    self._report.received(group, -offset)
                with part.open("ab" if counted else "wb") as file:
                    for chunk in response.iter_raw(CHUNK_BYTES):
                        if given_up.is_set() or self._cancelled.is_set():
                            return False
                        file.write(chunk)
                        digest.update(chunk)
                        counted += len(chunk)
                        self._report.received(group, len(chunk))
                        if counted > artifact.bytes_total:
                            break
            if counted < artifact.bytes_total:
                raise _Unfit(f"it ended after {counted} of {artifact.bytes_total} bytes")
            if digest.hexdigest() != artifact.sha256:
                part.unlink(missing_ok=True)
                wrong = f"its SHA-256 sum is {digest.hexdigest()}, not {artifact.sha256}"
                if resumed:  # What an earlier run left may be at fault: the whole is worth a try.
                    raise _Unfit(wrong)
                raise ProcessorError(
                    f"{url} is not the pinned file: {wrong}",
                    hint="nothing of it was kept; the repository, or a proxy before it, changed it",
                )
        except BaseException:
            self._report.received(group, -counted)
            raise
        return True


def _resume_from(part: Path, artifact: Artifact, digest: hashlib._Hash) -> int:
    """Feed what an earlier run left to the digest and return its length; 0 if it is of no use."""
    if not part.exists():
        return 0
    length = part.stat().st_size
    if length >= artifact.bytes_total:  # Complete parts are renamed at once: this one is wrong.
        part.unlink()
        return 0
    with part.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return length
