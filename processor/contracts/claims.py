"""Objects too large for a message: the port to the stores, and the claim check built on it.

A value over its topic's limit is put under a name made from its own SHA-256, below a base that
comes from configuration, and its record carries a `Claim` instead. What comes back is believed only
after its size and SHA-256 have been checked, and only from below that base: a message cannot make a
worker read from anywhere else.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol, Self

from processor.contracts.uris import shown
from processor.errors import ContractError, PermanentError, StoreUnavailable
from processor.model import Claim

CHUNK_BYTES = 1024 * 1024
HEADER_BYTES_MAX = 4096
RENEW_SECONDS = 86_400.0
CLAIM_BYTES_MAX = 16 * 1024 * 1024  # No larger value is decoded, so none is fetched.

_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


class Stream(Protocol):
    """Bytes in order. `read(n)` may give fewer than n; only the end gives none."""

    def read(self, size: int = -1, /) -> bytes:
        """Give at most `size` bytes, or all that is left when `size` is negative."""
        ...


class Reader(Stream, Protocol):
    """An open object. Leaving the `with` block closes it."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> object: ...

    def close(self) -> None:
        """Let go of the file or the connection. Closing twice does nothing."""
        ...


class SeekableStream(Stream, Protocol):
    """A stream that can be read again from its start."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to `offset`."""
        ...


@dataclass(frozen=True, slots=True)
class ObjectStat:
    """What a store tells of an object without reading it. `size` is in bytes.

    None is what the store does not know: a file has no recorded SHA-256, and an HTTP server may
    not even tell the size. `etag` tells versions apart and is never a SHA-256. `modified` is when
    it was written, in seconds since the epoch.
    """

    size: int | None
    sha256: str | None = None
    content_type: str | None = None
    etag: str | None = None
    modified: float | None = None


@dataclass(frozen=True, slots=True)
class Put:
    """What is under a name after a put.

    `created` False: an object was already there and was left alone; `size` and `sha256` are then
    that object's, as far as its store knows them. After `created` True both are known.
    """

    uri: str
    size: int | None
    sha256: str | None
    created: bool


class ObjectStore(Protocol):
    """Where objects are kept, named by URI. One store may be used by many threads at once.

    What a caller can count on: a missing object is a ContractError; an object, bucket or folder
    that may not be touched is a PermanentError; a store that does not answer, or does not accept
    our credentials, is StoreUnavailable, because time or an operator heals it.
    """

    def open(self, uri: str) -> Reader:
        """Open an object for reading from its start; it is never held in memory whole."""
        ...

    def stat(self, uri: str) -> ObjectStat | None:
        """Tell what is known of an object without reading it; None: there is none."""
        ...

    def put(
        self,
        uri: str,
        stream: Stream,
        *,
        size: int | None = None,
        sha256: str | None = None,
        content_type: str | None = None,
        create_only: bool,
    ) -> Put:
        """Write the stream under the name, whole and checked, or not at all.

        Where `size` or `sha256` is given and the stream differs, nothing appears under the name
        and ContractError is raised. `create_only` leaves an existing object alone and says so in
        the answer; of two writers at once one creates. Memory does not grow with the object.
        """
        ...

    def delete(self, uri: str) -> None:
        """Remove an object; a missing one is no fault."""
        ...


class Verified:
    """A stream that counts and hashes what passes, and fails unless it was what was promised.

    The check comes before the last bytes are handed over whenever the size is known, so a caller
    that reads exactly `size` bytes has been told the truth.

        >>> verified(io.BytesIO(b"abc"), size=3).read()
        b'abc'
        >>> verified(io.BytesIO(b"abcd"), size=3).read()
        Traceback (most recent call last):
        processor.errors.ContractError: the object is longer than the 3 bytes it should have
    """

    def __init__(self, stream: Stream, *, size: int | None, sha256: str | None, name: str) -> None:
        self._stream = stream
        self._size = size
        self._sha256 = sha256
        self._name = name
        self._digest = hashlib.sha256()
        self.count = 0

    @property
    def sha256(self) -> str:
        """The SHA-256 of what has been read so far."""
        return self._digest.hexdigest()

    def read(self, size: int = -1, /) -> bytes:
        """Give at most `size` bytes; ContractError when the object turns out to be another."""
        chunk = self._stream.read(size)
        self.count += len(chunk)
        self._digest.update(chunk)
        if self._size is not None and self.count > self._size:
            raise ContractError(
                f"{self._name} is longer than the {self._size} bytes it should have"
            )
        ended = size < 0 or (size > 0 and not chunk)
        if ended or self.count == self._size:
            self._check()
        return chunk

    def _check(self) -> None:
        if self._size is not None and self.count != self._size:
            raise ContractError(f"{self._name} has {self.count} bytes, expected {self._size}")
        if self._sha256 is not None and self.sha256 != self._sha256:
            raise ContractError(f"{self._name} has sha256 {self.sha256}, expected {self._sha256}")


def verified(
    stream: Stream,
    *,
    size: int | None = None,
    sha256: str | None = None,
    name: str = "the object",
) -> Verified:
    """Wrap a stream so that it fails unless it has this size and SHA-256; None is not checked."""
    return Verified(stream, size=size, sha256=sha256, name=name)


class ClaimStore:
    """Puts values under the name of their SHA-256 below one base, and gives them back checked.

    An operator's fault (no such bucket, access denied) is StoreUnavailable here: the base comes
    from configuration, so no job is to blame and none may die of it.

    Objects that are old are deleted by the store's own rules (contracts/claim_rules.py). So a value
    that is put again after a day is written again: its claim's life begins anew.
    """

    def __init__(
        self, objects: ObjectStore, base_uri: str, *, now: Callable[[], float] = time.time
    ) -> None:
        self._objects = objects
        self._base = base_uri.rstrip("/")
        self._now = now

    def put(self, value: bytes | SeekableStream) -> Claim:
        """Keep a value and give the claim on it; putting the same value again is harmless.

        A stream is read twice, first for its SHA-256; it must be at its start.
        """
        stream = io.BytesIO(value) if isinstance(value, bytes) else value
        passed = verified(stream)
        while passed.read(CHUNK_BYTES):
            pass
        stream.seek(0)
        uri = f"{self._base}/{passed.sha256[:2]}/{passed.sha256}"
        claim = Claim(uri=uri, size=passed.count, sha256=passed.sha256)
        with _operators_fault(self._base):
            put = self._objects.put(
                uri, stream, size=claim.size, sha256=claim.sha256, create_only=True
            )
            if not put.created and (_is_another(put, claim) or self._is_old(uri)):
                stream.seek(0)
                self._objects.put(
                    uri, stream, size=claim.size, sha256=claim.sha256, create_only=False
                )
        return claim

    def renew(self, claim: Claim, size_max: int = CLAIM_BYTES_MAX) -> None:
        """Let an old claim's life begin anew; with one that `get` would refuse do nothing.

        That is for the job itself to fail of.
        """
        with suppress(ContractError):
            self._check_ours(claim, size_max)
            if self._is_old(claim.uri):
                value = io.BytesIO(self.get(claim, size_max))
                with _operators_fault(self._base):
                    self._objects.put(
                        claim.uri, value, size=claim.size, sha256=claim.sha256, create_only=False
                    )

    def _is_old(self, uri: str) -> bool:
        with _operators_fault(self._base):
            stat = self._objects.stat(uri)
        if stat is None or stat.modified is None:
            return False
        return self._now() - stat.modified > RENEW_SECONDS

    def get(self, claim: Claim, size_max: int) -> bytes:
        """Fetch and check a claimed value.

        ContractError: the claim points outside the base, is over `size_max` bytes, or the object
        is missing or another.
        """
        self._check_ours(claim, size_max)
        with _operators_fault(self._base), self._objects.open(claim.uri) as stream:
            checked = verified(stream, size=claim.size, sha256=claim.sha256, name=claim.uri)
            value = bytearray()
            while chunk := checked.read(CHUNK_BYTES):
                value += chunk
        return bytes(value)

    def _check_ours(self, claim: Claim, size_max: int) -> None:
        name = claim.uri.removeprefix(f"{self._base}/")
        if name == claim.uri or not _NAME.fullmatch(name):
            raise ContractError(
                f"the claim {shown(claim.uri)!r} is not a name under the claim store {self._base}",
                hint="producers and workers must be configured with the same claim store",
            )
        if claim.size > size_max:
            raise ContractError(
                f"the claim {claim.uri} is for {claim.size} bytes, over the limit of {size_max}"
            )


def _is_another(put: Put, claim: Claim) -> bool:
    """Whether what is under a claim's name is another content, as a job may have written it."""
    return put.size not in (None, claim.size) or put.sha256 not in (None, claim.sha256)


def claim_to_header(claim: Claim) -> bytes:
    """Write a claim as its header's bytes: compact JSON."""
    document = {"uri": claim.uri, "size": claim.size, "sha256": claim.sha256}
    return json.dumps(document, separators=(",", ":")).encode()


def claim_from_header(value: bytes) -> Claim:
    """Read a claim header; ContractError unless it is exactly what `claim_to_header` writes."""
    if len(value) > HEADER_BYTES_MAX:
        raise ContractError(f"the claim header has {len(value)} bytes, over {HEADER_BYTES_MAX}")
    try:
        pairs = json.loads(value, object_pairs_hook=list)
    except (ValueError, RecursionError) as fault:
        raise ContractError("the claim header is not JSON") from fault
    if not _are_pairs(pairs) or sorted(name for name, _ in pairs) != ["sha256", "size", "uri"]:
        raise ContractError("the claim header must have exactly uri, size and sha256")
    fields: dict[str, Any] = dict(pairs)
    uri, size, sha256 = fields["uri"], fields["size"], fields["sha256"]
    if not isinstance(uri, str) or "://" not in uri:
        raise ContractError("the claim header's uri is not a URI")
    if type(size) is not int or size < 0:
        raise ContractError("the claim header's size is not a number of bytes")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise ContractError("the claim header's sha256 is not 64 lower-case hex digits")
    return Claim(uri=uri, size=size, sha256=sha256)


def _are_pairs(pairs: object) -> bool:
    return isinstance(pairs, list) and all(isinstance(pair, tuple) for pair in pairs)


@contextmanager
def _operators_fault(base_uri: str) -> Iterator[None]:
    """Turn "may not be touched" into "away": what is wrong is the configuration, not the job."""
    try:
        yield
    except ContractError:
        raise
    except PermanentError as fault:
        raise StoreUnavailable(
            f"the claim store {base_uri} cannot be used: {fault.message}",
            hint=fault.hint or "check `[claims] store` and its permissions",
        ) from fault
