"""The watchdog: tells which partitions have work and make no progress, and why.

Once a second it looks at every partition that is ours (core/progress.py has the rules). One that
was held up for `stall_seconds` is *stalled*: its state is logged once, the health check names it,
and when it moves again that is logged too. A run within its timeout is no stall, however long. What
the engine has found away is told as an outage: the partition is stalled, but no restart mends it.

Whether records on the log do not arrive is asked of the log itself, since a client that is stuck
does not know: one question a second at most, of the partition that was quiet for longest.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from processor.core.assignment import Assignment
from processor.core.progress import Cause, Held, Progress, held_up
from processor.engine.gauges import Gauges
from processor.engine.outages import Outages
from processor.engine.ports import Clock, Log
from processor.engine.slices import Pool, Running, Slice
from processor.engine.takeover import Rules
from processor.engine.telemetry import Outage, Telemetry
from processor.errors import OutageError
from processor.model import Partition

LOOK_SECONDS = 1.0
GAP_SECONDS_MAX = 60.0
QUIET_SECONDS = 60.0  # Of a partition that was quiet for so long the log is asked, so often.
ASK_SECONDS_MAX = 2.0  # The loop waits for the answer.

# What a cause may come from without being a fault of this worker.
_OUTAGES: dict[Cause, tuple[Outage, ...]] = {
    Cause.SETTLING: ("broker", "sink"),
    Cause.WAITING: ("sink", "registry", "store", "keys"),
    Cause.READING: ("broker",),
    Cause.TAKING: ("broker", "sink"),
}


@dataclass(frozen=True, slots=True)
class Stall:
    """A main partition that is ours, has work, and has settled nothing for so long."""

    partition: Partition
    seconds: float
    why: str
    away: Outage | None  # What is away: then it is no reason to restart.


@dataclass(slots=True)
class _Tail:
    """What is known of the end of one partition, main or satellite."""

    next_offset: int
    quiet_since: float
    asked_at: float
    end: int | None = None  # As it was told, where more is there than has arrived.
    gap_until: int = 0  # Offsets below it that have not arrived hold no record.


@dataclass(slots=True)
class _Owned:
    """What is remembered of a main partition for as long as the group gives it to us."""

    progress: Progress
    assignment: Assignment | None = None
    given_up_at: float = 0.0
    stuck_at: dict[Partition, int] = field(default_factory=dict)  # First unsettled offsets.
    stalled: bool = False
    closer_at: float = 0.0  # When what seems stalled is to be looked at closely (again).


class Watch:
    """Looks after the partitions of one worker."""

    def __init__(
        self,
        *,
        log: Log,
        pool: Pool,
        rules: Mapping[str, Rules],
        outages: Outages,
        closed: Container[str],
        clock: Clock,
        telemetry: Telemetry,
        logger: Any,
        stall_seconds: float,
        timeout_grace_seconds: float,
    ) -> None:
        self._log = log
        self._pool = pool
        self._rules = rules
        self._outages = outages
        self._clock = clock
        self._telemetry = telemetry
        self._logger = logger
        self._stall_seconds = stall_seconds
        self._timeout_grace_seconds = timeout_grace_seconds
        self._owned: dict[Partition, _Owned] = {}
        self._tails: dict[Partition, _Tail] = {}
        self._gauges = Gauges(
            log=log,
            rules=rules,
            outages=outages,
            closed=closed,
            clock=clock,
            telemetry=telemetry,
        )
        self._look_at = 0.0
        self.stalls: tuple[Stall, ...] = ()  # Replaced whole: other threads read it.

    def look(
        self,
        assignments: Sequence[Assignment],
        untaken: Collection[Partition],
        slices: Collection[Slice],
    ) -> None:
        """Look at everything that is ours: taken over, or still to be. Once a second."""
        now = self._clock.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_SECONDS
        ours = {each.partition: each for each in assignments}
        self._forget(now, ours, untaken)
        self._ask(now, assignments)
        within = {each for each in slices if self._within_time(each, now)}
        goes_on = {kind: any(each.is_async is kind for each in within) for kind in (False, True)}
        # More coroutines are taken than may run: one that has not begun waits for room.
        waits = {each for each in slices if each.is_async and not each.begun and goes_on[True]}
        overdue = {each.assignment.partition for each in slices if each not in within | waits}
        excused = {
            False: goes_on[False] and self._pool.free <= 0,
            True: goes_on[True] and self._pool.free_async <= 0,
        }
        for partition in [*ours, *untaken]:
            owned, assignment = self._owned[partition], ours.get(partition)
            held = []
            if assignment is not None:
                held = held_up(
                    assignment,
                    now=self._clock.now(),
                    overdue=partition in overdue,
                    pool_excused=excused[assignment.is_async],
                    away=self._away(Cause.WAITING, partition) is not None,
                    unread=self._unread(assignment),
                )
            if assignment is None or _goes_in_circles(owned, assignment, now):
                held.append(Held(Cause.TAKING, partition))
            settled = 0 if assignment is None else assignment.settled_records
            owned.progress.look(now, settled=settled, held=held)
        self._tell(slices, now)
        self._gauges.look(assignments, slices)

    def tell_commit_age(self, assignments: Sequence[Assignment]) -> None:
        """Tell how old what waits for a commit is, before one that the loop may hang in, and after.

        `look` tells it, too, but may come at a time at which nothing waits, each time.
        """
        self._gauges.tell_commit_age(assignments)

    def _forget(
        self, now: float, ours: Mapping[Partition, Assignment], untaken: Collection[Partition]
    ) -> None:
        """Begin with what is new, and drop what is not ours any more."""
        for partition in [each for each in self._owned if each not in ours and each not in untaken]:
            del self._owned[partition]
        gap = min(GAP_SECONDS_MAX, self._stall_seconds / 2)
        for partition in [*ours, *untaken]:
            owned = self._owned.setdefault(partition, _Owned(Progress(gap_seconds_max=gap)))
            assignment = ours.get(partition)
            if assignment is not owned.assignment:
                if owned.assignment is not None:
                    owned.given_up_at, owned.stuck_at = now, _unsettled(owned.assignment)
                owned.assignment = assignment
                owned.progress.begin()
        mine = {each for assignment in ours.values() for each in assignment.partitions}
        for partition in [each for each in self._tails if each not in mine]:
            del self._tails[partition]

    # Reading: does the log hold what has not arrived?

    def _ask(self, now: float, assignments: Sequence[Assignment]) -> None:
        """Note what has arrived, and ask for the end of one partition that is quiet."""
        quiet_seconds = min(QUIET_SECONDS, self._stall_seconds / 2)
        asked: tuple[float, Partition, Assignment] | None = None
        for assignment in assignments:
            for partition, lane in zip(assignment.partitions, assignment.lanes, strict=True):
                tail = self._tails.get(partition)
                at = lane.watermark.next_offset
                if tail is None or tail.next_offset != at or partition in assignment.paused:
                    gap_until = 0 if tail is None else tail.gap_until
                    self._tails[partition] = _Tail(at, now, now, gap_until=gap_until)
                elif now >= max(tail.quiet_since, tail.asked_at) + quiet_seconds and (
                    asked is None or tail.asked_at < asked[0]
                ):
                    asked = tail.asked_at, partition, assignment
        if asked is None:
            return
        _, partition, assignment = asked
        tail = self._tails[partition]
        if self._outages.lately(assignment.partition, ("broker",), seconds=quiet_seconds) is None:
            end = self._end_of(partition, assignment)
            tail.asked_at = now
            if end is not None:
                tail.end = end if end > max(tail.next_offset, tail.gap_until) else None

    def _end_of(self, partition: Partition, assignment: Assignment) -> int | None:
        try:
            return self._log.bounds([partition], ASK_SECONDS_MAX)[partition][1]
        except OutageError:
            self._outages.heard("broker", assignment.partition)
            return None

    def _unread(self, assignment: Assignment) -> list[Partition]:
        return [each for each in assignment.partitions if self._tails[each].end is not None]

    def _is_gap(self, partition: Partition, assignment: Assignment) -> bool:
        """Whether what has not arrived are no records: transaction markers, compacted offsets."""
        tail = self._tails[partition]
        assert tail.end is not None
        try:
            scan = self._log.scan({partition: (tail.next_offset, tail.end)})
            if next(iter(scan), None) is not None:
                return False
        except OutageError:
            self._outages.heard("broker", assignment.partition)
            return False
        tail.gap_until, tail.end = tail.end, None
        return True

    # Stalls: told once when they begin, and once when they end.

    def _tell(self, slices: Collection[Slice], now: float) -> None:
        stalls = []
        seconds_max = dict.fromkeys(self._rules, 0.0)
        for partition, owned in self._owned.items():
            held, seconds = owned.progress.longest or (None, 0.0)
            seconds_max[partition.topic] = max(seconds_max[partition.topic], seconds)
            if held is None or seconds < self._stall_seconds:
                if owned.stalled:
                    self._logger.info("partition moves again", partition=str(partition))
                owned.stalled = False
                continue
            if now >= owned.closer_at:
                owned.closer_at = now + min(QUIET_SECONDS, self._stall_seconds / 2)
                if not self._is_stall(held, owned):
                    continue
            away = self._away(held.cause, partition)
            stalls.append(Stall(partition, seconds, _why(held, partition), away))
            if not owned.stalled:
                owned.stalled = True
                self._log_state(stalls[-1], owned.assignment, slices, now)
        self.stalls = tuple(stalls)
        for topic, seconds in seconds_max.items():
            self._telemetry.partition_stalled(topic, seconds)

    def _is_stall(self, held: Held, owned: _Owned) -> bool:
        """Look closer before it is told: it may be an outage, or no more than a gap."""
        assignment = owned.assignment
        if assignment is None:
            return True
        if held.cause is Cause.READING:
            return not self._is_gap(held.partition, assignment)
        if held.cause is Cause.SETTLING:
            # Whoever waits for an acknowledgement hears nothing of a broker that is away.
            letters = self._rules[assignment.partition.topic].topic.dead_letter_topic
            for each in (*assignment.partitions, Partition(letters, assignment.partition.number)):
                if self._end_of(each, assignment) is None:
                    break
        return True

    def _away(self, cause: Cause, partition: Partition) -> Outage | None:
        return self._outages.lately(partition, _OUTAGES.get(cause, ()))

    def _within_time(self, work: Slice, now: float) -> bool:
        running = work.running
        # The loop gives a run up when its grace is over; it comes round within the look.
        grace = self._timeout_grace_seconds + LOOK_SECONDS
        return running is not None and now < running.timeout_at + grace

    def _log_state(
        self, stall: Stall, assignment: Assignment | None, slices: Collection[Slice], now: float
    ) -> None:
        more: dict[str, Any] = {}
        is_async = assignment is not None and assignment.is_async
        if assignment is not None:
            runs = [each.running for each in slices if each.assignment is assignment]
            oldest = min(filter(None, runs), key=lambda run: run.started, default=None)
            more = {
                "epoch": assignment.epoch,
                "running": assignment.running,
                "settling": assignment.settling,
                "fence": assignment.fence.held,
                "lanes": [
                    f"{partition}: {lane.watermark.unsettled} unsettled, {lane.waiting} waiting, "
                    f"watermark {lane.watermark.committable}, next {lane.watermark.next_offset}"
                    + (", paused" if partition in assignment.paused else "")
                    for partition, lane in zip(assignment.partitions, assignment.lanes, strict=True)
                ],
                "oldest_run": None if oldest is None else _named(oldest),
                "oldest_run_seconds": None if oldest is None else round(now - oldest.started, 1),
            }
        self._logger.error(
            "partition stalled",
            partition=str(stall.partition),
            seconds=round(stall.seconds, 1),
            why=stall.why,
            away=stall.away,
            pool_free=self._pool.free_async if is_async else self._pool.free,
            **more,
        )


def _unsettled(assignment: Assignment) -> dict[Partition, int]:
    lanes = zip(assignment.partitions, assignment.lanes, strict=True)
    return {each: lane.watermark.committable for each, lane in lanes if not lane.idle}


def _goes_in_circles(owned: _Owned, assignment: Assignment, now: float) -> bool:
    """Whether it was given up a moment ago and what was unsettled then still is."""
    if now >= owned.given_up_at + QUIET_SECONDS:
        return False
    return any(assignment.committed[each] <= at for each, at in owned.stuck_at.items())


def _named(running: Running) -> str:
    """A run by its job's id, or by its offset where nobody has asked for the job's id yet."""
    return running.contexts[0].job_id if running.contexts else f"offset {running.offset}"


def _why(held: Held, main: Partition) -> str:
    where = "" if held.partition == main else f" ({held.partition})"
    return f"{held.cause}{where}"
