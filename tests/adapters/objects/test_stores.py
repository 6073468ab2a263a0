from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from processor.adapters.objects.stores import Objects, s3_client
from processor.errors import PermanentError
from processor.settings import S3Settings, Settings
from tests.adapters.objects.conformance import exercise_store


def test_dispatching_store_keeps_the_ports_promises(tmp_path: Path) -> None:
    exercise_store(Objects(Settings(), file_roots=[tmp_path]), tmp_path.as_uri())


def test_file_outside_the_allowed_folders_is_refused(tmp_path: Path) -> None:
    objects = Objects(Settings(), file_roots=[tmp_path / "allowed"])

    with pytest.raises(PermanentError, match="outside the folders"):
        objects.open(f"{tmp_path.as_uri()}/x")


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
