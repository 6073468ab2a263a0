from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from processor.adapters.objects.file import FileStore, path_of
from processor.errors import ContractError, PermanentError
from tests.adapters.objects.conformance import exercise_store, read


def test_file_store_keeps_the_ports_promises(tmp_path: Path) -> None:
    exercise_store(FileStore(), tmp_path.as_uri())


def test_nothing_but_the_objects_is_left_in_the_folder(tmp_path: Path) -> None:
    store = FileStore()

    store.put(f"{tmp_path.as_uri()}/a", io.BytesIO(b"1"), create_only=True)
    store.put(f"{tmp_path.as_uri()}/a", io.BytesIO(b"2"), create_only=True)
    store.put(f"{tmp_path.as_uri()}/a", io.BytesIO(b"3"), create_only=False)
    with pytest.raises(ContractError):
        store.put(f"{tmp_path.as_uri()}/b", io.BytesIO(b"4"), size=2, create_only=False)

    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"3"


def test_writer_killed_in_the_middle_leaves_no_object(tmp_path: Path) -> None:
    uri = f"{tmp_path.as_uri()}/folder/object"

    killed = subprocess.run([sys.executable, "-c", KILLED_IN_THE_MIDDLE, uri], timeout=60)

    assert killed.returncode == -signal.SIGKILL
    assert FileStore().stat(uri) is None
    assert not (tmp_path / "folder" / "object").exists()
    assert FileStore().put(uri, io.BytesIO(b"again"), create_only=True).created


KILLED_IN_THE_MIDDLE = """
import os, signal, sys
from processor.adapters.objects.file import FileStore

class Killing:
    count = 0
    def read(self, size=-1):
        self.count += 1
        if self.count == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return bytes(size)

FileStore().put(sys.argv[1], Killing(), create_only=True)
"""


@pytest.mark.parametrize(
    "uri",
    [
        "file://relative/path",
        "file:relative",
        "file:///",
        "file:///folder/",
        "file:///a/../../etc/passwd",
        "file:///a/%2e%2e/%2e%2e/etc/passwd",
        "file:///a/..%2fetc",
        "file:///a/b%2Fc",
        "file:///a%00b",
        "file:///a?b",
        "file:///a#b",
        "s3://bucket/key",
        "/plain/path",
    ],
)
def test_uri_that_names_no_single_file_is_refused(uri: str) -> None:
    with pytest.raises(PermanentError) as refused:
        path_of(uri)

    assert repr(uri) in refused.value.message
    assert refused.value.hint


def test_folder_and_pipe_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()

    for name in ("pipe", "folder"):
        with pytest.raises(PermanentError, match="is not a regular file"):
            FileStore().open(f"{tmp_path.as_uri()}/{name}")
        with pytest.raises(PermanentError, match="is not a regular file"):
            FileStore().stat(f"{tmp_path.as_uri()}/{name}")


def test_file_as_a_folder_is_missing_for_readers_and_refused_to_writers(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    uri = f"{tmp_path.as_uri()}/file/below"

    assert FileStore().stat(uri) is None
    with pytest.raises(ContractError, match="does not exist"):
        FileStore().open(uri)
    with pytest.raises(PermanentError):
        FileStore().put(uri, io.BytesIO(b"y"), create_only=True)
    assert (tmp_path / "file").read_bytes() == b"x"


def test_only_the_allowed_folders_are_used_even_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "allowed").mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "allowed" / "link").symlink_to(tmp_path / "secret")
    store = FileStore(roots=[tmp_path / "allowed"])

    store.put(f"{tmp_path.as_uri()}/allowed/a", io.BytesIO(b"a"), create_only=True)
    assert read(store, f"{tmp_path.as_uri()}/allowed/a") == b"a"
    for name in ("secret", "allowed/link"):
        with pytest.raises(PermanentError, match="outside the folders"):
            store.open(f"{tmp_path.as_uri()}/{name}")
        with pytest.raises(PermanentError, match="outside the folders"):
            store.put(f"{tmp_path.as_uri()}/{name}", io.BytesIO(b"b"), create_only=False)
    assert (tmp_path / "secret").read_bytes() == b"secret"
