from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from processor.adapters.objects.file import FileStore, path_of
from processor.contracts.uris import shown
from processor.errors import ContractError, PermanentError, StoreUnavailable
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
        "file://[a/b",
        "file://[a]/b",
        "s3://bucket/key",
        "/plain/path",
    ],
)
def test_uri_that_names_no_single_file_is_refused(uri: str) -> None:
    with pytest.raises(PermanentError) as refused:
        path_of(uri)

    assert repr(shown(uri)) in refused.value.message
    assert refused.value.hint


@pytest.mark.timeout(20)
def test_uri_too_long_for_any_path_is_refused_before_it_is_resolved(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="no path has so many") as refused:
        FileStore([tmp_path]).stat(f"file:///{'a/' * 1_000_000}b")

    assert len(refused.value.message) < 200


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


def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A folder that may be used, and one beside it with a secret."""
    allowed, outside = tmp_path / "allowed", tmp_path / "outside"
    allowed.mkdir()
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    return allowed, outside


def refused_for_all(store: FileStore, uri: str, *, but_delete: bool = False) -> None:
    with pytest.raises(PermanentError, match="outside the folders") as refused:
        store.open(uri)
    assert "files.folders" in (refused.value.hint or "")
    for refuse in (store.stat,) if but_delete else (store.stat, store.delete):
        with pytest.raises(PermanentError, match="outside the folders"):
            refuse(uri)
    for create_only in (True, False):
        with pytest.raises(PermanentError, match="outside the folders"):
            store.put(uri, io.BytesIO(b"b"), create_only=create_only)


def test_store_limited_to_folders_keeps_the_ports_promises(tmp_path: Path) -> None:
    exercise_store(FileStore([tmp_path]), f"{tmp_path.as_uri()}/new/folder")


@pytest.mark.parametrize("name", ["outside/secret", "outside/new/a", "allowed-too", "allowed"])
def test_only_the_folders_given_are_used(tmp_path: Path, name: str) -> None:
    allowed, outside = folders(tmp_path)

    refused_for_all(FileStore([allowed]), f"{tmp_path.as_uri()}/{name}")
    refused_for_all(FileStore([]), f"{tmp_path.as_uri()}/{name}")

    assert sorted(tmp_path.rglob("*")) == [allowed, outside, outside / "secret"]
    assert (outside / "secret").read_bytes() == b"secret"


@pytest.mark.parametrize(
    ("link", "to", "name"),
    [
        ("file", "../outside/secret", "file"),
        ("folder", "../outside", "folder/secret"),
        ("folder", "../outside", "folder/new"),
        ("dangling", "../outside/new", "dangling"),
    ],
)
def test_link_out_of_the_folders_is_refused(tmp_path: Path, link: str, to: str, name: str) -> None:
    allowed, outside = folders(tmp_path)
    (allowed / link).symlink_to(to)

    refused_for_all(FileStore([allowed]), f"{allowed.as_uri()}/{name}", but_delete=name == link)

    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert (outside / "secret").read_bytes() == b"secret"


def test_link_within_the_folders_is_followed(tmp_path: Path) -> None:
    allowed, _ = folders(tmp_path)
    (allowed / "v1").mkdir()
    (allowed / "now").symlink_to("v1")
    (tmp_path / "elsewhere").symlink_to(allowed)
    store = FileStore([tmp_path / "elsewhere"])

    store.put(f"{allowed.as_uri()}/now/a", io.BytesIO(b"a"), create_only=True)

    assert read(store, f"{tmp_path.as_uri()}/elsewhere/now/a") == b"a"
    assert (allowed / "v1" / "a").read_bytes() == b"a"


def test_link_is_deleted_and_not_what_it_leads_to(tmp_path: Path) -> None:
    allowed, outside = folders(tmp_path)
    (allowed / "in.csv").write_bytes(b"in")
    links = {"near": "in.csv", "far": "../outside/secret", "lost": "nothing", "all": "../outside"}
    for link, to in links.items():
        (allowed / link).symlink_to(to)
    (tmp_path / "elsewhere").symlink_to(allowed)

    for link in links:
        FileStore([allowed]).delete(f"{tmp_path.as_uri()}/elsewhere/{link}")

    assert [each.name for each in allowed.iterdir()] == ["in.csv"]
    assert (outside / "secret").read_bytes() == b"secret"


def test_folder_that_becomes_a_link_after_it_was_judged_leads_nowhere_else(tmp_path: Path) -> None:
    allowed, outside = folders(tmp_path)
    (allowed / "sub").mkdir()

    class Swapping(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if not (allowed / "sub").is_symlink():
                (allowed / "sub").rename(allowed / "moved")
                (allowed / "sub").symlink_to(outside)
            return super().read(size)

    FileStore([allowed]).put(f"{allowed.as_uri()}/sub/a", Swapping(b"a"), create_only=False)

    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert (allowed / "moved" / "a").read_bytes() == b"a"


def test_links_in_a_circle_are_a_fault_and_no_crash(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")

    with pytest.raises(PermanentError):
        FileStore([tmp_path]).open(f"{tmp_path.as_uri()}/a")


def test_job_waits_for_a_listed_folder_that_is_not_there(tmp_path: Path) -> None:
    store, uri = FileStore([tmp_path / "mount"]), f"{(tmp_path / 'mount').as_uri()}/sub/a"

    for call in (
        lambda: store.open(uri),
        lambda: store.stat(uri),
        lambda: store.put(uri, io.BytesIO(b"a"), create_only=True),
    ):
        with pytest.raises(StoreUnavailable, match="is not there"):
            call()
    (tmp_path / "mount").mkdir()

    assert store.put(uri, io.BytesIO(b"a"), create_only=True).created


def test_folder_to_read_is_not_written(tmp_path: Path) -> None:
    allowed, outside = folders(tmp_path)
    store = FileStore([allowed], read_only=[outside])

    assert read(store, f"{outside.as_uri()}/secret") == b"secret"
    for name in ("secret", "new"):
        with pytest.raises(PermanentError, match="outside the folders"):
            store.put(f"{outside.as_uri()}/{name}", io.BytesIO(b"b"), create_only=False)
    with pytest.raises(PermanentError, match="outside the folders"):
        store.delete(f"{outside.as_uri()}/secret")
    assert [path.name for path in outside.iterdir()] == ["secret"]
