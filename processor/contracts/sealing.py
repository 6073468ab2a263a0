"""Envelope encryption of single values: a data key encrypts them, a key-encryption key wraps it.

    pii1.<key id>.<wrapped data key>.<nonce and ciphertext>

The key id names the key-encryption key; the other two are base64 (URL-safe, without padding). The
value is encrypted by AES-256-GCM under a nonce of 12 random bytes, bound to the job type, the path
of the field and the key id, so that a ciphertext says nothing in another field. A string's is text,
a bytes field's the same in ASCII: the Avro type stays.

Rule 1: a data key is used for `USES_MAX` values and `SECONDS_MAX` seconds, then a new one is made.
Rule 2: unwrapped keys are kept for `OPENED_SECONDS_MAX`, so a key that was withdrawn ends to work.
Rule 3: what no key opens is a ContractError; a keeper of keys that is away is an outage.
Rule 4: a key that nobody here knows may be on its way, so it is waited for. But anybody can name
one: each is waited for `UNKNOWN_SECONDS_MAX`, and `UNKNOWN_KEYS_MAX` of them in
`UNKNOWN_AGAIN_SECONDS`. One that comes is counted no longer.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple, Protocol

from processor.errors import ContractError, KeysUnavailable, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

PREFIX = "pii1."
USES_MAX = 100_000  # Far below the 2³² nonces that one key of AES-GCM can take.
SECONDS_MAX = 300.0
AWAY_SECONDS = 1.0  # So long a source that has failed is not asked for a new data key again.
OPENED_MAX = 1000
OPENED_SECONDS_MAX = 3600.0
UNKNOWN_KEYS_MAX = 3  # One for a rotation, and some to spare for what is forged.
UNKNOWN_SECONDS_MAX = 3600.0  # As long as it takes to bring a new key to all workers.
UNKNOWN_AGAIN_SECONDS = 24 * 3600.0
NONCE_BYTES = 12

_KEY_ID = r"[A-Za-z0-9:/_-]{1,256}"
_SEALED = re.compile(rf"pii1\.({_KEY_ID})\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")


class DataKey(NamedTuple):
    """A data key as its source made it. `plain` is 32 bytes."""

    key_id: str
    wrapped: bytes
    plain: bytes


class KeyUnknown(KeysUnavailable):
    """No key source holds the key: it was withdrawn, is on its way, or there never was one."""


class KeySource(Protocol):
    """Who holds key-encryption keys. Calls raise KeysUnavailable, UsageError."""

    def new(self, job_type: str) -> DataKey:
        """Make a data key under the current key."""
        ...

    def unwrap(self, key_id: str, wrapped: bytes, job_type: str) -> bytes:
        """Give a data key back.

        Raises ContractError where it is none that the key has wrapped, KeyUnknown where there is no
        such key.
        """
        ...


class Named(NamedTuple):
    """A wrapped data key as a sealed value names it."""

    key_id: str
    wrapped: str


@dataclass(slots=True)
class _Sealer:
    """A data key in use."""

    name: Named
    aead: AESGCM
    until: float
    uses: int = 0


class _Awaited(NamedTuple):
    """A key that nobody knows, and the data key that first asked for it."""

    since: float
    name: Named


class Keyring:
    """Seals and opens values. Safe for threads; one a process."""

    def __init__(self, source: KeySource, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._aead = _library()
        self._source = source
        self._clock = clock
        self._lock = Lock()
        self._sealers: dict[str, _Sealer] = {}  # By job type.
        self._away: dict[str, tuple[float, str, str | None]] = {}  # By job type: until when, why.
        self._opened: dict[tuple[Named, str], tuple[float, bytes, AESGCM]] = {}
        self._awaited: dict[str, _Awaited] = {}  # By key id: those that nobody knew.

    def seal(self, job_type: str, path: str, plain: bytes) -> str:
        """Encrypt one value of a field. Raises KeysUnavailable, UsageError."""
        sealer = self._sealer(job_type)
        nonce = os.urandom(NONCE_BYTES)
        bound = _bound(job_type, path, sealer.name.key_id)
        body = _text(nonce + sealer.aead.encrypt(nonce, plain, bound))
        return f"{PREFIX}{sealer.name.key_id}.{sealer.name.wrapped}.{body}"

    def open(self, job_type: str, path: str, sealed: str) -> tuple[bytes, Named]:
        """Decrypt one value of a field, and name its data key.

        Raises ContractError where it is not encrypted, or not for this field, or its key has not
        come in time; KeysUnavailable.
        """
        match = _SEALED.fullmatch(sealed)
        if match is None:
            raise ContractError(
                f"field `{path}` of `{job_type}` is tagged PII and is not encrypted",
                hint="producers must encrypt tagged fields (docs/data-protection.md)",
            )
        name = Named(match[1], match[2])
        body = _bytes(match[3])
        try:
            _, aead = self._opener(name, job_type)
        except KeyUnknown as fault:
            if self._waits(name):
                raise
            raise ContractError(fault.message, hint=fault.hint) from None
        from cryptography.exceptions import InvalidTag

        try:
            bound = _bound(job_type, path, name.key_id)
            return aead.decrypt(body[:NONCE_BYTES], body[NONCE_BYTES:], bound), name
        except (InvalidTag, ValueError):
            raise _not_opened(job_type, path) from None

    def digest(self, job_type: str, name: Named, content: bytes) -> str:
        """Name content so that only who holds the key can guess at it: a keyed SHA-256."""
        key, _ = self._opener(name, job_type)
        derived = hmac.digest(key, b"processor: digest of a payload", "sha256")
        told = hmac.new(derived, content, hashlib.sha256).hexdigest()
        return f"{PREFIX}{name.key_id}.{name.wrapped}.{told}"

    def _sealer(self, job_type: str) -> _Sealer:
        with self._lock:
            sealer = self._sealers.get(job_type)
            if sealer is None or sealer.uses >= USES_MAX or self._clock() >= sealer.until:
                made = self._new(job_type)
                name = Named(made.key_id, _text(made.wrapped))
                assert re.fullmatch(_KEY_ID, made.key_id)
                sealer = _Sealer(name, self._aead(made.plain), self._clock() + SECONDS_MAX)
                self._sealers[job_type] = sealer
            sealer.uses += 1
            return sealer

    def _new(self, job_type: str) -> DataKey:
        """Make a data key. Threads that waited in vain for another one's are not to try in turn."""
        until, message, hint = self._away.get(job_type, (0.0, "", None))
        if message and self._clock() < until:
            raise KeysUnavailable(message, hint=hint)
        try:
            made = self._source.new(job_type)
        except KeysUnavailable as fault:
            self._away[job_type] = (self._clock() + AWAY_SECONDS, fault.message, fault.hint)
            raise
        self._away.pop(job_type, None)
        return made

    def _waits(self, name: Named) -> bool:
        """Whether a key that nobody knows is still waited for."""
        now = self._clock()
        with self._lock:
            for key_id, each in list(self._awaited.items()):
                if now - each.since >= UNKNOWN_AGAIN_SECONDS:
                    del self._awaited[key_id]
            if name.key_id not in self._awaited and len(self._awaited) < UNKNOWN_KEYS_MAX:
                self._awaited[name.key_id] = _Awaited(now, name)
            awaited = self._awaited.get(name.key_id)
            return awaited is not None and now - awaited.since < UNKNOWN_SECONDS_MAX

    def _opener(self, name: Named, job_type: str) -> tuple[bytes, AESGCM]:
        kept = self._opened.get((name, job_type))
        if kept is None or self._clock() >= kept[0]:
            plain = self._source.unwrap(name.key_id, _bytes(name.wrapped), job_type)
            kept = (self._clock() + OPENED_SECONDS_MAX, plain, self._aead(plain))
            with self._lock:
                awaited = self._awaited.get(name.key_id)
                if awaited is not None and awaited.name == name:
                    del self._awaited[name.key_id]  # Another's data key would prove nothing.
                self._opened.pop((name, job_type), None)
                while len(self._opened) >= OPENED_MAX:
                    del self._opened[next(iter(self._opened))]
                self._opened[name, job_type] = kept
        return kept[1], kept[2]


def is_sealed_digest(digest: str) -> bool:
    """Whether `Keyring.digest` made it."""
    return digest.startswith(PREFIX)


def name_in(digest: str) -> Named:
    """The data key by which a digest was made."""
    _, key_id, wrapped, _ = digest.split(".")
    return Named(key_id, wrapped)


def _library() -> type[AESGCM]:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        raise UsageError(
            "fields tagged PII need the package `cryptography`",
            hint="install the extra: pip install '/path/to/processor[encryption]'",
        ) from None
    return AESGCM


def _bound(job_type: str, path: str, key_id: str) -> bytes:
    return "\0".join(("pii1", job_type, path, key_id)).encode()


def _not_opened(job_type: str, path: str) -> ContractError:
    return ContractError(
        f"field `{path}` of `{job_type}` cannot be decrypted: it was changed, or is another's"
    )


def _text(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return b""  # No key opens it.
