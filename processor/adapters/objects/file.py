"""Objects as files, named `file:///absolute/path`.

An object appears under its name whole or not at all: it is written to a hidden file beside it,
synced, then linked (create only) or renamed (replace) into place, and the folder is synced. A
writer that is killed leaves at most a hidden `.processor-….part`, which no name refers to.
"""

from __future__ import annotations

import errno
import os
import stat as modes
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from processor.contracts.claims import CHUNK_BYTES, ObjectStat, Put, Reader, Stream, verified
from processor.errors import ContractError, PermanentError, StoreUnavailable

# The disk's or the operator's trouble, which time or a person heals; no job is to blame.
_OUTAGES = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE}
_OUTAGES |= {
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ENOMEM,
    errno.ENODEV,
    errno.ENXIO,
    errno.EHOSTDOWN,
}


class FileStore:
    """An object store on a file system. `roots` limits it to these folders; none means anywhere."""

    def __init__(self, roots: Sequence[Path] = ()) -> None:
        self._roots = [root.resolve() for root in roots]

    def open(self, uri: str) -> Reader:
        """Open a regular file; a folder, device or pipe is a PermanentError."""
        with _faults(uri):
            # Without O_NONBLOCK, opening a pipe would wait for a writer that never comes.
            file = os.open(self._path(uri), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                _require_regular(os.fstat(file), uri)
            except BaseException:
                os.close(file)
                raise
            return FileReader(os.fdopen(file, "rb"), uri)

    def stat(self, uri: str) -> ObjectStat | None:
        """Tell a file's size. Its SHA-256 is not known without reading it."""
        path = self._path(uri)
        with _faults(uri):
            try:
                status = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            _require_regular(status, uri)
        etag = f"{status.st_mtime_ns:x}-{status.st_size:x}"
        return ObjectStat(size=status.st_size, etag=etag, modified=status.st_mtime)

    def put(
        self,
        uri: str,
        stream: Stream,
        *,
        size: int | None = None,
        sha256: str | None = None,
        content_type: str | None = None,  # noqa: ARG002 - a file has no place for it
        create_only: bool,
    ) -> Put:
        """Write the file, synced to disk before its name appears. Missing folders are made."""
        path = self._path(uri)
        if create_only and (existing := self.stat(uri)) is not None:
            return Put(uri, existing.size, existing.sha256, created=False)
        checked = verified(stream, size=size, sha256=sha256, name=f"the content for {uri}")
        part = path.with_name(f".processor-{uuid.uuid4().hex}.part")
        with _faults(uri):
            _make_folder(path.parent)
            try:
                _write(part, checked)
                created = _publish(part, path, create_only=create_only)
            finally:
                part.unlink(missing_ok=True)
        if not created:
            existing = self.stat(uri)
            return Put(uri, existing.size if existing else None, None, created=False)
        return Put(uri, checked.count, checked.sha256, created=True)

    def delete(self, uri: str) -> None:
        """Remove the file; its folder stays."""
        path = self._path(uri)
        with _faults(uri):
            path.unlink(missing_ok=True)
            if path.parent.exists():
                _sync_folder(path.parent)

    def _path(self, uri: str) -> Path:
        path = path_of(uri)
        if self._roots:
            resolved = path.resolve()
            if not any(resolved.is_relative_to(root) for root in self._roots):
                raise PermanentError(
                    f"{uri} is outside the folders that may be used",
                    hint="allowed: " + ", ".join(str(root) for root in self._roots),
                )
        return path


class FileReader:
    """An open file whose faults are told as the port wants them."""

    def __init__(self, file: BinaryIO, uri: str) -> None:
        self._file = file
        self._uri = uri

    def __enter__(self) -> FileReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def read(self, size: int = -1, /) -> bytes:
        """Give at most `size` bytes."""
        with _faults(self._uri):
            return self._file.read(size)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def path_of(uri: str) -> Path:
    """Give the path that a `file:///…` URI names; PermanentError for any other form.

    >>> path_of("file:///srv/a%20b.txt").as_posix()
    '/srv/a b.txt'
    """
    parts = urlsplit(uri)
    path = unquote(parts.path)
    fault = None
    if parts.scheme != "file" or parts.netloc or not path.startswith("/"):
        fault = "must be file:/// and an absolute path"
    elif parts.query or parts.fragment:
        fault = "has a bare ? or #; write %3F or %23"
    elif "\0" in path or "%2f" in parts.path.lower() or {".", ".."} & set(path.split("/")):
        fault = "has a segment that no file can have, or that leaves its folder"
    elif path.endswith("/"):
        fault = "names a folder"
    if fault is not None:
        raise PermanentError(f"the URI {uri!r} {fault}", hint="e.g. file:///srv/objects/report.csv")
    return Path(path)


def _write(part: Path, stream: Stream) -> None:
    with part.open("xb") as file:
        while chunk := stream.read(CHUNK_BYTES):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def _publish(part: Path, path: Path, *, create_only: bool) -> bool:
    """Give the finished file its name. Linking fails where the name exists: one writer creates."""
    if create_only:
        try:
            os.link(part, path)
        except FileExistsError:
            return False
    else:
        part.replace(path)
    _sync_folder(path.parent)
    return True


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, each synced into its parent."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _require_regular(status: os.stat_result, uri: str) -> None:
    if not modes.S_ISREG(status.st_mode):
        raise PermanentError(f"{uri} is not a regular file")


@contextmanager
def _faults(uri: str) -> Iterator[None]:
    """Tell the system's faults as ours: missing, away, or not to be touched."""
    try:
        yield
    except OSError as fault:
        reason = fault.strerror or str(fault)
        if fault.errno in (errno.ENOENT, errno.ENOTDIR):
            raise ContractError(f"{uri} does not exist") from fault
        if fault.errno in _OUTAGES:
            raise StoreUnavailable(
                f"the file system failed at {uri}: {reason}",
                hint="check the disk's free space and health",
            ) from fault
        raise PermanentError(f"{uri} cannot be used: {reason}") from fault
