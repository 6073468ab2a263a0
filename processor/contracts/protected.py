"""Payloads with tagged fields: sealed when they are written, opened for the handler alone."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from typing import Any

from processor.contracts.masking import NOTHING, Plaintexts
from processor.contracts.sealing import Keyring, KeyUnknown, Named, name_in
from processor.contracts.tags import TagFault, Walk, walk_of
from processor.errors import ContractError, KeysUnavailable, ProcessorError

PREFIX_SIZE = 5  # Of a value: it names the schema.


class Opened:
    """What is known of a payload beside itself: the values in it that must not be told."""

    __slots__ = ("_body", "_job_type", "_keys", "_name", "plaintexts")

    def __init__(
        self,
        plaintexts: Plaintexts,
        *,
        job_type: str,
        keys: Keyring | None = None,
        name: Named | None = None,
        body: bytes = b"",
    ) -> None:
        self.plaintexts = plaintexts
        self._job_type = job_type
        self._keys = keys
        self._name = name
        self._body = body

    @property
    def sealed(self) -> bool:
        """Whether anything of it was encrypted, so that equal payloads are not equal bytes."""
        return self._name is not None

    def digest(self) -> str:
        """Name the payload as it was before it was encrypted; only for sealed ones."""
        assert self._keys is not None and self._name is not None
        return self._keys.digest(self._job_type, self._name, self._body)

    def is_as(self, digest: str) -> bool | None:
        """Whether a payload with this digest, made by whichever data key, was the same.

        None: no key here opens that data key, so nobody can tell. It is not waited for: the key was
        withdrawn, as a rule, and the job is known whatever its payload was.
        """
        if self._keys is None or self._name is None:
            return False
        try:
            mine = self._keys.digest(self._job_type, name_in(digest), self._body)
        except (KeyUnknown, ContractError):
            return None
        return hmac.compare_digest(mine, digest)


def sealed(payload: Mapping[str, Any], walk: Walk, keys: Keyring, job_type: str) -> Any:
    """Give a checked payload with its tagged values encrypted. Raises KeysUnavailable."""

    def act(path: str, value: str | bytes) -> str | bytes:
        text = isinstance(value, str)
        plain = value.encode() if isinstance(value, str) else bytes(value)
        made = keys.seal(job_type, path, plain)
        return made if text else made.encode()

    return walk(payload, act)


Read = Callable[[bytes], dict[str, Any]]


def opening_of(
    writer: dict[str, Any],
    reader: dict[str, Any] | None,
    *,
    as_written: Read,
    read: Read,
    write: Callable[[Any], bytes],
    keys: Keyring | None,
) -> Callable[[bytes], tuple[dict[str, Any], Opened]] | None:
    """Make the function that opens values with tagged fields; None: neither schema has any.

    `as_written` and `read` read a value with the writer's schema, and into the reader's; `write`
    gives the Avro body of a payload. Raises ContractError where the tags cannot be kept to. So does
    the function for a value that is not encrypted, or that no key opens; and KeysUnavailable.
    """
    job_type = writer["name"]
    try:
        walk, shown = walk_of(writer), None if reader is None else walk_of(reader)
    except TagFault as fault:
        raise ContractError(f"the schema of `{job_type}`: {fault}") from None

    def open_sealed(value: bytes) -> tuple[dict[str, Any], Opened]:
        assert walk is not None
        opener = _Opener(job_type, keys)
        written = as_written(value)
        try:
            clear = walk(written, opener)
            body = write(clear)  # Now: a handler may change the payload that it is given.
        except ProcessorError:
            raise
        except Exception as fault:  # noqa: BLE001 - a stranger's schema and bytes provoked it.
            raise ContractError(
                f"the tagged fields of the `{job_type}` cannot be opened ({type(fault).__name__})"
            ) from None
        if reader is not None:
            clear = read(value[:PREFIX_SIZE] + body)
        return clear, opener.opened(body)

    def look_at(value: bytes) -> tuple[dict[str, Any], Opened]:
        payload = read(value)  # Written before its field was tagged.
        return payload, Opened(plaintexts_of(payload, shown), job_type=job_type)

    if walk is not None:
        return open_sealed
    return None if shown is None else look_at


class _Opener:
    """Decrypts the tagged values of one payload, and remembers them."""

    def __init__(self, job_type: str, keys: Keyring | None) -> None:
        self._job_type = job_type
        self._keys = keys
        self._found: list[str | bytes] = []
        self._name: Named | None = None

    def __call__(self, path: str, value: str | bytes) -> str | bytes:
        if self._keys is None:
            raise KeysUnavailable(
                f"field `{path}` of `{self._job_type}` is tagged PII, and there is no key for it",
                hint="set encryption.key_file or encryption.kms_keys (docs/data-protection.md)",
            )
        text = value if isinstance(value, str) else value.decode("ascii", errors="replace")
        plain, self._name = self._keys.open(self._job_type, path, text)
        clear = plain.decode(errors="replace") if isinstance(value, str) else plain
        self._found.append(clear)
        return clear

    def opened(self, body: bytes) -> Opened:
        return Opened(
            Plaintexts(self._found),
            job_type=self._job_type,
            keys=self._keys,
            name=self._name,
            body=body,
        )


def plaintexts_of(payload: Any, walk: Walk | None) -> Plaintexts:
    """The tagged values of a payload that is not encrypted."""
    if walk is None:
        return NOTHING
    found: list[str | bytes] = []

    def act(_: str, value: str | bytes) -> str | bytes:
        found.append(value)
        return value

    walk(payload, act)
    return Plaintexts(found)
