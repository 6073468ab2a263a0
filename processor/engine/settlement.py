"""Carry verdicts out: append, wait for the acknowledgement, tell the ledger, then settle.

A verdict becomes a list of steps for its entry. Each step ends with an answer (a delivery or an
errand's end), which starts the next one; after the last the entry is settled. Death has four:
`dying` in the ledger -> dead letter appended -> `dead` in the ledger -> status appended. A crash
between two of them repeats the later ones and never loses or invents a letter. Its turn is held
until the first is done: a job that ran while a death was noted nowhere could be overtaken by it.

A delivery that failed may have landed, and what was sent after it may have landed without it. So
the partition is given up and taken again: sending again could put a key's copies out of order. An
errand that met an outage is done again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, assert_never

from processor.contracts import headers
from processor.core.assignment import Assignment
from processor.core.holds import Closed
from processor.core.lane import Entry
from processor.core.retry import DeadLetter, Retry, WaitInPlace, tier_from_main
from processor.engine import journey
from processor.engine.journey import Bury, Copy, Done, Hold, Park, Verdict, Wait
from processor.engine.notes import (
    Barrier,
    Errand,
    Note,
    Notes,
    Settling,
    Step,
    death_of,
    job_type_of,
    key_of,
)
from processor.engine.outages import Outages
from processor.engine.ports import Clock, Death, Delivery, Ledger, Log, Owner, OwnershipLost
from processor.engine.slices import Duplicate, Pool
from processor.engine.takeover import Rules
from processor.engine.telemetry import Outage, Outcome, Telemetry
from processor.errors import OutageError
from processor.model import Failure, JobStatus, Outgoing, Partition, iso, key_hash


class Settlement:
    """All entries whose verdicts are being carried out, of all assignments."""

    def __init__(
        self,
        *,
        log: Log,
        pool: Pool,
        ledger: Ledger,
        clock: Clock,
        rules: Mapping[str, Rules],
        encode_status: Callable[[str, JobStatus], bytes],
        owner: Callable[[Assignment], Owner],
        worker_id: str,
        telemetry: Telemetry,
        logger: Any,
        outages: Outages,
    ) -> None:
        self._log = log
        self._ledger = ledger
        self._clock = clock
        self._rules = rules
        self._encode_status = encode_status
        self._owner = owner
        self._worker_id = worker_id
        self._telemetry = telemetry
        self._logger = logger
        self._outages = outages
        self._notes = Notes(pool=pool, ledger=ledger, clock=clock)
        # End records that wait for notes of their key.
        self._ends: dict[tuple[Assignment, bytes], list[Entry]] = {}
        self._barred: dict[Assignment, list[Settling]] = {}  # They wait for a commit.

    def perform(self, entry: Entry, assignment: Assignment, verdict: Verdict, now: float) -> bool:
        """Carry a verdict out. Returns whether the entry stays in its lane."""
        steps: deque[Step] = deque()
        death: Death | None = None
        match verdict:
            case Wait(until, what, message):
                entry.not_before = until
                entry.waits += 1
                self._trouble(what, message, assignment)
                return True
            case WaitInPlace(until, failure):
                entry.not_before = until
                failed = entry.hop.after(failure, attempt=entry.attempt, now_ms=int(now * 1000))
                # It is the same copy still: the fence knows it by that name.
                entry.hop = failed._replace(epoch=entry.hop.epoch, copy=entry.hop.copy)
                self._tell_failure(entry, assignment, failure, "job waits in the last tier", until)
                return True
            case Retry(tier, not_before, failure):
                stays = journey.waits_aside(entry, assignment, verdict, now)
                hop = journey.retry_hop(entry, assignment, verdict, now)
                assignment.fence.add(
                    assignment.fence_key(entry.record.key), tier=tier, copy=hop.copy
                )
                self._tell_failure(entry, assignment, failure, "job will be retried", not_before)
                if stays:
                    entry.hop, entry.not_before = hop, not_before
                    until = self._clock.monotonic() + assignment.aside_seconds
                    entry.lane.aside.add_failed(key_of(entry), entry, until=until)
                    self._tell_settled(entry, assignment, "retried")
                    return False
                steps.append(journey.retry_copy(entry, hop, assignment, tier))
            case DeadLetter(failure) | Bury(failure):
                death = death_of(entry, failure, closes=assignment.holds.enabled)
                letters = self._rules[assignment.partition.topic].topic.dead_letter_topic
                letter = journey.dead_letter(entry, assignment, failure, letters, now)
                if isinstance(verdict, DeadLetter):
                    entry.lane.suspend(entry.turn)
                if not self._ledger.remembers:
                    steps += [letter, Barrier.COMMIT]
                elif isinstance(verdict, DeadLetter):
                    steps += [Note.DYING, letter, Note.DEAD]
                else:
                    steps += [letter, Note.DEAD]
                self._add_status(steps, entry, assignment, verdict, now)
                self._tell_failure(entry, assignment, failure, "job is dead", None)
                self._telemetry.ended(assignment.partition.topic, entry.attempt)
            case Done(outcome):
                if isinstance(outcome, Duplicate) and outcome.conflict:
                    self._tell_conflict(entry, outcome)
                keyed = entry.record.key is not None  # An empty key is one.
                if assignment.holds.enabled and entry.hop.replay > 0 and keyed:
                    steps.append(Note.UNHELD)
                    assignment.holds.tell(key_of(entry))
                self._add_status(steps, entry, assignment, verdict, now)
        self._begin(entry, assignment, steps, death)
        self._tell_settled(entry, assignment, _name(verdict))
        return False

    def park(self, entry: Entry, assignment: Assignment, park: Park) -> None:
        """Append a copy of a record that waits behind its key to a tier."""
        copy = journey.parked_copy(entry, assignment, park)
        key = assignment.fence_key(entry.record.key)
        assignment.fence.add(key, tier=park.tier, copy=copy.hop.copy)
        self._begin(entry, assignment, deque([copy]), None)
        self._tell_settled(entry, assignment, "parked")

    def park_failed(self, entry: Entry, assignment: Assignment) -> None:
        """Append the copy of a failed job that was aside: the fence knows the key by it already."""
        tier = tier_from_main(entry.attempt, assignment.policy)
        copy = journey.retry_copy(entry, entry.hop, assignment, tier)
        self._begin(entry, assignment, deque([copy]), None)

    def hold(self, entry: Entry, assignment: Assignment, now: float) -> None:
        """Append a job that is held behind a dead one of its key to the dead-letter topic."""
        if entry.job is None:  # It was never run.
            entry.job = headers.job_of(entry.record, entry.hop)
        letters = self._rules[assignment.partition.topic].topic.dead_letter_topic
        # The letter comes first: a key's letters land in the order of its jobs, notes may not.
        steps: deque[Step] = deque([journey.held_letter(entry, assignment, letters), Note.HELD])
        assignment.holds.tell(key_of(entry))
        self._add_status(steps, entry, assignment, Hold(), now)
        self._begin(entry, assignment, steps, None)
        self._tell_settled(entry, assignment, "held")

    def pass_by(self, entry: Entry, assignment: Assignment, now: float) -> None:
        """Settle a job that came again and is known to be dead."""
        entry.job = entry.job or headers.job_of(entry.record, entry.hop)
        known = Duplicate(entry.job.job_id, "dead", None, entry.attempt)
        self.perform(entry, assignment, Done(known), now)

    def committed(self, assignments: Iterable[Assignment]) -> None:
        """Go on with what waited for a commit of these, sent after it began to wait."""
        for assignment in assignments:
            for settling in self._barred.pop(assignment, ()):
                self._advance(settling)
                settling.entry.lane.let_go(settling.entry.turn)

    def waits_for_commit(self, assignment: Assignment) -> bool:
        """Whether a job waits for a commit of this assignment to be accepted."""
        return assignment in self._barred

    def end_replay(self, entry: Entry, assignment: Assignment) -> None:
        """Open the key behind a replay, if the ledger agrees. Its turn waits for the answer.

        What the ledger is still being told of held jobs of the key, it must know first.
        """
        entry.lane.suspend(entry.turn)
        key = key_of(entry)
        if assignment.holds.telling(key):
            self._ends.setdefault((assignment, key), []).append(entry)
        else:
            self._begin(entry, assignment, deque([Note.END]), None)

    def delivered(self, deliveries: Sequence[Delivery]) -> list[Assignment]:
        """Go on after answers from the log. Returns the assignments to be given up."""
        failed: list[Assignment] = []
        for delivery in deliveries:
            settling: Settling = delivery.token
            if settling.append is not None:
                _end(settling, delivery)
            if settling.assignment.dropped:
                continue
            if delivery.error is None:
                self._landed(settling, delivery.offset)
                self._advance(settling)
            elif settling.assignment not in failed:
                self._trouble("broker", delivery.error, settling.assignment)
                failed.append(settling.assignment)
        return failed

    def _landed(self, settling: Settling, offset: int) -> None:
        assignment, sent = settling.assignment, settling.sent
        if not isinstance(sent, Copy):
            return  # A status.
        topic, partition = sent.outgoing[:2]
        assert partition is not None
        where = Partition(topic, partition)
        assignment.appended(where, offset)
        if assignment.letters is not None and where == assignment.letters.partition:
            hop = settling.entry.hop
            assignment.letters.note(offset, origin=hop.origin, replay=hop.replay)
        journey.land(sent, offset, assignment, self._clock.now())

    def noted(self, errand: Errand, answer: object) -> list[Assignment]:
        """Go on after a ledger call. Returns the assignment that turned out to be another's."""
        self._notes.done(errand)
        alive = [each for each in errand.settling if not each.assignment.dropped]
        if not alive:
            return []
        if isinstance(answer, OwnershipLost):
            return [alive[0].assignment]
        if isinstance(answer, OutageError):
            self._trouble("sink", answer.message, alive[0].assignment)
            self._notes.again(errand)
            return []
        if isinstance(answer, BaseException):
            raise answer
        assert isinstance(answer, set)
        for each in alive:
            self._go_on(each, errand.note, answer)
        return []

    def _go_on(self, settling: Settling, note: Note, answer: Set[str | bytes]) -> None:
        """Take in what the ledger answered for one entry, and do its next step."""
        entry, assignment, death = settling.entry, settling.assignment, settling.death
        holds = assignment.holds
        match note:
            case Note.DYING if death is not None and death.identity in answer:
                # It took effect meanwhile: there is no death. It comes again, as a duplicate.
                assignment.settling -= 1
                entry.lane.put_back([entry])
                entry.lane.let_go(entry.turn)
                return
            case Note.DYING:
                hop = entry.hop
                holds.close(entry.record.key, Closed(hop.replay, hop.origin.offset))
            case Note.HELD | Note.UNHELD:
                holds.told(key_of(entry))
                if not holds.telling(key_of(entry)):
                    self._begin_ends(assignment, key_of(entry))
            case Note.END if key_of(entry) in answer:
                holds.open(key_of(entry))
                self._logger.info("key released", **_place(entry), replay=entry.hop.replay)
            case Note.END:
                self._logger.warning(
                    "key stays held: a job died in the replay or was held since it began",
                    **_place(entry),
                    replay=entry.hop.replay,
                )
            case Note.DEAD:
                pass
            case _:
                assert_never(note)
        self._advance(settling)
        if note in (Note.DYING, Note.END):
            entry.lane.let_go(entry.turn)

    def forget(self, assignment: Assignment) -> None:
        """Let go of what waits for a dropped assignment."""
        self._barred.pop(assignment, None)
        for waiting in [each for each in self._ends if each[0] is assignment]:
            del self._ends[waiting]

    def flush(self) -> None:
        """Tell the ledger what the turn has gathered."""
        self._notes.flush()

    def _begin_ends(self, assignment: Assignment, key: bytes) -> None:
        for entry in self._ends.pop((assignment, key), ()):
            self._begin(entry, assignment, deque([Note.END]), None)

    def _begin(
        self, entry: Entry, assignment: Assignment, steps: deque[Step], death: Death | None
    ) -> None:
        assignment.settling += 1
        self._advance(Settling(entry, assignment, self._owner(assignment), steps, death))

    def _advance(self, settling: Settling) -> None:
        entry, assignment = settling.entry, settling.assignment
        if not settling.steps:
            assignment.settling -= 1
            entry.lane.settle(entry)
            if entry.lane.tier > 0:
                key = assignment.fence_key(entry.record.key)
                assignment.unfence(key, journey.copy_of(entry.record, entry.hop))
            return
        step = settling.steps.popleft()
        if isinstance(step, Note):
            self._notes.add(step, settling)
        elif isinstance(step, Barrier):
            self._barred.setdefault(assignment, []).append(settling)
        else:
            settling.sent = step
            outgoing = step.outgoing if isinstance(step, Copy) else step
            if entry.span is not None:
                settling.append = entry.span.append(outgoing)
            self._log.send(outgoing, settling)

    def _add_status(
        self,
        steps: deque[Step],
        entry: Entry,
        assignment: Assignment,
        verdict: Done | DeadLetter | Bury | Hold,
        now: float,
    ) -> None:
        rules = self._rules[assignment.partition.topic]
        if rules.publish_status:
            status = journey.status_of(entry, verdict, now=now, worker=self._worker_id)
            topic = rules.topic.status_topic
            value = self._encode_status(topic, status)
            steps.append(Outgoing(topic, None, status.job_id.encode(), value, []))

    def _trouble(self, what: Outage, message: str, assignment: Assignment) -> None:
        self._outages.heard(what, assignment.partition)
        self._logger.warning("waiting for something that is away", what=what, why=message)

    def _tell_conflict(self, entry: Entry, outcome: Duplicate) -> None:
        self._telemetry.idempotency_conflict(job_type_of(entry))
        self._logger.warning(
            "idempotency key used again for another payload; the job is not run",
            job_id=entry.job.job_id if entry.job else str(entry.hop.origin),
            job_type=job_type_of(entry),
            **_place(entry),
            duplicate_of=outcome.of_job_id,
        )

    def _tell_settled(self, entry: Entry, assignment: Assignment, outcome: Outcome) -> None:
        self._telemetry.settled(assignment.partition.topic, job_type_of(entry), outcome)

    def _tell_failure(
        self,
        entry: Entry,
        assignment: Assignment,
        failure: Failure,
        event: str,
        until: float | None,
    ) -> None:
        self._telemetry.attempts_failed(assignment.partition.topic, failure.error_class)
        self._logger.warning(
            event,
            job_id=entry.job.job_id if entry.job else str(entry.hop.origin),
            job_type=job_type_of(entry),
            key_hash=key_hash(entry.record.key),
            **_place(entry),
            attempt=entry.attempt,
            error_class=failure.error_class,
            error=failure.message,
            **({} if failure.raised is None else failure.raised._asdict()),
            **({} if until is None else {"not_before": iso(int(until * 1000))}),
        )


def _place(entry: Entry) -> dict[str, Any]:
    record, ids = entry.record, {} if entry.span is None else entry.span.ids
    return {"topic": record.topic, "partition": record.partition, "offset": record.offset, **ids}


def _end(settling: Settling, delivery: Delivery) -> None:
    """End the span of an append."""
    append, settling.append = settling.append, None
    assert append is not None
    if delivery.error is None:
        sent = settling.sent
        number = sent.outgoing.partition if isinstance(sent, Copy) else None
        append.landed(number, delivery.offset)
    else:
        append.failed("BrokerUnavailable")


def _name(verdict: Verdict) -> Outcome:
    if isinstance(verdict, Done):
        return "repeated" if isinstance(verdict.outcome, Duplicate) else "done"
    return "retried" if isinstance(verdict, Retry) else "dead"
