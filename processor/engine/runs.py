"""Slices on their way: from the lanes to the pool, and their reports from there to settlement.

Admit takes entries from the lanes and asks the fence. Collect has reports judged (journey.py) and
carried out (settlement.py). Police gives up runs that outlive their timeout. A turn is busy from
when it is taken until its slice has ended, was given up, or could not start.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Sequence
from typing import Any

from processor.contracts import headers
from processor.core.assignment import Assignment
from processor.core.lane import WHOLE, Entry, Lane, Ordering, Turn
from processor.core.stretch import Stretch
from processor.engine import journey
from processor.engine.breakers import Breakers
from processor.engine.context import JobCancelled
from processor.engine.journey import EndReplay, Hold, KnownDead, Park, Run
from processor.engine.notes import job_type_of
from processor.engine.outcomes import past_deadline, timed_out, too_late
from processor.engine.pace import SLOW_SECONDS, TOGETHER_SECONDS, Pace
from processor.engine.parking import Parking
from processor.engine.ports import Clock, Owner
from processor.engine.settlement import Settlement
from processor.engine.slices import Done, Failed, Outcome, Pool, Running, Slice, Succeeded
from processor.engine.telemetry import Telemetry
from processor.errors import JobTimeout


class _Tally:
    """Jobs that succeeded, of however many slices: told at once, for a slice may hold one job."""

    __slots__ = ("attempts", "seconds")

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, str], list[float]] = {}  # By topic and job type.
        self.attempts: Counter[tuple[str, int]] = Counter()  # Jobs by topic and their attempts.


class Runs:
    """All slices that a pool works on, of all assignments."""

    def __init__(
        self,
        *,
        pool: Pool,
        settlement: Settlement,
        owner: Callable[[Assignment], Owner],
        clock: Clock,
        jitter: Callable[[], float],
        telemetry: Telemetry,
        logger: Any,
        slice_records_max: int,
        timeout_grace_seconds: float,
    ) -> None:
        self._pool = pool
        self._settlement = settlement
        self._owner = owner
        self._clock = clock
        self._jitter = jitter
        self._telemetry = telemetry
        self._logger = logger
        self._timeout_grace_seconds = timeout_grace_seconds
        self._slices: set[Slice] = set()
        self.pace = Pace(clock, slice_records_max)
        self._breakers = Breakers(clock, jitter, logger)
        self._parking = Parking(settlement, clock)

    @property
    def any(self) -> bool:
        """Whether a slice is with the pool."""
        return bool(self._slices)

    @property
    def slices(self) -> Collection[Slice]:
        """What the pool works on now."""
        return self._slices

    @property
    def closed(self) -> Container[str]:
        """The main topics that are closed since an outage, now and whenever it is asked."""
        return self._breakers

    def admit(self, assignments: Iterable[Assignment]) -> bool:
        """Start what may run. Returns whether the pool was used up."""
        free = {False: self._pool.free, True: self._pool.free_async}
        now = self._clock.now()
        short = False
        closed: dict[str, list[Assignment]] = {}
        for assignment in assignments:
            kind = assignment.is_async
            if assignment.draining:
                continue
            closed_now = assignment.partition.topic in self._breakers
            self._parking.attend(assignment, now, may_run=free[kind] > 0 and not closed_now)
            if closed_now:
                closed.setdefault(assignment.partition.topic, []).append(assignment)
                continue
            for lane in reversed(assignment.lanes):  # Older work first: the deepest tier.
                while free[kind] > 0 and lane.may_run(now):
                    taken = self.pace.take(assignment, lane, now)
                    if not taken:
                        break
                    free[kind] -= self._admit_some(assignment, lane, taken, now)
            short = short or free[kind] <= 0
        for topic, some in closed.items():
            self._probe(topic, some, free, now)
        return short

    def _probe(
        self, topic: str, assignments: Sequence[Assignment], free: dict[bool, int], now: float
    ) -> None:
        """Start one job of a topic that an outage has closed, if it is time to."""
        for assignment, lane in self._breakers.lanes(topic, assignments):
            kind = assignment.is_async
            while free[kind] > 0 and (taken := lane.take(now=now, count_max=1)):
                if started := self._admit_some(assignment, lane, taken, now):
                    free[kind] -= started
                    self._breakers.begin(topic, lane)
                    return

    def collect(self) -> tuple[bool, list[Assignment]]:
        """Judge what slices report: whether any did, and whose partition is another's now."""
        lost: list[Assignment] = []
        done = _Tally()
        reports = self._pool.reports()
        for report in reports:
            work = report.slice
            assignment: Assignment = work.assignment
            if work not in self._slices:
                continue  # Abandoned: its entries were judged when it was.
            if report.finished:
                self._slices.remove(work)
                assignment.running -= 1
            if assignment.dropped or assignment in lost:
                late = len(report.outcomes) + sum(len(each.offsets) for each in report.done)
                self._telemetry.late_results(assignment.partition.topic, late)
                continue
            if report.lost:
                lost.append(assignment)
                continue
            self._breakers.hear(assignment.partition.topic, report)
            self._settle_done(work, report.done, done)
            waiting = self._judge_all(work, assignment, report.outcomes) if report.outcomes else []
            if report.finished:
                self._end(work, waiting, unroll=report.unroll)
        self._tell(done)
        return bool(reports), lost

    def police(self) -> None:
        """Tell runs that outlive their timeout to stop; give those up that do not listen."""
        now = self._clock.monotonic()
        for work in list(self._slices):
            if work.turn == WHOLE and now >= work.first_run_at + TOGETHER_SECONDS:
                work.stop = True
            running = work.running
            if running is None:
                continue
            if now >= running.started + SLOW_SECONDS:
                self.pace.saw_slow(work.assignment.partition.topic)
            offset, timeout_at = running.offset, running.timeout_at  # In this order.
            if offset < 0 or now < timeout_at:
                continue  # Below 0: it is between two runs.
            running.tell(JobTimeout)
            late = now >= timeout_at + self._timeout_grace_seconds
            if late and work.abandon(running, offset):
                self._abandon(work, running, now)

    def stop(self, assignments: Sequence[Assignment]) -> None:
        """Let slices of these end after the run in progress."""
        for work in self._slices:
            if work.assignment in assignments:
                work.stop = True

    def drain(self, assignments: Sequence[Assignment]) -> None:
        """Begin to end the work of these: what is set aside would keep the watermark behind it."""
        self.stop(assignments)
        for assignment in assignments:
            self._parking.park_all(assignment, self._clock.now())

    def cancel(self, assignment: Assignment) -> None:
        """Ask the runs of a dropped assignment to end: nobody waits for them."""
        self.pace.forget(assignment.lanes[0])
        self.stop([assignment])
        for work in self._slices:
            running = work.running
            if work.assignment is assignment and running is not None:
                running.tell(JobCancelled)

    def _admit_some(
        self, assignment: Assignment, lane: Lane, taken: list[Entry] | Stretch, now: float
    ) -> int:
        """Admit what was taken. Returns how many slices started."""
        if isinstance(taken, Stretch):
            return self._admit_stretch(assignment, lane, taken, now)
        return self._admit_taken(assignment, lane, taken[0].turn, taken, now)

    def _admit_stretch(
        self, assignment: Assignment, lane: Lane, stretch: Stretch, now: float
    ) -> int:
        """Start a slice with fresh records, and park those whose key waits in a tier."""
        turn = None if lane.ordering is Ordering.PARTITION else WHOLE
        if journey.must_be_read(stretch, assignment):
            return self._admit_taken(assignment, lane, turn, lane.entries_of(stretch), now)
        stretch = self._parking.sift(stretch, assignment, now)
        if not stretch.offsets:
            lane.release(turn)
            return 0
        due = stretch.messages[0].timestamp()[1] / 1000
        self._telemetry.waited(assignment.partition.topic, now - due)
        self._start(assignment, lane, turn, stretch)
        return 1

    def _admit_taken(
        self, assignment: Assignment, lane: Lane, turn: Turn, taken: list[Entry], now: float
    ) -> int:
        """Start a slice with what may run and park the rest. Returns how many slices started."""
        runs: list[Entry] = []
        run_keys: set[bytes | None] = set()  # What the fence knows them by.
        for position, entry in enumerate(taken):
            verdict = journey.admit(entry, assignment, now)
            key = assignment.fence_key(entry.record.key)
            goes = isinstance(verdict, Run) and entry.given_up is None
            if not goes and key is not None and key in run_keys:
                # One that runs is ahead of it in its key: parked now, it would be ahead of that
                # one if it fails.
                entry.lane.put_back(taken[position:])
                break
            if isinstance(verdict, EndReplay):
                self._settlement.end_replay(entry, assignment)
                entry.lane.put_back(taken[position + 1 :])
                break
            if isinstance(verdict, Park):
                self._parking.park(entry, assignment, verdict, now)
            elif isinstance(verdict, Hold):
                self._settlement.hold(entry, assignment, now)
            elif isinstance(verdict, KnownDead):
                self._settlement.pass_by(entry, assignment, now)
            elif entry.given_up is not None:
                outcome, entry.given_up = Failed(entry.given_up, 0.0), None
                stays = self._judge(entry, outcome, assignment)
                entry.lane.put_back(taken[position if stays else position + 1 :])
                break
            else:
                runs.append(entry)
                run_keys.add(key)
        if not runs:
            lane.release(turn)
            return 0
        due = max(runs[0].not_before, runs[0].record.timestamp_ms / 1000)
        self._telemetry.waited(assignment.partition.topic, now - due)
        self._start(assignment, lane, turn, runs)
        return 1

    def _start(
        self, assignment: Assignment, lane: Lane, turn: Turn, taken: list[Entry] | Stretch
    ) -> None:
        work = Slice(
            self._owner(assignment),
            taken,
            assignment,
            lane=lane,
            turn=turn,
            passes_failures=assignment.passes_failures and lane.tier == 0,
        )
        self._slices.add(work)
        assignment.running += 1
        self._pool.submit(work)

    def _settle_done(self, work: Slice, done: Sequence[Done], tally: _Tally) -> None:
        """Settle jobs of which no more is to be known than that they succeeded."""
        topic = work.assignment.partition.topic
        for each in done:
            if not each.offsets:
                continue  # The first of its kind failed, or was not plain.
            again = work.lane.settle_all(each.offsets)
            if len(each.offsets) < len(work):
                work.reported.update(each.offsets)
            else:
                work.all_done = True
            tally.seconds.setdefault((topic, each.job_type), []).extend(each.seconds)
            tally.attempts[topic, 1] += len(each.offsets) - len(again)
            for entry in again:
                tally.attempts[topic, entry.attempt + 1] += 1

    def _tell(self, tally: _Tally) -> None:
        for (topic, job_type), seconds in tally.seconds.items():
            self._telemetry.settled(topic, job_type, "done", len(seconds))
            self._telemetry.ran(topic, job_type, seconds)
            self.pace.learn(topic, seconds)
        for (topic, attempts), count in tally.attempts.items():
            self._telemetry.ended(topic, attempts, count)

    def _judge_all(
        self, work: Slice, assignment: Assignment, outcomes: Sequence[tuple[Entry, Outcome]]
    ) -> list[Entry]:
        """Judge what a slice reports. Returns the entries that stay in their lane."""
        waiting = []
        for entry, outcome in outcomes:
            work.reported.add(entry.record.offset)
            if isinstance(outcome, Succeeded | Failed):
                entry.attempt += 1
            if self._judge(entry, outcome, assignment):
                waiting.append(entry)
        topic = assignment.partition.topic
        runs = [(e, o.seconds) for e, o in outcomes if isinstance(o, Succeeded | Failed)]
        for job_type in {job_type_of(entry) for entry, _ in runs}:
            self._telemetry.ran(topic, job_type, [s for e, s in runs if job_type_of(e) == job_type])
        succeeded = Counter(e.attempt for e, o in outcomes if isinstance(o, Succeeded))
        for attempts, count in succeeded.items():
            self._telemetry.ended(topic, attempts, count)
        if runs:
            self.pace.learn(topic, [seconds for _, seconds in runs])
        return waiting

    def _judge(self, entry: Entry, outcome: Outcome, assignment: Assignment) -> bool:
        """Judge one entry. Returns whether it stays in its lane."""
        now = self._clock.now()
        verdict = journey.settle(entry, outcome, assignment, now=now, jitter=self._jitter())
        return self._settlement.perform(entry, assignment, verdict, now)

    def _abandon(self, work: Slice, running: Running, now: float) -> None:
        """A run that ignores its timeout keeps its thread and loses its job."""
        self._pool.replace(work)
        self._slices.remove(work)
        assignment: Assignment = work.assignment
        assignment.running -= 1
        done = _Tally()
        self._settle_done(work, work.ran, done)
        self._tell(done)
        left = work.left()
        for each in left:
            if each.span is not None:
                each.span.end("abandoned", JobTimeout.__name__)
        at = next(at for at, each in enumerate(left) if each.record.offset == running.offset)
        entry, failure = left[at], timed_out(running, now)
        entry.job = entry.job or headers.job_of(entry.record, entry.hop)
        if past_deadline(entry.job, self._clock.now()):
            failure = too_late(failure)
        self._logger.error(
            "job abandoned: it ignores its timeout",
            job_id=entry.job.job_id,
            job_type=job_type_of(entry),
            topic=entry.record.topic,
            partition=entry.record.partition,
            offset=entry.record.offset,
            why=failure.message,
        )
        if assignment.dropped:
            return
        unwritten, rest = left[:at], left[at + 1 :]
        if unwritten:
            # Runs before it that were not written down come again, and settle first: parked now,
            # it would hold them behind itself.
            entry.attempt += 1
            entry.given_up = failure
            work.lane.put_back(left)
            work.lane.release(work.turn)
            return
        outcome = Failed(failure, now - running.started)
        waiting = self._judge_all(work, assignment, [(entry, outcome)])
        work.lane.put_back([*waiting, *rest])
        work.lane.release(work.turn)

    @staticmethod
    def _end(work: Slice, waiting: Sequence[Entry], *, unroll: bool) -> None:
        """Return what a slice has not run to the head of its turn, and end the turn."""
        lane = work.lane
        if work.stretch is None or waiting or unroll:
            entries = [*waiting, *([] if work.all_done else work.left())]
            lane.put_back(sorted(entries, key=lambda each: each.record.offset))
        elif not work.all_done:
            lane.give_back(work.stretch.without(work.reported))
        lane.release(work.turn)
