"""Key-encryption keys in a local file: several by id, one of them current.

    current = "2026-05"

    [keys]
    "2026-05" = "<base64 of 32 random bytes>"
    "2025-11" = "…"

The file is read again for each new data key and for each key that is not known, so a rotated file,
as a mounted secret is, needs no restart. A wrapped data key begins with four bytes that tell which
key wrapped it: another key under the same id is noticed, and is no fault of the job.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import tomllib
from pathlib import Path
from typing import Any

from processor.contracts.sealing import NONCE_BYTES, DataKey, KeyUnknown
from processor.errors import ContractError, KeysUnavailable, UsageError
from processor.secret import path_told

KEY_BYTES = 32
PREFIX = "file:"
_CHECK_BYTES = 4
_TAG_BYTES = 16  # That AES-GCM adds.
_WRAPPED_BYTES = _CHECK_BYTES + NONCE_BYTES + KEY_BYTES + _TAG_BYTES
NAME = r"[A-Za-z0-9_-]{1,64}"


class KeyFile:
    """A key source over one file.

    It is read at once, and what is wrong with it is a UsageError. Later it may be read while it is
    written: what is wrong then is waited for, as a file that is away is.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read()

    def new(self, job_type: str) -> DataKey:
        """Make a data key under the current key."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        current, keys = self._read_again()
        key, plain, nonce = keys[current], os.urandom(KEY_BYTES), os.urandom(NONCE_BYTES)
        wrapped = AESGCM(key).encrypt(nonce, plain, _bound(current, job_type))
        return DataKey(f"{PREFIX}{current}", _check(key) + nonce + wrapped, plain)

    def unwrap(self, key_id: str, wrapped: bytes, job_type: str) -> bytes:
        """Give a data key back. KeyUnknown: the file does not hold the key that wrapped it."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        if len(wrapped) != _WRAPPED_BYTES:
            raise ContractError(f"a data key of `{job_type}` has {len(wrapped)} bytes: it is none")
        name = key_id.removeprefix(PREFIX)
        _, keys = self._read_again()
        if name not in keys:
            raise KeyUnknown(
                f"the key `{name}` is not in {self._path}",
                hint="add it again: what was encrypted with it cannot be read without",
            )
        key = keys[name]
        check, nonce, body = wrapped[:_CHECK_BYTES], wrapped[4:16], wrapped[16:]
        if check != _check(key):
            raise KeyUnknown(
                f"the key `{name}` in {self._path} is not the one that encrypted the job",
                hint="put the former key back under this id, and a new key under an id of its own",
            )
        try:
            return AESGCM(key).decrypt(nonce, body, _bound(name, job_type))
        except (InvalidTag, ValueError):
            raise ContractError(
                f"a data key of `{job_type}` was changed: no key opens it"
            ) from None

    def _read_again(self) -> tuple[str, dict[str, bytes]]:
        try:
            return self._read()
        except UsageError as fault:
            raise KeysUnavailable(fault.message, hint=fault.hint) from None

    def _read(self) -> tuple[str, dict[str, bytes]]:
        try:
            document = tomllib.loads(self._path.read_text(encoding="utf-8"))
        except OSError as fault:
            raise KeysUnavailable(
                f"the key file {path_told(self._path)} cannot be read: {fault.strerror}",
                hint="encryption.key_file names it",
            ) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError):
            raise self._fault("is not TOML") from None  # Its message could tell a part of a key.
        current, keys = document.get("current"), document.get("keys")
        if not isinstance(keys, dict) or not keys:
            raise self._fault("has no keys: write a table [keys]")
        decoded = {name: self._key(name, text) for name, text in keys.items()}
        if not isinstance(current, str) or current not in decoded:
            raise self._fault("must say which key is `current`, by its id in [keys]")
        return current, decoded

    def _key(self, name: str, text: Any) -> bytes:
        if not re.fullmatch(NAME, name):
            raise self._fault(f"has a key `{name}`; an id is of letters, digits, - and _")
        try:
            key = base64.b64decode(text, validate=True)
        except (TypeError, ValueError, binascii.Error):
            key = b""
        if len(key) != KEY_BYTES:
            raise self._fault(f"has a key `{name}` that is no base64 of {KEY_BYTES} bytes")
        return key

    def _fault(self, what: str) -> UsageError:
        return UsageError(
            f"the key file {self._path} {what}",
            hint="make a key with `openssl rand -base64 32` (docs/data-protection.md)",
        )


def _check(key: bytes) -> bytes:
    return hashlib.sha256(b"processor: which key" + key).digest()[:_CHECK_BYTES]


def _bound(name: str, job_type: str) -> bytes:
    return f"pii1\0{name}\0{job_type}".encode()
