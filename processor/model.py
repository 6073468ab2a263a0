"""The words of the engine as values. Everything here is plain data; nothing does I/O."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol


class Partition(NamedTuple):
    """One partition of one Kafka topic."""

    topic: str
    number: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.number}]"


class Position(NamedTuple):
    """One record's place in Kafka."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}-{self.offset}"


Headers = list[tuple[str, bytes]]


class Record(NamedTuple):
    """A job's bytes on a partition, as Kafka gave them. Nothing is parsed yet."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int


class Message(Protocol):
    """A record as Kafka's client gave it: its parts are taken out when they are asked for."""

    def __len__(self) -> int:
        """The value's size in bytes."""

    def topic(self) -> str | None:
        """The topic's name."""

    def partition(self) -> int | None:
        """The partition's number."""

    def offset(self) -> int | None:
        """Its place on the partition."""

    def key(self) -> Any:
        """The key's bytes, or None."""

    def value(self) -> Any:
        """The value's bytes, or None."""

    def headers(self) -> Any:
        """The headers as (name, bytes), or None."""

    def timestamp(self) -> tuple[int, int]:
        """The kind of its time, and milliseconds since the epoch."""


class Batch(NamedTuple):
    """Messages of one partition, in the order of their offsets."""

    partition: Partition
    messages: list[Message]


def record_of(message: Message) -> Record:
    """Take a message's bytes."""
    return Record(
        message.topic() or "",
        message.partition() or 0,
        message.offset() or 0,
        message.key(),
        message.value(),
        message.headers() or [],
        message.timestamp()[1],
    )


def key_hash(key: bytes | None) -> str:
    """Name a key without telling it: the same 16 hex digits everywhere and always; `-` for none."""
    return "-" if key is None else hashlib.blake2s(key, digest_size=8).hexdigest()


def iso(at_ms: int | None) -> str | None:
    """A time as people and machines read it."""
    if at_ms is None:
        return None
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")


class Outgoing(NamedTuple):
    """Bytes on their way to a partition. `partition` None lets the partitioner choose by key."""

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
    headers: Headers


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """A reference to a large input kept in an object store (Avro type `processor.ObjectRef`).

    `uri` is `file:///…`, `s3://bucket/key` or `http(s)://…`; `size` is in bytes, `sha256` is
    lower-case hex. Both are None where the producer did not know them; what is known is verified.
    """

    uri: str
    size: int | None = None
    sha256: str | None = None
    content_type: str | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """Where a value too large for its topic was put, and what it must hash to."""

    uri: str
    size: int
    sha256: str


class Raised(NamedTuple):
    """Where an exception came from: the frames, the innermost first, and what caused it."""

    at: list[str]
    cause: str | None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, as it travels in headers and logs. Never holds a payload.

    `raised` is for the log of the process in which it happened; it is kept nowhere.
    """

    error_class: str
    message: str
    permanent: bool
    retry_after_seconds: float | None = None
    fingerprint: str = ""
    raised: Raised | None = field(default=None, compare=False, repr=False)


class Effect(NamedTuple):
    """What a finished job leaves behind: the ledger row's identity and the result to write.

    A sink that names what it writes does so by `identity`: two jobs of one idempotency key may run
    side by side, and leave one result between them. `result` is what the handler returned: None,
    or a JSON-able value. `masked` is the same without what must not be told, as JSON, where that
    differs: the ledger and the status keep this one.
    """

    job_id: str
    job_type: str
    identity: str
    origin: Position
    attempt: int
    key: str | None
    result: Any
    replay: int = 0  # The operator's replay that it was run for.
    payload_hash: str | None = None  # Where a producer named the job with an idempotency key.
    masked: str | None = None

    @property
    def result_text(self) -> str | None:
        """The result as JSON, as it may be kept and told."""
        if self.masked is not None or self.result is None:
            return self.masked
        return json.dumps(self.result)

    @property
    def identities(self) -> tuple[str, ...]:
        """Name the ledger's rows that tell of the job: of its effect, then its own."""
        return identities_of(self.identity, self.job_id)


class JobHeaders(NamedTuple):
    """What a record says of its job. Times are milliseconds since the epoch.

    `origin_timestamp_ms`: of a job that is known by its place alone, when it came there. A topic
    that is made anew has the same places.
    """

    job_id: str
    job_type: str | None
    idempotency_key: str | None = None
    time: str | None = None
    not_before_ms: int | None = None
    deadline_ms: int | None = None
    claim: bytes | None = None
    origin_timestamp_ms: int | None = None

    def identity(self, job_type: str) -> str:
        """Name the job's effect: by the producer's idempotency key, else by the job id.

        >>> JobHeaders("orders-7-4711", None, origin_timestamp_ms=1700000000000).identity("a")
        'job:orders-7-4711@1700000000000'
        """
        if self.idempotency_key is not None:
            return f"key:{job_type}:{self.idempotency_key}"
        if self.origin_timestamp_ms is not None:
            return f"job:{self.job_id}@{self.origin_timestamp_ms}"
        return f"job:{self.job_id}"

    def identities(self, job_type: str) -> tuple[str, ...]:
        """Name the ledger's rows that tell of the job: of its effect, then its own."""
        return identities_of(self.identity(job_type), self.job_id)


def own_identity(identity: str, job_id: str) -> str:
    """Name the row of what a job leaves that took no effect: how far it was, and its death.

    Jobs of one idempotency key share the row of their effect alone: each has a death of its own.
    """
    return f"{identity}\n{job_id}" if identity.startswith("key:") else identity


def identities_of(identity: str, job_id: str) -> tuple[str, ...]:
    """Name the ledger's rows that tell of a job: of its effect, then its own."""
    own = own_identity(identity, job_id)
    return (identity,) if own == identity else (identity, own)


class Hop(NamedTuple):
    """What a retry or dead-letter record says of its way so far. Times are milliseconds.

    `replay` names the operator's replay that it belongs to; 0: the job has not been replayed.
    `replays` counts them. `held_behind` is the origin of the dead job that it is held behind.
    `ends_replay`: it is no job, but the record behind the last one of a replay. `trace` is the W3C
    traceparent of the job's latest run, or of its replay, where that was traced.
    """

    origin: Position
    origin_timestamp_ms: int
    attempt: int = 0
    not_before_ms: int = 0
    first_failure_ms: int | None = None
    last_failure_ms: int | None = None
    error_class: str | None = None
    error_message: str | None = None
    fingerprint: str | None = None
    epoch: int = 0
    copy: str = ""
    replay: int = 0
    replays: int = 0
    held_behind: str | None = None
    ends_replay: bool = False
    trace: str | None = None

    def after(self, failure: Failure, *, attempt: int, now_ms: int) -> Hop:
        """The same way, with one more failed run."""
        return Hop(
            origin=self.origin,
            origin_timestamp_ms=self.origin_timestamp_ms,
            replay=self.replay,
            replays=self.replays,
            attempt=attempt,
            first_failure_ms=now_ms if self.first_failure_ms is None else self.first_failure_ms,
            last_failure_ms=now_ms,
            error_class=failure.error_class,
            error_message=failure.message,
            fingerprint=failure.fingerprint,
            trace=self.trace,
        )


@dataclass(frozen=True, slots=True)
class JobStatus:
    """How a job ended. `state` is `succeeded`, `duplicate`, `dead` or `held`.

    `held`: behind a dead job of its key, until an operator acts. `at` is seconds since the epoch.
    `result` is the handler's result as JSON; of a duplicate, the first job's, which
    `duplicate_of` names.
    """

    job_id: str
    job_type: str | None
    key: str | None
    state: str
    attempts: int
    result: str | None
    error_class: str | None
    error_message: str | None
    at: float
    origin: Position
    worker: str
    duplicate_of: str | None = None
