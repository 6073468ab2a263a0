"""What a ledger row or an exception says of a job's run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

from processor.contracts import headers
from processor.contracts.masking import masked
from processor.contracts.protected import PREFIX_SIZE, Opened
from processor.contracts.sealing import is_sealed_digest
from processor.core.lane import Entry
from processor.engine.ports import LedgerRow
from processor.engine.slices import Duplicate, Dying, Outcome, Running, Succeeded
from processor.engine.telemetry import Outage
from processor.errors import (
    JobTimeout,
    KeysUnavailable,
    OutageError,
    PermanentError,
    ProcessorError,
    RegistryUnavailable,
    Retry,
    SinkUnavailable,
    StoreUnavailable,
    cause_of,
    frames_of,
)
from processor.model import Effect, Failure, JobHeaders, Raised

MESSAGE_READ_MAX = 10_000  # Characters of an exception's message that are looked at.


def known_outcome(
    row: LedgerRow | None,
    job: JobHeaders,
    entry: Entry,
    opened: Callable[[], Opened | None] = lambda: None,
) -> Outcome | None:
    """What a ledger row says of a job that came again; None lets it run.

    `opened` opens its payload, where that is needed to compare it with another's.
    A job whose idempotency key belongs to another job that died is run: nothing has taken effect.
    So is one that an operator replays, whatever became of it before but `done`.
    """
    if row is None or row.state == "running":
        return None
    replay = entry.hop.replay
    if row.state == "done":
        other = row.job_id != job.job_id and _is_other(row.payload_hash, job, entry, opened)
        return Duplicate(row.job_id, "done", row.result, row.attempt, conflict=other)
    if row.job_id != job.job_id or row.replay < replay:
        return None  # A purge is newer than every replay.
    if row.state == "dying" and row.replay == replay:
        return Dying(row.failure or Failure("Unknown", "the failure was not kept", permanent=True))
    return Duplicate(row.job_id, "dead", None, row.attempt)


def _is_other(
    known: str | None, job: JobHeaders, entry: Entry, opened: Callable[[], Opened | None]
) -> bool:
    """Whether a job's payload is another than the one that is known under its idempotency key."""
    if known is None or job.idempotency_key is None:
        return False
    if not is_sealed_digest(known):
        return payload_hash(job, entry.record.value) != known
    mine = opened()
    return mine is None or mine.is_as(known) is False  # None: nobody can tell, so none is told.


def payload_hash(job: JobHeaders, value: bytes | None, opened: Opened | None = None) -> str | None:
    """Name a payload, where a producer may use its idempotency key for another one.

    SHA-256 of the Avro body: the schema's id before it may differ for equal payloads. A payload
    kept elsewhere goes by its claim. One with encrypted fields differs each time, and a hash of
    what they hold could be guessed at: it goes by a digest that needs its data key.
    """
    if job.idempotency_key is None:
        return None
    if opened is not None and opened.sealed:
        return opened.digest()
    return hashlib.sha256(job.claim or (value or b"")[PREFIX_SIZE:]).hexdigest()


def written_outcome(
    row: LedgerRow | None,
    entry: Entry,
    effect: Effect,
    seconds: float,
    opened: Opened | None = None,
) -> Outcome:
    """What became of a run whose effect was written: `row` is what stood in its place, if any.

    Such a row is of an earlier try whose answer was lost, of another copy of the job, or of another
    job with the same idempotency key.
    """
    job = entry.job
    assert job is not None
    if row is not None and (row.state != "done" or row.job_id != effect.job_id):
        known = known_outcome(row, job, entry, lambda: opened)
        if known is not None:
            return known
    return Succeeded(effect.result_text, seconds)


def failure_of(error: BaseException, *, permanent: tuple[type[BaseException], ...] = ()) -> Failure:
    """Describe an exception for headers and logs: class, message, whether repeating can help.

    Of the classes of `permanent` it cannot. Where it was raised is told of those alone that nobody
    raised on purpose.
    """
    failure = Failure(
        error_class=type(error).__name__,
        message=_message_of(error),
        permanent=isinstance(error, (PermanentError, *permanent)),
        retry_after_seconds=error.after_seconds if isinstance(error, Retry) else None,
        raised=None if isinstance(error, ProcessorError) else _raised(error),
    )
    return replace(failure, fingerprint=headers.fingerprint(failure))


def _raised(error: BaseException) -> Raised:
    cause = cause_of(error)
    at = [masked(frame, length_max=MESSAGE_READ_MAX) for frame in frames_of(error)]
    told = None if cause is None else f"{type(cause).__name__}: {_message_of(cause)}"
    return Raised(at, told)


def past_deadline(job: JobHeaders, now: float) -> bool:
    """Whether the time is over until which a job was to be done."""
    return job.deadline_ms is not None and now * 1000 >= job.deadline_ms


def too_late(failure: Failure) -> Failure:
    """The failure of a run whose job's deadline has passed: another run would come too late."""
    message = f"{failure.message}; the job's deadline has passed"
    told = replace(failure, message=message, permanent=True)
    return replace(told, fingerprint=headers.fingerprint(told))


def _message_of(error: BaseException) -> str:
    """Give an exception's words on one line, as UTF-8 can write them, and not without end."""
    try:
        words = str(error)
    except Exception as fault:  # noqa: BLE001 - it is user code too.
        words = f"its message cannot be read: {type(fault).__name__}"
    words = masked(words, length_max=MESSAGE_READ_MAX)  # As it is cut: half a value is one, too.
    line = " ".join(words.split()) or type(error).__name__
    return line.encode(errors="replace").decode()[: headers.ERROR_MESSAGE_BYTES_MAX]


def timed_out(running: Running, now: float) -> Failure:
    """The failure of a run that was abandoned."""
    return failure_of(JobTimeout(f"still running after {now - running.started:.0f} seconds"))


def key_text(key: bytes | None) -> str | None:
    """An ordering key as text."""
    return None if key is None else key.decode(errors="replace")


def away(outage: OutageError) -> Outage:
    """Name what is away."""
    match outage:
        case RegistryUnavailable():
            return "registry"
        case StoreUnavailable():
            return "store"
        case KeysUnavailable():
            return "keys"
        case SinkUnavailable():
            return "sink"
        case _:
            return "broker"
