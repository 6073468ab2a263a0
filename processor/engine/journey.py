"""One record's way, in call order: arrive, admit, run, settle.

Every step but `run` (engine/run.py) is pure: it returns what should happen, and the worker does it.
Four rules keep the way one-way:

Rule 1: this module judges records; settlement.py performs verdicts and judges none.
Rule 2: acknowledge, then settle, then commit. Nothing is committed that is not done, parked in an
        acknowledged retry record, or acknowledged dead.
Rule 3: backpressure is a value (`Wait`, `lane.full`), never an exception.
Rule 4: there is no "commit" verdict: committing is what the watermark allows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, assert_never

from processor.contracts import headers
from processor.core.assignment import Assignment
from processor.core.breaker import wait_seconds
from processor.core.lane import Entry, Lane
from processor.core.retry import DeadLetter, Retry, RetryPolicy, WaitInPlace, after_failure
from processor.core.stretch import Stretch
from processor.engine.slices import Duplicate, Dying, Failed, Outcome, Succeeded, Unavailable
from processor.engine.telemetry import Outage
from processor.errors import ContractError
from processor.model import Failure, Hop, JobStatus, Message, Outgoing, Record, record_of


@dataclass(frozen=True, slots=True)
class Run:
    """Nothing of its key is ahead: hand it to the pool."""


@dataclass(frozen=True, slots=True)
class Park:
    """Append it, unattempted, to a tier; it runs no earlier than `not_before_ms`."""

    tier: int
    not_before_ms: int = 0


@dataclass(frozen=True, slots=True)
class Hold:
    """Append it, unattempted, to the dead-letter topic: a job of its key died (core/holds.py)."""


@dataclass(frozen=True, slots=True)
class EndReplay:
    """It is the record behind a replay: its key may be opened."""


@dataclass(frozen=True, slots=True)
class Done:
    """It took effect, now or before: nothing is left to do."""

    outcome: Succeeded | Duplicate


@dataclass(frozen=True, slots=True)
class Bury:
    """Its death is noted already: append the letter (again)."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Wait:
    """Put it back; something the engine needs is away until `until` at least."""

    until: float
    what: Outage
    message: str


@dataclass(frozen=True, slots=True)
class KnownDead:
    """It is on the dead-letter topic already; no ledger needs to be asked (core/letters.py)."""


class Copy(NamedTuple):
    """A record's copy for a tier or the dead-letter topic, and its way as the headers tell it."""

    outgoing: Outgoing
    hop: Hop


Admission = Run | Park | Hold | EndReplay | KnownDead
Verdict = Done | Retry | WaitInPlace | DeadLetter | Bury | Wait

RESULT_MAX = 65_536  # Characters. A longer one is not told: a status must fit its topic.


@dataclass(frozen=True, slots=True)
class Passed:
    """It is not to be run: a takeover marker, or a copy whose writer had lost the partition."""


@dataclass(frozen=True, slots=True)
class Usurped:
    """It was written under a newer epoch than ours: the partition is another's."""

    epoch: int


def arrive(lane: Lane, record: Record, assignment: Assignment) -> Entry | Passed | Usurped:
    """Put a record into its lane, or pass it by when it is a marker or void."""
    if lane.tier > 0:
        return _arrive_copy(lane, record, assignment)
    entry = lane.arrive(record, headers.main_hop(record))
    if assignment.policy.tiers == 0:  # Nowhere to park it: it waits as the head of its turn.
        entry.not_before = _asked_not_before_ms(record) / 1000
    return entry


def must_be_read(stretch: Stretch, assignment: Assignment) -> bool:
    """Whether a job among these may have to be held or passed by: each has to be looked at."""
    if len(assignment.holds) or (assignment.fence.held and not assignment.fences_keys):
        return True
    letters = assignment.letters
    return letters is not None and letters.any_of(stretch.offsets)


def behind(stretch: Stretch, assignment: Assignment) -> Stretch:
    """The records whose keys have copies in the tiers."""
    fence = assignment.fence
    if not fence.held:
        return Stretch([], [])
    waiting = fence.waiting([each.key() for each in stretch.messages])
    return Stretch(
        [stretch.messages[at] for at in waiting], [stretch.offsets[at] for at in waiting]
    )


def waits_aside(entry: Entry, assignment: Assignment, verdict: Retry, now: float) -> bool:
    """Whether a job that failed stays in its lane until it is tried again, and is not copied.

    A job that fails again and again stays no longer in all: the watermark waits for it.
    """
    first_ms = entry.hop.first_failure_ms
    first = now if first_ms is None else first_ms / 1000
    return (
        entry.message is not None
        and entry.record.key is not None
        and entry.hop.replay == 0
        and assignment.passes_failures
        and not assignment.draining
        and entry.lane.aside.failed(entry.record.key) is None
        and 2 * (verdict.not_before - now) <= assignment.aside_seconds
        and verdict.not_before - first <= assignment.aside_seconds
    )


def asks_admission(entry: Entry) -> bool:
    """Whether a job that was admitted unread asks for more: a later start, or a replay's place."""
    hop = entry.hop
    return hop.replay > 0 or hop.ends_replay or _asked_not_before_ms(entry.record) > 0


def reading(policy: RetryPolicy) -> Callable[[Message], tuple[Record, Hop]]:
    """Make what a lane of fresh records reads them with (core/lane.py)."""

    def read(message: Message) -> tuple[Record, Hop]:
        record = record_of(message)
        hop = headers.main_hop(record)
        if policy.tiers == 0:  # Nowhere to park it: it waits as the head of its turn.
            hop = hop._replace(not_before_ms=_asked_not_before_ms(record))
        return record, hop

    return read


def _arrive_copy(lane: Lane, record: Record, assignment: Assignment) -> Entry | Passed | Usurped:
    floor = assignment.floors[lane.tier - 1]
    marker = headers.read_marker(record)
    if marker is not None:
        floor.raise_at(record.offset, epoch=marker)
        lane.pass_by(record.offset)
        return Usurped(marker) if marker > assignment.epoch else Passed()
    hop = hop_of(record)
    if hop is not None and hop.epoch > assignment.epoch:
        return Usurped(hop.epoch)
    if hop is not None and hop.epoch < floor.epoch:
        lane.pass_by(record.offset)
        return Passed()
    # A stranger's record has no way so far: no owner wrote it, so none can have lost it.
    entry = lane.arrive(record, hop or headers.first_hop(record))
    key = assignment.fence_key(record.key)
    assignment.fence.add(key, tier=lane.tier, copy=copy_of(record, entry.hop))
    return entry


def hop_of(record: Record) -> Hop | None:
    """Read a copy's way so far; a malformed set can only be foreign, and tells nothing."""
    try:
        return headers.read_hop(record)
    except ContractError:
        return None


def land(copy: Copy, offset: int, assignment: Assignment, now: float) -> None:
    """Put a copy of ours into its tier's lane, where all before it is there: it has landed.

    It is not waited for until it is fetched; when it is, it comes again and is left out.
    """
    outgoing = copy.outgoing
    assert outgoing.partition is not None
    tier = assignment.tier_of(outgoing.topic)
    if tier is None:
        return  # A letter.
    lane = assignment.lanes[tier]
    paused = assignment.satellites[tier - 1] in assignment.paused  # Its records take too much.
    if offset != lane.watermark.next_offset or lane.full or paused:
        return
    timestamp_ms = int(now * 1000)
    key, value, written = outgoing.key, outgoing.value, outgoing.headers
    record = Record(outgoing.topic, outgoing.partition, offset, key, value, written, timestamp_ms)
    lane.arrive(record, copy.hop)


def copy_of(record: Record, hop: Hop) -> str:
    """Name a tier record's copy; one that a foreign writer left unnamed is its place."""
    return hop.copy or place_of(record)


def place_of(record: Record) -> str:
    """Name a tier record by its place: no copy of ours has such a name."""
    return f"{record.topic}-{record.offset}"


def admit(entry: Entry, assignment: Assignment, now: float) -> Admission:
    """Decide at the head of the lane, and only there, whether a record may run now.

    The fence is asked before the key's hold: a record that passed its predecessors in the tiers
    would be replayed before them. A job that asks to start later is parked in the first tier, so
    that its partition goes on.
    """
    tier = entry.lane.tier
    asked_ms = _asked_not_before_ms(entry.record) if tier == 0 else 0
    not_before_ms = asked_ms if asked_ms > now * 1000 else 0
    key = assignment.fence_key(entry.record.key)
    ahead = assignment.fence.tier_ahead(key, tier=tier)
    if ahead is not None:
        return Park(tier=ahead, not_before_ms=not_before_ms)
    hop = entry.hop
    if hop.ends_replay:
        return EndReplay()
    if assignment.holds.held(entry.record.key, replay=hop.replay, offset=hop.origin.offset):
        return Hold()
    letters = assignment.letters
    if letters is not None and letters.tell(hop.origin, replay=hop.replay):
        return KnownDead()
    if not_before_ms > 0 and assignment.policy.tiers > 0:
        return Park(tier=1, not_before_ms=not_before_ms)
    return Run()


def settle(
    entry: Entry, outcome: Outcome, assignment: Assignment, *, now: float, jitter: float
) -> Verdict:
    """Decide what becomes of a record after its run. `entry.attempt` already counts the run."""
    match outcome:
        case Succeeded() | Duplicate():
            return Done(outcome)
        case Dying(failure):
            return Bury(failure)
        case Unavailable(what, message):
            until = now + wait_seconds(entry.waits + 1, jitter=jitter)
            return Wait(until, what, message)
        case Failed(failure):
            return after_failure(
                failure,
                tier=entry.lane.tier,
                attempt=max(entry.attempt, 1),
                policy=assignment.policy,
                now=now,
                jitter=jitter,
            )
        case _:
            assert_never(outcome)


def parked_copy(entry: Entry, assignment: Assignment, park: Park) -> Copy:
    """Build the copy of a record that waits behind its key: no attempt is added."""
    hop = entry.hop._replace(attempt=entry.attempt, not_before_ms=park.not_before_ms)
    return _copy(entry, assignment, hop, assignment.satellites[park.tier - 1].topic)


def retry_hop(entry: Entry, assignment: Assignment, verdict: Retry, now: float) -> Hop:
    """The way of a record whose run failed, as the copy for its next tier tells it."""
    failed = entry.hop.after(verdict.failure, attempt=entry.attempt, now_ms=int(now * 1000))
    hop = failed._replace(not_before_ms=int(verdict.not_before * 1000))
    return _hop_of_copy(entry, assignment, hop)


def retry_copy(entry: Entry, hop: Hop, assignment: Assignment, tier: int) -> Copy:
    """Build the copy of a record whose run failed, for its next tier."""
    return _copied(entry, hop, assignment.satellites[tier - 1].topic)


def dead_letter(
    entry: Entry, assignment: Assignment, failure: Failure, topic: str, now: float
) -> Copy:
    """Build the dead letter: the original bytes, and all that is known of the failure."""
    hop = entry.hop.after(failure, attempt=entry.attempt, now_ms=int(now * 1000))
    return _copy(entry, assignment, hop, topic)


def held_letter(entry: Entry, assignment: Assignment, topic: str) -> Copy:
    """Build the letter of a job that is held behind a dead one of its key: no attempt is added."""
    assert entry.record.key is not None
    behind = entry.hop.origin._replace(offset=assignment.holds.behind(entry.record.key))
    hop = entry.hop._replace(attempt=entry.attempt, not_before_ms=0, held_behind=str(behind))
    return _copy(entry, assignment, hop, topic)


def status_of(
    entry: Entry, verdict: Done | DeadLetter | Bury | Hold, *, now: float, worker: str
) -> JobStatus:
    """Say how a job ended, for the status topic."""
    job = entry.job
    origin = entry.hop.origin
    result: str | None = None
    duplicate_of: str | None = None
    failure: Failure | None = None
    job_id = job.job_id if job is not None else str(origin)
    state = "dead"
    attempts = entry.attempt
    match verdict:
        case Done(Succeeded(result=result)):
            state = "succeeded"
        case Done(Duplicate(of, known, result, earlier, conflict)):
            mine = of == job_id
            attempts = earlier if mine else entry.attempt
            state = ("succeeded" if known == "done" else "dead") if mine else "duplicate"
            duplicate_of = None if mine else of
            if conflict:
                failure = conflict_with(of)
        case DeadLetter(failure) | Bury(failure):
            pass
        case Hold():
            state = "held"
    return JobStatus(
        job_id=job_id,
        job_type=job.job_type if job is not None else None,
        key=None if entry.record.key is None else entry.record.key.decode(errors="replace"),
        state=state,
        attempts=attempts,
        result=None if result is not None and len(result) > RESULT_MAX else result,
        error_class=failure.error_class if failure else None,
        error_message=failure.message if failure else None,
        at=now,
        origin=origin,
        worker=worker,
        duplicate_of=duplicate_of,
    )


def conflict_with(job_id: str) -> Failure:
    """What a job is told whose idempotency key was used before, for another payload."""
    return Failure(
        "IdempotencyConflict",
        f"job {job_id} had the same idempotency key and another payload; this one was not run",
        permanent=True,
    )


def _copy(entry: Entry, assignment: Assignment, hop: Hop, topic: str) -> Copy:
    return _copied(entry, _hop_of_copy(entry, assignment, hop), topic)


def _hop_of_copy(entry: Entry, assignment: Assignment, hop: Hop) -> Hop:
    trace = hop.trace if entry.span is None else entry.span.traceparent
    return hop._replace(epoch=assignment.epoch, copy=assignment.next_copy(), trace=trace)


def _copied(entry: Entry, hop: Hop, topic: str) -> Copy:
    record = entry.record
    outgoing = Outgoing(
        topic=topic,
        partition=record.partition,
        key=record.key,
        value=record.value,
        headers=headers.write_hop(record.headers, hop),
    )
    return Copy(outgoing, hop)


def _asked_not_before_ms(record: Record) -> int:
    """The last header counts, as in `read_job`; a malformed one is told of when the job is run."""
    for name, value in reversed(record.headers):
        if name == headers.NOT_BEFORE and value is not None:
            return int(value) if value.isdigit() and len(value) <= headers.DIGITS_MAX else 0
    return 0
