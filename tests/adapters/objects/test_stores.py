from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from processor.adapters.objects.stores import Objects, s3_client
from processor.contracts.claims import ClaimStore
from processor.errors import PermanentError
from processor.jobs import ObjectChecksum, ObjectCopy, checksum, copy
from processor.model import ObjectRef
from processor.protection import FileSettings
from processor.settings import ClaimSettings, S3Settings, Settings
from tests.adapters.objects.conformance import exercise_store, read
from tests.jobs.context import JobContext


def test_dispatching_store_keeps_the_ports_promises(tmp_path: Path) -> None:
    files = FileSettings(folders=(str(tmp_path),))

    exercise_store(Objects(Settings(files=files), for_jobs=True), tmp_path.as_uri())
    exercise_store(Objects(Settings()), f"{tmp_path.as_uri()}/operator")


@pytest.mark.parametrize("uri", ["file:///proc/self/environ", "FILE:///etc/passwd"])
def test_job_reads_no_file_unless_its_folder_is_listed(uri: str) -> None:
    ctx = JobContext(Objects(Settings(), for_jobs=True))

    with pytest.raises(PermanentError, match="outside the folders that jobs may use") as refused:
        checksum(ObjectChecksum(ObjectRef(uri)), ctx)

    assert "files.folders" in (refused.value.hint or "")


def test_job_writes_no_file_unless_its_folder_is_listed(tmp_path: Path) -> None:
    settings = Settings(files=FileSettings(folders=(str(tmp_path / "in"),)))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"import os")
    ctx = JobContext(Objects(settings, for_jobs=True))
    payload = ObjectCopy(ObjectRef(f"{tmp_path.as_uri()}/in/a"), f"{tmp_path.as_uri()}/site/a.pth")

    with pytest.raises(PermanentError, match="outside the folders that jobs may use"):
        copy(payload, ctx)

    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_job_reads_what_was_uploaded_to_the_claim_store_and_writes_nothing_there(
    tmp_path: Path,
) -> None:
    settings = Settings(claims=ClaimSettings(store=f"{tmp_path.as_uri()}/claims/"))
    claim = ClaimStore(Objects(settings), str(settings.claims.store)).put(b"a large input")
    for_jobs = Objects(settings, for_jobs=True)

    assert read(for_jobs, claim.uri) == b"a large input"
    for uri in (claim.uri, f"{tmp_path.as_uri()}/claims/ab/new"):
        with pytest.raises(PermanentError, match="outside the folders"):
            for_jobs.put(uri, io.BytesIO(b"other"), create_only=False)
    assert read(for_jobs, claim.uri) == b"a large input"


@pytest.mark.parametrize("folder", ["", "claims", "link"])
def test_claim_store_in_a_listed_folder_is_not_written_either(tmp_path: Path, folder: str) -> None:
    store = f"{tmp_path.as_uri()}/claims"
    (tmp_path / "claims").mkdir()
    (tmp_path / "link").symlink_to("claims")
    listed = FileSettings(folders=(str(tmp_path / folder),))
    settings = Settings(claims=ClaimSettings(store=store), files=listed)
    claim = ClaimStore(Objects(settings), store).put(b"a large input")
    for_jobs = Objects(settings, for_jobs=True)

    with pytest.raises(PermanentError, match="claim store, where jobs may only read"):
        for_jobs.put(f"{store}/ab/new", io.BytesIO(b"other"), create_only=True)
    with pytest.raises(PermanentError, match="claim store, where jobs may only read"):
        for_jobs.delete(claim.uri)

    assert read(for_jobs, claim.uri) == b"a large input"


@pytest.mark.parametrize("uri", ["ftp://host/x", "/plain/path", "", "relative", "data:,x"])
def test_uri_of_no_known_scheme_is_refused_with_the_known_ones(uri: str) -> None:
    with pytest.raises(PermanentError, match="no object store serves") as refused:
        Objects(Settings()).open(uri)

    assert "s3://" in (refused.value.hint or "")


def test_clients_are_imported_only_when_a_uri_needs_them() -> None:
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, processor.adapters.objects.stores; print(*sys.modules)",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert {"boto3", "botocore", "httpx"}.isdisjoint(loaded.stdout.split())


def test_s3_client_retries_and_gives_up_within_bounds() -> None:
    client = s3_client(S3Settings(endpoint_url="http://127.0.0.1:9", region="eu-west-1"))
    config = client.meta.config

    assert (config.connect_timeout, config.read_timeout) == (5.0, 60.0)
    assert config.retries == {"mode": "standard", "total_max_attempts": 4}
    assert config.s3 == {"addressing_style": "path"}
