"""The way in: a new job becomes bytes for one partition's log, checked before anything is sent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from processor.contracts import headers
from processor.contracts.avro import VALUE_BYTES_MAX, Encoder
from processor.contracts.claims import ClaimStore, claim_to_header
from processor.contracts.masking import Plaintexts
from processor.contracts.topic import DAY, Topic
from processor.errors import UsageError
from processor.model import Outgoing

KEY_BYTES_MAX = 1024
YEAR_10000 = 253_402_300_800.0  # Seconds since the epoch.


class NewJob(NamedTuple):  # There is one for each job: a frozen dataclass takes six times as long.
    """A request. Times are seconds since the epoch; `key` orders jobs, None orders nothing."""

    job_type: str
    payload: Any  # A mapping, or a dataclass instance.
    key: str | None = None
    idempotency_key: str | None = None
    job_id: str | None = None
    not_before: float | None = None
    deadline: float | None = None


class Accepted(NamedTuple):
    """The broker's acknowledgement of a job: it is on the log, and will be worked."""

    job_id: str
    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A job that is not on the log, and why."""

    job: NewJob
    job_id: str | None
    message: str
    hint: str | None = None

    @property
    def done(self) -> bool:
        """Its fate is known: as of a `Submission` whose answer has come."""
        return True


class Encode(Protocol):
    """Writes a payload as Avro. Raises ContractError naming the field."""

    def __call__(self, payload: Mapping[str, Any]) -> bytes:
        """Encode one payload."""
        ...


class Way(NamedTuple):
    """How the jobs of one type are sent: found once."""

    topic: str
    encode: Encode
    message_bytes_max: int
    start_within_seconds: float  # One that starts later would be gone (`Topic.wait_seconds_max`).
    plaintexts: Callable[[Mapping[str, Any]], Plaintexts] | None = None  # What no name may tell.


def way_of(topic: Topic, encoder: Encoder) -> Way:
    """How jobs are sent to a declared topic."""
    plaintexts = encoder.plaintexts if encoder.protects else None
    return Way(topic.name, encoder.encode, topic.message_max, topic.wait_seconds_max, plaintexts)


def outgoing(
    job: NewJob,
    way: Way,
    *,
    claims: ClaimStore | None,
    source: str,
    now: float,
    new_id: Callable[[], str],
) -> tuple[str, Outgoing]:
    """Check and write a job. Returns its id and its bytes.

    Raises ContractError when the payload does not match its schema, UsageError when it is too
    large, or there is no claim store for it, and when its start lies too far ahead;
    StoreUnavailable when the claim store does not answer.
    """
    payload = job.payload if type(job.payload) is dict else _mapping(job)
    value: bytes | None = way.encode(payload)
    assert value is not None
    if way.plaintexts is not None:
        _check_names(job, way.plaintexts(payload))
    claim = not_before_ms = None
    if job.not_before is not None:
        not_before_ms = _milliseconds("not-before", job.not_before)
        _check_start(job, job.not_before - now, way)
    if len(value) > VALUE_BYTES_MAX:
        raise UsageError(
            f"the payload of `{job.job_type}` has {len(value)} bytes; a worker reads at most"
            f" {VALUE_BYTES_MAX}",
            hint="upload the large part, and refer to it: processor.ObjectRef (docs/objects.md)",
        )
    if len(value) > way.message_bytes_max:
        if claims is None:
            raise UsageError(
                f"the payload of `{job.job_type}` has {len(value)} bytes; topic `{way.topic}` takes"
                f" {way.message_bytes_max}, and there is no claim store for larger ones",
                hint="set [claims] store, or raise message_max in the topic's file",
            )
        # The claimed value keeps its wire format; the record itself then carries no value.
        claim, value = claim_to_header(claims.put(value)), None
    job_id = _name("job id", job.job_id) or new_id()
    written = headers.write_job(
        job_id=job_id,
        job_type=job.job_type,
        source=source,
        time=_time(int(now * 1000)),
        idempotency_key=_name("idempotency key", job.idempotency_key),
        not_before_ms=not_before_ms,
        deadline_ms=_milliseconds("deadline", job.deadline),
        claim=claim,
    )
    key = None if job.key is None else _encoded("key", job.key, bytes_max=KEY_BYTES_MAX)
    return job_id, Outgoing(way.topic, None, key, value, written)


def _check_names(job: NewJob, plaintexts: Plaintexts) -> None:
    names = {"key": job.key, "idempotency key": job.idempotency_key, "job id": job.job_id}
    for what, name in names.items():
        if name is not None and plaintexts.named_by(name):
            raise UsageError(
                f"the {what} of `{job.job_type}` tells the value of a field tagged PII, and is not"
                " encrypted",
                hint="give an id, or a keyed digest of the value",
            )


def _check_start(job: NewJob, ahead_seconds: float, way: Way) -> None:
    if ahead_seconds > way.start_within_seconds:
        raise UsageError(
            f"the not-before of `{job.job_type}` lies {ahead_seconds / DAY:.1f} days ahead; topic"
            f" `{way.topic}` keeps a job that waits for {way.start_within_seconds / DAY:.1f} days",
            hint="raise retry.retention in the topic's file, or submit the job later",
        )


@lru_cache(maxsize=2)  # Many jobs are of one millisecond.
def _time(milliseconds: int) -> str:
    """A time since the epoch as RFC 3339 has it, to the millisecond."""
    second = datetime.fromtimestamp(milliseconds // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{second}.{milliseconds % 1000:03}+00:00"


def _mapping(job: NewJob) -> Mapping[str, Any]:
    payload = job.payload
    if isinstance(payload, Mapping):
        return payload
    if dataclasses.is_dataclass(payload) and not isinstance(payload, type):
        return dataclasses.asdict(payload)
    raise UsageError(
        f"the payload of `{job.job_type}` is a {type(payload).__name__}",
        hint="give a mapping or a dataclass instance",
    )


def _name(what: str, text: str | None) -> str | None:
    if text is None:
        return None
    _encoded(what, text, bytes_max=headers.ID_BYTES_MAX)
    if headers.CONTROL.search(text):
        raise UsageError(f"the {what} has control characters", hint="give one line of text")
    return text


def _encoded(what: str, text: str, *, bytes_max: int) -> bytes:
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"the {what} has lone surrogates, which UTF-8 lacks", hint="give text"
        ) from None
    if not 0 < len(encoded) <= bytes_max:
        raise UsageError(f"the {what} has {len(encoded)} bytes; 1 to {bytes_max} are allowed")
    return encoded


def _milliseconds(what: str, seconds: float | None) -> int | None:
    if seconds is None:
        return None
    if not 0 <= seconds < YEAR_10000:  # NaN compares as false, so it is refused too.
        raise UsageError(
            f"the {what} {seconds:g} is no time from 1970 to 9999",
            hint="give seconds since the epoch",
        )
    return int(seconds * 1000)
