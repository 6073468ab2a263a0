"""Slices on their way: from the lanes to the pool, and their reports from there to settlement.

Admit takes entries from the lanes and asks the fence. Collect has reports judged (journey.py) and
carried out (settlement.py). Police gives up runs that outlive their timeout. A turn is busy from
when it is taken until its slice has ended, was given up, or could not start.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from processor.core.assignment import Assignment
from processor.core.lane import Entry
from processor.engine import journey
from processor.engine.context import JobCancelled
from processor.engine.journey import Admission, EndReplay, Hold, KnownDead, Park, Run
from processor.engine.notes import job_type_of
from processor.engine.outcomes import timed_out
from processor.engine.ports import Clock, Owner
from processor.engine.settlement import Settlement
from processor.engine.slices import Failed, Outcome, Pool, Running, Slice, Succeeded
from processor.engine.telemetry import Telemetry
from processor.errors import JobTimeout


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
        self._slice_records_max = slice_records_max
        self._timeout_grace_seconds = timeout_grace_seconds
        self._slices: set[Slice] = set()

    @property
    def any(self) -> bool:
        """Whether a slice is with the pool."""
        return bool(self._slices)

    @property
    def slices(self) -> Collection[Slice]:
        """What the pool works on now."""
        return self._slices

    def admit(self, assignments: Iterable[Assignment]) -> bool:
        """Start what may run. Returns whether the pool was used up."""
        free = self._pool.free
        if free <= 0:
            return False
        now = self._clock.now()
        for assignment in assignments:
            if assignment.draining:
                continue
            for lane in reversed(assignment.lanes):  # Older work first: the deepest tier.
                while free > 0:
                    taken = lane.take(now=now, count_max=self._slice_records_max)
                    if not taken:
                        break
                    free -= self._admit_taken(assignment, taken, now)
            if free <= 0:
                return True
        return False

    def collect(self) -> tuple[bool, list[Assignment]]:
        """Judge what slices report: whether any did, and whose partition is another's now."""
        lost: list[Assignment] = []
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
                self._telemetry.late_results(assignment.partition.topic, len(report.outcomes))
                continue
            if report.lost:
                lost.append(assignment)
                continue
            waiting = self._judge_all(work, assignment, report.outcomes)
            if report.finished:
                # What was not run goes back to the head of its turn, and the turn goes on.
                self._put_back([*waiting, *work.entries[work.reported :]], work)
        return bool(reports), lost

    def police(self) -> None:
        """Tell runs that outlive their timeout to stop; give those up that do not listen."""
        now = self._clock.monotonic()
        for work in list(self._slices):
            running = work.running
            if running is None or now < running.timeout_at:
                continue
            running.tell(JobTimeout)
            if now >= running.timeout_at + self._timeout_grace_seconds and work.abandon(running):
                self._abandon(work, running, now)

    def stop(self, assignments: Sequence[Assignment]) -> None:
        """Let slices of these end after the run in progress."""
        for work in self._slices:
            if work.assignment in assignments:
                work.stop.set()

    def cancel(self, assignment: Assignment) -> None:
        """Ask the runs of a dropped assignment to end: nobody waits for them."""
        self.stop([assignment])
        for work in self._slices:
            running = work.running
            if work.assignment is assignment and running is not None:
                running.tell(JobCancelled)

    def _admit_taken(self, assignment: Assignment, taken: list[Entry], now: float) -> int:
        """Start a slice with what may run and park the rest. Returns how many slices started."""
        runs: list[Entry] = []
        for position, entry in enumerate(taken):
            verdict = journey.admit(entry, assignment, now)
            if _behind(runs, entry, verdict, assignment):
                entry.lane.put_back(taken[position:])
                break
            if isinstance(verdict, EndReplay):
                self._settlement.end_replay(entry, assignment)
                entry.lane.put_back(taken[position + 1 :])
                break
            if isinstance(verdict, Park):
                self._settlement.park(entry, assignment, verdict)
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
        if not runs:
            taken[0].lane.release(taken[0].turn)
            return 0
        due = max(runs[0].not_before, runs[0].record.timestamp_ms / 1000)
        self._telemetry.waited(assignment.partition.topic, now - due)
        work = Slice(self._owner(assignment), runs, assignment)
        self._slices.add(work)
        assignment.running += 1
        self._pool.submit(work)
        return 1

    def _judge_all(
        self, work: Slice, assignment: Assignment, outcomes: Sequence[tuple[Entry, Outcome]]
    ) -> list[Entry]:
        """Judge what a slice reports. Returns the entries that stay in their lane."""
        work.reported += len(outcomes)
        waiting = []
        for entry, outcome in outcomes:
            if isinstance(outcome, Succeeded | Failed):
                entry.attempt += 1
            if self._judge(entry, outcome, assignment):
                waiting.append(entry)
        topic = assignment.partition.topic
        runs = [(e, o.seconds) for e, o in outcomes if isinstance(o, Succeeded | Failed)]
        for job_type in {job_type_of(entry) for entry, _ in runs}:
            self._telemetry.ran(topic, job_type, [s for e, s in runs if job_type_of(e) == job_type])
        return waiting

    def _judge(self, entry: Entry, outcome: Outcome, assignment: Assignment) -> bool:
        """Judge one entry. Returns whether it stays in its lane."""
        now = self._clock.now()
        verdict = journey.settle(entry, outcome, assignment, now=now, jitter=self._jitter())
        return self._settlement.perform(entry, assignment, verdict, now)

    def _abandon(self, work: Slice, running: Running, now: float) -> None:
        """A run that ignores its timeout keeps its thread and loses its job."""
        self._pool.replace()
        self._slices.remove(work)
        assignment: Assignment = work.assignment
        assignment.running -= 1
        entry, failure = running.entry, timed_out(running, now)
        self._logger.error(
            "job abandoned: it ignores its timeout",
            job_id=running.context.job_id,
            job_type=running.context.job_type,
            topic=entry.record.topic,
            partition=entry.record.partition,
            offset=entry.record.offset,
            why=failure.message,
        )
        if assignment.dropped:
            return
        at = list(work.entries).index(entry)
        unwritten, rest = work.entries[work.reported : at], work.entries[at + 1 :]
        if unwritten:
            # Runs before it that were not written down come again, and settle first: parked now,
            # it would hold them behind itself.
            entry.attempt += 1
            entry.given_up = failure
            self._put_back([*unwritten, entry, *rest], work)
            return
        outcome = Failed(failure, now - running.started)
        waiting = self._judge_all(work, assignment, [(entry, outcome)])
        self._put_back([*waiting, *rest], work)

    @staticmethod
    def _put_back(entries: Sequence[Entry], work: Slice) -> None:
        """Return entries of a slice that has ended, and end its turn."""
        lane, turn = work.entries[0].lane, work.entries[0].turn
        lane.put_back(entries)
        lane.release(turn)


def _behind(
    runs: Sequence[Entry], entry: Entry, verdict: Admission, assignment: Assignment
) -> bool:
    """Whether an entry that is not to run is not at the head of its key: one that runs is ahead.

    Parked now, it would be ahead of a run that fails.
    """
    if isinstance(verdict, Run) and entry.given_up is None:
        return False
    key = assignment.fence_key(entry.record.key)
    return any(assignment.fence_key(each.record.key) == key for each in runs)
