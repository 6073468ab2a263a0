"""Objects as files, named `file:///absolute/path`.

An object appears under its name whole or not at all: it is written to a hidden file beside it,
synced, then linked (create only) or renamed (replace) into place, and the folder is synced. A
writer that is killed leaves at most a hidden `.processor-….part`, which no name refers to.

Links are resolved before a path is judged. Then its folders are opened one by one and no link is
followed any more, so what is changed in the meantime leads nowhere else.
"""

from __future__ import annotations

import errno
import os
import stat as modes
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from processor.contracts.claims import CHUNK_BYTES, ObjectStat, Put, Reader, Stream, verified
from processor.contracts.uris import shown
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
_MISSING = {errno.ENOENT, errno.ENOTDIR}
# A folder on the way need not be readable, where the system can tell the two apart.
_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
_ANYWHERE = (Path("/"),)
# No system takes a longer path, each byte of it percent-encoded. To resolve one takes a time that
# grows with the square of its length.
URI_LENGTH_MAX = 16 * 1024


class FileStore:
    """An object store on a file system.

    Only what is below `folders` is used. What is below `read_only` is read, too, and never written,
    wherever it lies. Without `folders` anything is used.
    """

    def __init__(
        self, folders: Sequence[Path] = _ANYWHERE, *, read_only: Sequence[Path] = ()
    ) -> None:
        self._written = folders
        self._read = [*folders, *read_only]
        self._read_only = read_only

    def open(self, uri: str) -> Reader:
        """Open a regular file; a folder, device or pipe is a PermanentError."""
        # Without O_NONBLOCK, opening a pipe would wait for a writer that never comes.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        with _faults(uri), _place(uri, self._read) as (folder, name):
            file = os.open(name, flags, dir_fd=folder)
            try:
                _require_regular(os.fstat(file), uri)
            except BaseException:
                os.close(file)
                raise
            return FileReader(os.fdopen(file, "rb"), uri)

    def stat(self, uri: str) -> ObjectStat | None:
        """Tell a file's size. Its SHA-256 is not known without reading it."""
        with _faults(uri):
            try:
                with _place(uri, self._read) as (folder, name):
                    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
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
        if create_only and (existing := self.stat(uri)) is not None:
            return Put(uri, existing.size, existing.sha256, created=False)
        checked = verified(stream, size=size, sha256=sha256, name=f"the content for {uri}")
        part = f".processor-{uuid.uuid4().hex}.part"
        place = _place(uri, self._written, barred=self._read_only, make=True)
        with _faults(uri, missing=()), place as (folder, name):
            try:
                _write(folder, part, checked)
                created = _publish(folder, part, name, create_only=create_only)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(part, dir_fd=folder)
        if not created:
            existing = self.stat(uri)
            return Put(uri, existing.size if existing else None, None, created=False)
        return Put(uri, checked.count, checked.sha256, created=True)

    def delete(self, uri: str) -> None:
        """Remove the file, or the link and not what it leads to; its folder stays."""
        with (
            _faults(uri),
            suppress(FileNotFoundError, NotADirectoryError),
            _place(uri, self._written, barred=self._read_only, follow=False) as (folder, name),
        ):
            os.unlink(name, dir_fd=folder)
            _sync(folder)


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
    if len(uri) > URI_LENGTH_MAX:
        raise PermanentError(f"the file:/// URI has {len(uri)} characters, no path has so many")
    try:
        parts = urlsplit(uri)
    except ValueError:  # A host that begins with [ is read as an address.
        parts = urlsplit("")
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
        raise PermanentError(
            f"the URI {shown(uri)!r} {fault}", hint="e.g. file:///srv/objects/report.csv"
        )
    return Path(path)


@contextmanager
def _place(
    uri: str,
    folders: Sequence[Path],
    *,
    barred: Sequence[Path] = (),
    make: bool = False,
    follow: bool = True,
) -> Iterator[tuple[int, str]]:
    """Open the folder that a file is in, and give it with the file's name in it."""
    path = path_of(uri)
    path = _resolved(path) if follow else _resolved(path.parent) / path.name
    root = next((each for each in map(_resolved, folders) if each in path.parents), None)
    if root is None:
        raise PermanentError(
            f"{uri} is outside the folders that jobs may use (files.folders)",
            hint="an operator can add its folder to files.folders (docs/objects.md)",
        )
    if any(each == path or each in path.parents for each in map(_resolved, barred)):
        raise PermanentError(f"{uri} is in the claim store, where jobs may only read")
    try:
        folder = os.open(root, _FOLDER)
    except FileNotFoundError:
        raise StoreUnavailable(
            f"the folder {root}, which jobs may use, is not there", hint="is it mounted?"
        ) from None
    try:
        for name in path.relative_to(root).parts[:-1]:
            inner = _enter(folder, name, make=make)
            os.close(folder)
            folder = inner
        yield folder, path.name
    finally:
        os.close(folder)


def _resolved(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve() raises where links lead round in a circle.


def _enter(folder: int, name: str, *, make: bool) -> int:
    """Open a folder in a folder; one that has to be made is synced into it."""
    try:
        return os.open(name, _FOLDER, dir_fd=folder)
    except FileNotFoundError:
        if not make:
            raise
    with suppress(FileExistsError):  # Another writer was quicker.
        os.mkdir(name, dir_fd=folder)
        _sync(folder)
    return os.open(name, _FOLDER, dir_fd=folder)


def _write(folder: int, part: str, stream: Stream) -> None:
    created = os.open(
        part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=folder
    )
    with os.fdopen(created, "wb") as file:
        while chunk := stream.read(CHUNK_BYTES):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def _publish(folder: int, part: str, name: str, *, create_only: bool) -> bool:
    """Give the finished file its name. Linking fails where the name exists: one writer creates."""
    if create_only:
        try:
            os.link(part, name, src_dir_fd=folder, dst_dir_fd=folder)
        except FileExistsError:
            return False
    else:
        os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)
    _sync(folder)
    return True


def _sync(folder: int) -> None:
    descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _require_regular(status: os.stat_result, uri: str) -> None:
    if not modes.S_ISREG(status.st_mode):
        raise PermanentError(f"{uri} is not a regular file")


@contextmanager
def _faults(uri: str, *, missing: Collection[int] = _MISSING) -> Iterator[None]:
    """Tell the system's faults as ours: missing, away, or not to be touched."""
    try:
        yield
    except OSError as fault:
        reason = fault.strerror or str(fault)
        if fault.errno in missing:
            raise ContractError(f"{uri} does not exist") from fault
        if fault.errno in _OUTAGES:
            raise StoreUnavailable(
                f"the file system failed at {uri}: {reason}",
                hint="check the disk's free space and health",
            ) from fault
        raise PermanentError(f"{uri} cannot be used: {reason}") from fault
