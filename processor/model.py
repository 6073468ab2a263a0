"""The words of the engine as values. Everything here is plain data; nothing does I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


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


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, as it travels in headers and logs. Never holds a payload."""

    error_class: str
    message: str
    permanent: bool
    retry_after_seconds: float | None = None
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Effect:
    """What a finished job leaves behind: the ledger row's identity and the result to write.

    `result` is what the handler returned: None, or a JSON-able value.
    """

    job_id: str
    job_type: str
    identity: str
    origin: Position
    attempt: int
    key: str | None
    result: Any
