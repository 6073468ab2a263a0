"""`object.copy`: copy an object from a file, S3 or HTTP(S) to a file or S3, once and checked.

The target's name is the memory of the job: an object there with the same content means that it is
done, however often the job is run; one with other content is never overwritten.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

from processor.contracts.claims import CHUNK_BYTES, ObjectStat, ObjectStore, Stream
from processor.contracts.uris import shown
from processor.errors import Reject
from processor.model import ObjectRef


class Context(Protocol):
    """What these jobs need of a job's context."""

    @property
    def objects(self) -> ObjectStore:
        """Every object store that the settings reach."""
        ...

    def raise_if_cancelled(self) -> None:
        """Raise when the job is out of time or its worker is to stop."""
        ...

    def progress(self, done: float, total: float | None, /) -> None:
        """Tell how far the job is, in bytes here."""
        ...


@dataclass(frozen=True, slots=True)
class ObjectCopy:
    """What `object.copy` is asked: the source, with its size and SHA-256 if known, and a URI."""

    source: ObjectRef
    target: str


def copy(payload: ObjectCopy, ctx: Context) -> dict[str, Any]:
    """Copy the source to the target; `copied` False: the same content was there already.

    Reject: the target holds something else. ContractError: the source is missing, or is not what
    its reference says; nothing is then visible at the target.
    """
    source, target = payload.source, payload.target
    existing = ctx.objects.stat(target)
    if existing is not None:
        return _already_there(source, target, existing, ctx)
    with ctx.objects.open(source.uri) as stream:
        put = ctx.objects.put(
            target,
            Watched(stream, ctx, total=source.size),
            size=source.size,
            sha256=source.sha256,
            content_type=source.content_type,
            create_only=True,
        )
    if not put.created:  # Another writer was quicker.
        return _already_there(source, target, ObjectStat(put.size, put.sha256), ctx)
    return {"uri": shown(target), "size": put.size, "sha256": put.sha256, "copied": True}


def measure(
    uri: str, ctx: Context, *, total: int | None, algorithms: Collection[str] = ("sha256",)
) -> tuple[int, dict[str, str]]:
    """Read an object for its size in bytes and its checksums, stopping when cancelled."""
    size = 0
    digests = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    with ctx.objects.open(uri) as stream:
        watched = Watched(stream, ctx, total=total)
        while chunk := watched.read(CHUNK_BYTES):
            size += len(chunk)
            for digest in digests.values():
                digest.update(chunk)
    return size, {name: digest.hexdigest() for name, digest in digests.items()}


class Watched:
    """A stream that reports progress and stops between two reads when the job is cancelled."""

    def __init__(self, stream: Stream, ctx: Context, *, total: int | None) -> None:
        self._stream = stream
        self._ctx = ctx
        self._total = total
        self._count = 0

    def read(self, size: int = -1, /) -> bytes:
        """Give at most `size` bytes."""
        self._ctx.raise_if_cancelled()
        chunk = self._stream.read(size)
        self._count += len(chunk)
        self._ctx.progress(self._count, self._total)
        return chunk


def _already_there(
    source: ObjectRef, target: str, existing: ObjectStat, ctx: Context
) -> dict[str, Any]:
    """Succeed if what is at the target is what the job was to put there; Reject otherwise.

    Cheap facts first: sizes, then recorded SHA-256, and only then are the objects read.
    """
    size, sha256 = source.size, source.sha256
    if size is None or sha256 is None:
        known = ctx.objects.stat(source.uri)
        size = size if size is not None or known is None else known.size
        sha256 = sha256 if sha256 is not None or known is None else known.sha256
    _require_same(target, "bytes", size, existing.size)
    size_there, sha256_there = existing.size, existing.sha256
    if size_there is None or sha256_there is None:
        size_there, sums = measure(target, ctx, total=existing.size)
        sha256_there = sums["sha256"]
    if sha256 is None:
        size, sums = measure(source.uri, ctx, total=size)
        sha256 = sums["sha256"]
    _require_same(target, "bytes", size, size_there)
    _require_same(target, "sha256", sha256, sha256_there)
    return {"uri": shown(target), "size": size_there, "sha256": sha256_there, "copied": False}


def _require_same(
    target: str, what: str, expected: int | str | None, found: int | str | None
) -> None:
    if expected is not None and found is not None and expected != found:
        raise Reject(
            f"{shown(target)} exists with other content: {what} {found}, expected {expected}",
            hint="objects are never overwritten: choose another target, or remove this one",
        )
