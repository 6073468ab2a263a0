"""What every object store that can be written must do: `exercise_store(store, base_uri)`."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from processor.contracts.claims import ObjectStore, Put
from processor.errors import ContractError, PermanentError

MIB = 1024 * 1024
LARGE = bytes(range(256)) * (4096 * 20)  # 20 MiB: several parts in S3.


def exercise_store(store: ObjectStore, base_uri: str) -> None:
    """Run the whole suite below `base_uri`, under which nothing may exist yet."""
    checks: list[Callable[[ObjectStore, str], None]] = [
        what_was_put_is_read,
        a_missing_object_is_told,
        a_large_object_is_read_in_pieces,
        a_put_replaces_unless_told_to_create_only,
        other_content_than_promised_leaves_nothing,
        other_content_than_promised_leaves_the_old_object,
        a_stream_that_fails_leaves_nothing,
        of_two_creators_one_creates,
        a_creator_that_is_overtaken_leaves_the_other_alone,
        deleting_twice_is_no_fault,
        odd_names_are_kept_apart,
    ]
    for check in checks:
        check(store, f"{base_uri.rstrip('/')}/{check.__name__}")


def what_was_put_is_read(store: ObjectStore, base: str) -> None:
    for name, body in (("empty", b""), ("short", b"abc"), ("large", LARGE)):
        put = store.put(
            f"{base}/{name}",
            io.BytesIO(body),
            size=len(body),
            sha256=sha256(body),
            content_type="text/x-test",
            create_only=True,
        )

        assert put == Put(f"{base}/{name}", len(body), sha256(body), created=True)
        assert read(store, put.uri) == body
        status = store.stat(put.uri)
        assert status is not None
        assert status.size == len(body)
        assert status.sha256 in (None, sha256(body))
        assert status.content_type in (None, "text/x-test")


def a_missing_object_is_told(store: ObjectStore, base: str) -> None:
    assert store.stat(f"{base}/none") is None
    with pytest.raises(ContractError, match="does not exist"):
        read(store, f"{base}/none")


def a_large_object_is_read_in_pieces(store: ObjectStore, base: str) -> None:
    put = store.put(f"{base}/large", io.BytesIO(LARGE), create_only=False)

    assert (put.size, put.sha256) == (len(LARGE), sha256(LARGE))
    with store.open(put.uri) as stream:
        pieces = list(iter(lambda: stream.read(MIB), b""))
    assert b"".join(pieces) == LARGE
    assert max(len(piece) for piece in pieces) <= MIB
    with store.open(put.uri) as stream:
        assert stream.read() == LARGE


def a_put_replaces_unless_told_to_create_only(store: ObjectStore, base: str) -> None:
    for first, second in ((b"first", b"second"), (LARGE, LARGE[1:])):
        uri = f"{base}/{len(first)}"
        store.put(uri, io.BytesIO(first), create_only=True)

        refused = store.put(uri, io.BytesIO(second), create_only=True)
        assert not refused.created
        assert refused.size == len(first)
        assert refused.sha256 in (None, sha256(first))
        assert read(store, uri) == first

        assert store.put(uri, io.BytesIO(second), create_only=False).created
        assert read(store, uri) == second


def other_content_than_promised_leaves_nothing(store: ObjectStore, base: str) -> None:
    for body in (b"content", LARGE):
        for promise in (
            {"sha256": sha256(b"another")},
            {"size": len(body) + 1},
            {"size": len(body) - 1},
            {"size": len(body), "sha256": sha256(b"another")},
        ):
            with pytest.raises(ContractError):
                store.put(f"{base}/x", io.BytesIO(body), **promise, create_only=True)  # type: ignore[arg-type]
            assert store.stat(f"{base}/x") is None


def other_content_than_promised_leaves_the_old_object(store: ObjectStore, base: str) -> None:
    store.put(f"{base}/x", io.BytesIO(b"old"), create_only=True)

    with pytest.raises(ContractError):
        store.put(f"{base}/x", io.BytesIO(b"new"), sha256=sha256(b"old"), create_only=False)

    assert read(store, f"{base}/x") == b"old"


def a_stream_that_fails_leaves_nothing(store: ObjectStore, base: str) -> None:
    for size in (10, len(LARGE)):
        with pytest.raises(PermanentError, match="the source broke"):
            store.put(f"{base}/x", Breaking(size), create_only=True)
        assert store.stat(f"{base}/x") is None


def of_two_creators_one_creates(store: ObjectStore, base: str) -> None:
    for round_ in range(10):
        uri, together = f"{base}/{round_}", threading.Barrier(2, timeout=30)
        bodies = [b"a" * 1000, b"b" * 1000]

        with ThreadPoolExecutor(2) as pool:
            writers = [
                pool.submit(store.put, uri, Meeting(body, together), create_only=True)
                for body in bodies
            ]
            puts = [writer.result() for writer in writers]

        assert sorted(put.created for put in puts) == [False, True]
        assert read(store, uri) == bodies[[put.created for put in puts].index(True)]


def a_creator_that_is_overtaken_leaves_the_other_alone(store: ObjectStore, base: str) -> None:
    for body in (b"late", LARGE):
        uri = f"{base}/{len(body)}"

        put = store.put(uri, Overtaken(body, store, uri), create_only=True)

        assert not put.created
        assert put.size == len(b"first")
        assert read(store, uri) == b"first"


def deleting_twice_is_no_fault(store: ObjectStore, base: str) -> None:
    store.put(f"{base}/x", io.BytesIO(b"x"), create_only=True)

    store.delete(f"{base}/x")
    store.delete(f"{base}/x")

    assert store.stat(f"{base}/x") is None


def odd_names_are_kept_apart(store: ObjectStore, base: str) -> None:
    names = ["a b", "a+b", "a~20b", "grüße", "A", "a", "script (dev).tmpl"]

    for name in names:
        store.put(f"{base}/{name}", io.BytesIO(name.encode()), create_only=True)

    assert [read(store, f"{base}/{name}").decode() for name in names] == names


class Meeting:
    """A stream whose first read waits until the other writer is reading too."""

    def __init__(self, body: bytes, together: threading.Barrier) -> None:
        self._stream = io.BytesIO(body)
        self._together: threading.Barrier | None = together

    def read(self, size: int = -1, /) -> bytes:
        if self._together is not None:
            self._together.wait()
            self._together = None
        return self._stream.read(size)


class Overtaken:
    """A stream at whose end somebody else has just written the object."""

    def __init__(self, body: bytes, store: ObjectStore, uri: str) -> None:
        self._stream = io.BytesIO(body)
        self._store = store
        self._uri = uri

    def read(self, size: int = -1, /) -> bytes:
        chunk = self._stream.read(size)
        if not chunk:
            self._store.put(self._uri, io.BytesIO(b"first"), create_only=True)
        return chunk


class Breaking:
    """A stream that fails when `size` bytes have been read."""

    def __init__(self, size: int) -> None:
        self._rest = size

    def read(self, size: int = -1, /) -> bytes:
        if self._rest == 0:
            raise PermanentError("the source broke")
        taken = min(size, self._rest)
        self._rest -= taken
        return bytes(taken)


def read(store: ObjectStore, uri: str) -> bytes:
    with store.open(uri) as stream:
        return stream.read()


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
