"""The headers of a job's record: names, reading, writing. The only module that knows the names.

A job's own headers follow the CloudEvents Kafka binding in binary mode:
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
All are optional: without `ce_id` the job's id is its first topic-partition-offset.

A retry or dead-letter record carries the original headers untouched plus one set under the prefix
`processor-`, which is replaced at every hop and never appended to, so headers cannot grow.
"""

from __future__ import annotations

import hashlib
import re

from processor.errors import ContractError
from processor.model import Failure, Headers, Hop, JobHeaders, Position, Record

JOB_ID = "ce_id"
JOB_TYPE = "ce_type"
SOURCE = "ce_source"
TIME = "ce_time"
SPEC_VERSION = "ce_specversion"
IDEMPOTENCY_KEY = "idempotency-key"
TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
NOT_BEFORE = "not-before"  # Milliseconds since the epoch.
DEADLINE = "deadline"  # Milliseconds since the epoch.
CLAIM = "claim"

HOP_PREFIX = "processor-"
HOP_ATTEMPT = "processor-attempt"  # Runs so far.
HOP_NOT_BEFORE = "processor-not-before"  # Milliseconds since the epoch.
HOP_ORIGIN_TOPIC = "processor-origin-topic"
HOP_ORIGIN_PARTITION = "processor-origin-partition"
HOP_ORIGIN_OFFSET = "processor-origin-offset"
HOP_ORIGIN_TIMESTAMP = "processor-origin-timestamp"  # Milliseconds since the epoch.
HOP_FIRST_FAILURE = "processor-first-failure"  # Milliseconds since the epoch.
HOP_LAST_FAILURE = "processor-last-failure"  # Milliseconds since the epoch.
HOP_ERROR_CLASS = "processor-error-class"
HOP_ERROR_MESSAGE = "processor-error-message"
HOP_FINGERPRINT = "processor-fingerprint"
HOP_EPOCH = "processor-epoch"  # Of the owner that wrote this copy.
HOP_COPY = "processor-copy"  # Names one appended copy.
HOP_REPLAY = "processor-replay"  # The operator's replay that the record belongs to.
HOP_REPLAYS = "processor-replays"  # How often the job has been replayed.
HOP_REPLAY_END = "processor-replay-end"  # Only on the record behind a replay's last job.
HOP_HELD_BEHIND = "processor-held-behind"  # Origin of the dead job that its key is held for.
HOP_TRACE = "processor-traceparent"  # Of the job's latest run, where that was traced.
TAKEOVER = "processor-takeover"  # Only on takeover markers: the epoch of the new owner.

_HOP_ORIGIN = frozenset({HOP_ORIGIN_TOPIC, HOP_ORIGIN_PARTITION, HOP_ORIGIN_OFFSET})
_HOP_WHOLE = (HOP_ATTEMPT, HOP_NOT_BEFORE, HOP_ORIGIN_PARTITION, HOP_ORIGIN_OFFSET,
              HOP_ORIGIN_TIMESTAMP, HOP_FIRST_FAILURE, HOP_LAST_FAILURE, HOP_EPOCH, HOP_REPLAY,
              HOP_REPLAYS)  # fmt: skip
_HOP_TEXT = (HOP_ORIGIN_TOPIC, HOP_ERROR_CLASS, HOP_ERROR_MESSAGE, HOP_FINGERPRINT, HOP_COPY,
             HOP_HELD_BEHIND)  # fmt: skip

_new = tuple.__new__
_NOWHERE_YET = Hop(Position("", 0, 0), 0)[2:]

ERROR_MESSAGE_BYTES_MAX = 1024
TRACE_BYTES_MAX = 512  # What W3C has every system pass on.
ID_BYTES_MAX = 256  # Of a job id or an idempotency key.
DIGITS_MAX = 18  # Of a whole number: a ledger keeps it in 64 bits.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # What neither may have.


def read_job(record: Record, hop: Hop) -> JobHeaders:
    """Read a job's own headers. Of a repeated header the last one counts, as in CloudEvents.

    Raises ContractError when a header that the engine acts on is malformed.
    """
    if not record.headers:
        return nameless_job(hop)
    found = {
        name: value
        for name, value in record.headers
        if value is not None and not name.startswith(HOP_PREFIX)
    }
    job_id = _name(found, JOB_ID)
    return JobHeaders(
        job_id=job_id or str(hop.origin),
        job_type=_name(found, JOB_TYPE),
        idempotency_key=_name(found, IDEMPOTENCY_KEY),
        time=_text(found, TIME),
        not_before_ms=_whole(found, NOT_BEFORE),
        deadline_ms=_whole(found, DEADLINE),
        claim=found.get(CLAIM),
        origin_timestamp_ms=hop.origin_timestamp_ms if job_id is None else None,
    )


_PLAIN = re.compile(rb"[ -~]+")
_ACTED_ON = frozenset({IDEMPOTENCY_KEY, NOT_BEFORE, DEADLINE, CLAIM, HOP_REPLAY})


def says_only_its_type(written: Headers, job_type: bytes) -> bool:
    """Whether a job's headers are sound, name this type or none, and ask for nothing more.

    False, where in doubt: `read_job` tells.
    """
    found = dict(written)
    job_id, time = found.get(JOB_ID, b"?"), found.get(TIME, b"")
    return (
        found.get(JOB_TYPE, job_type) == job_type
        and _ACTED_ON.isdisjoint(found)
        and job_id is not None
        and 0 < len(job_id) <= ID_BYTES_MAX
        and _PLAIN.fullmatch(job_id) is not None
        and time is not None
        and time.isascii()
    )


def nameless_job(hop: Hop) -> JobHeaders:
    """What is known of a job whose own headers are missing or malformed: its place names it."""
    return JobHeaders(str(hop.origin), None, origin_timestamp_ms=hop.origin_timestamp_ms)


def job_of(record: Record, hop: Hop) -> JobHeaders:
    """Read a job's own headers; of malformed ones only its place is believed."""
    try:
        return read_job(record, hop)
    except ContractError:
        return nameless_job(hop)


def read_hop(record: Record) -> Hop | None:
    """Read a copy's way so far; None when the record is no copy (a job on its main topic).

    Raises ContractError when the set is there but malformed.
    """
    found = {name: value for name, value in record.headers if name.startswith(HOP_PREFIX)}
    if HOP_ORIGIN_OFFSET not in found:
        return None
    topic = _text(found, HOP_ORIGIN_TOPIC)
    partition = _whole(found, HOP_ORIGIN_PARTITION)
    offset = _whole(found, HOP_ORIGIN_OFFSET)
    if topic is None or partition is None or offset is None:
        raise ContractError("the copy's origin is incomplete")
    return Hop(
        origin=Position(topic, partition, offset),
        origin_timestamp_ms=_whole(found, HOP_ORIGIN_TIMESTAMP) or 0,
        attempt=_whole(found, HOP_ATTEMPT) or 0,
        not_before_ms=_whole(found, HOP_NOT_BEFORE) or 0,
        first_failure_ms=_whole(found, HOP_FIRST_FAILURE),
        last_failure_ms=_whole(found, HOP_LAST_FAILURE),
        error_class=_text(found, HOP_ERROR_CLASS),
        error_message=_text(found, HOP_ERROR_MESSAGE),
        fingerprint=_text(found, HOP_FINGERPRINT),
        epoch=_whole(found, HOP_EPOCH) or 0,
        copy=_text(found, HOP_COPY) or "",
        replay=_whole(found, HOP_REPLAY) or 0,
        replays=_whole(found, HOP_REPLAYS) or 0,
        held_behind=_text(found, HOP_HELD_BEHIND),
        ends_replay=HOP_REPLAY_END in found,
        trace=_trace(found.get(HOP_TRACE)),
    )


def read_copy(record: Record) -> tuple[int, str] | None:
    """Read a copy's epoch and name, and no more: None where `read_hop` gives none, or raises.

    A takeover reads every copy that waits; the whole set takes several times as long.
    """
    found = dict(record.headers)
    if not found.keys() >= _HOP_ORIGIN:
        return None
    for name in _HOP_TEXT:
        value = found.get(name, b"")
        if value is None or not value.isascii():
            return _copy_of_all(record)
    for name in _HOP_WHOLE:
        value = found.get(name, b"0")
        if value is None:
            return _copy_of_all(record)
        if not value.isdigit() or len(value) > DIGITS_MAX:
            return None
    return int(found.get(HOP_EPOCH, b"0")), found.get(HOP_COPY, b"").decode()


def _copy_of_all(record: Record) -> tuple[int, str] | None:
    try:
        hop = read_hop(record)
    except ContractError:
        return None
    return None if hop is None else (hop.epoch, hop.copy)


def read_marker(record: Record) -> int | None:
    """Read a takeover marker's epoch; None when the record is none, or a malformed one."""
    if record.key is not None or record.value is not None:
        return None
    for name, value in record.headers:
        if name == TAKEOVER and value is not None and value.isdigit() and len(value) <= DIGITS_MAX:
            return int(value)
    return None


def write_marker(epoch: int) -> Headers:
    """The headers of a takeover marker; its key and value are None."""
    return [(TAKEOVER, str(epoch).encode())]


def first_hop(record: Record) -> Hop:
    """The way of a record that was never copied: it starts here."""
    # Made for every record, and by keywords it takes three times as long.
    return _new(Hop, (_new(Position, record[:3]), record.timestamp_ms, *_NOWHERE_YET))


def main_hop(record: Record) -> Hop:
    """The way of a record on its main topic: it starts here, unless an operator replays it.

    What claims to be replayed but has no origin on this very partition is foreign: its headers were
    copied by another program, and tell nothing.
    """
    first = first_hop(record)
    if not record.headers or HOP_REPLAY not in dict(record.headers):
        return first
    try:
        ends = any(name == HOP_REPLAY_END for name, _ in record.headers)
        if ends and record.value is None and record.key is not None:
            replay = _whole(dict(record.headers), HOP_REPLAY) or 0
            return first._replace(replay=replay, ends_replay=True)
        hop = read_hop(record)
    except ContractError:
        return first
    if hop is None or hop.origin[:2] != first.origin[:2] or hop.origin.offset >= record.offset:
        return first
    return hop


def write_hop(headers: Headers, hop: Hop) -> Headers:
    """The original headers untouched, plus one set of the engine's own, replaced."""
    written = [(name, value) for name, value in headers if not name.startswith(HOP_PREFIX)]
    fields: list[tuple[str, str | int | None]] = [
        (HOP_ORIGIN_TOPIC, hop.origin.topic),
        (HOP_ORIGIN_PARTITION, hop.origin.partition),
        (HOP_ORIGIN_OFFSET, hop.origin.offset),
        (HOP_ORIGIN_TIMESTAMP, hop.origin_timestamp_ms),
        (HOP_ATTEMPT, hop.attempt),
        (HOP_NOT_BEFORE, hop.not_before_ms or None),
        (HOP_FIRST_FAILURE, hop.first_failure_ms),
        (HOP_LAST_FAILURE, hop.last_failure_ms),
        (HOP_ERROR_CLASS, hop.error_class),
        (HOP_FINGERPRINT, hop.fingerprint),
        (HOP_EPOCH, hop.epoch),
        (HOP_COPY, hop.copy or None),
        (HOP_REPLAY, hop.replay or None),
        (HOP_REPLAYS, hop.replays or None),
        (HOP_REPLAY_END, 1 if hop.ends_replay else None),
        (HOP_HELD_BEHIND, hop.held_behind),
        (HOP_TRACE, hop.trace),
    ]
    written += [(name, str(value).encode()) for name, value in fields if value is not None]
    if hop.error_message is not None:
        written.append((HOP_ERROR_MESSAGE, _cut(hop.error_message)))
    return written


def read_trace(written: Headers) -> dict[str, str]:
    """The trace context that a job's producer gave it (W3C); what cannot be one is left out."""
    found = {name: _trace(value) for name, value in written if name in (TRACEPARENT, TRACESTATE)}
    return {name: text for name, text in found.items() if text is not None}


def write_replay_end(replay: int) -> Headers:
    """The headers of the record behind a replay's last job; its key is theirs, its value None."""
    return [(HOP_REPLAY, str(replay).encode()), (HOP_REPLAY_END, b"1")]


def write_job(
    *,
    job_id: str,
    job_type: str,
    source: str,
    time: str,
    idempotency_key: str | None = None,
    not_before_ms: int | None = None,
    deadline_ms: int | None = None,
    claim: bytes | None = None,
) -> Headers:
    """The headers of a new job."""
    headers: Headers = [
        (JOB_ID, job_id.encode()),
        (JOB_TYPE, job_type.encode()),
        (SOURCE, source.encode()),
        (TIME, time.encode()),
        (SPEC_VERSION, b"1.0"),
    ]
    if idempotency_key is not None:
        headers.append((IDEMPOTENCY_KEY, idempotency_key.encode()))
    if not_before_ms is not None:
        headers.append((NOT_BEFORE, str(not_before_ms).encode()))
    if deadline_ms is not None:
        headers.append((DEADLINE, str(deadline_ms).encode()))
    if claim is not None:
        headers.append((CLAIM, claim))
    return headers


_VARIABLE_PART = re.compile(r"0x[0-9a-f]+|[0-9a-f]{8,}|\d+|'[^']*'|\"[^\"]*\"", re.IGNORECASE)


def fingerprint(failure: Failure) -> str:
    """Group like failures: class and message without numbers, ids and quoted parts, as 12 digits.

    >>> seven, eight = Failure("E", "row 7 of 'x'", True), Failure("E", "row 8 of 'y'", True)
    >>> fingerprint(seven) == fingerprint(eight)
    True
    """
    shape = _VARIABLE_PART.sub("#", failure.message)
    return hashlib.blake2s(f"{failure.error_class}\0{shape}".encode(), digest_size=6).hexdigest()


def _name(found: dict[str, bytes], name: str) -> str | None:
    """Read what the ledger knows a job by. No database is asked for a NUL, nor a log for a line."""
    value = found.get(name)
    if value is not None and not 0 < len(value) <= ID_BYTES_MAX:
        raise ContractError(
            f"header `{name}` has {len(value)} bytes", hint=f"1 to {ID_BYTES_MAX} are allowed"
        )
    text = _text(found, name)
    if text is not None and CONTROL.search(text):
        raise ContractError(f"header `{name}` has control characters")
    return text


def _text(found: dict[str, bytes], name: str) -> str | None:
    value = found.get(name)
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise ContractError(f"header `{name}` is not UTF-8") from None


def _trace(value: bytes | None) -> str | None:
    """A trace context as text. No job is to blame for a malformed one: it tells nothing."""
    if value is None or len(value) > TRACE_BYTES_MAX or _PLAIN.fullmatch(value) is None:
        return None
    return value.decode()


def _whole(found: dict[str, bytes], name: str) -> int | None:
    value = found.get(name)
    if value is None:
        return None
    if not (value.isdigit() and len(value) <= DIGITS_MAX):
        raise ContractError(f"header `{name}` is no whole number of at most {DIGITS_MAX} digits")
    return int(value)


def _cut(message: str) -> bytes:
    encoded = message.encode(errors="replace")
    if len(encoded) <= ERROR_MESSAGE_BYTES_MAX:
        return encoded
    return encoded[: ERROR_MESSAGE_BYTES_MAX - 3].decode(errors="ignore").encode() + "…".encode()
