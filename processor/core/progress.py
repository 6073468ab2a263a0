"""Whether a partition makes progress, and what it is held up by when it does not.

Rule 1: progress is a settled record. Nothing is *held up* where nothing is due: no record, or only
        records that sleep until their time, and those of their turns behind them.
Rule 2: a run within its timeout and grace holds nothing up, and neither does a pool without room
        while one of its runs, of whatever partition, is within its time. Threads and coroutines are
        a pool each; what waits in one for its turn to begin is a job that is not started.
Rule 3: where something that jobs need is away, they wait for that, and for nothing else.
Rule 4: everything else that is due and does not move is held up by a cause (`Cause`), and each
        cause has a stopwatch. It is set back when the cause is gone, and by progress: but not where
        what is settled does not show that the cause is gone (`_BESIDE`).
Rule 5: a long silence between two looks counts for `gap_seconds_max` only: a process that was
        stopped, or a loop that hung, is not the partition's fault and has a check of its own.

Masked, and told only when the lane is full behind it: one turn that does not move beside others of
its partition that do.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from processor.core.assignment import Assignment
from processor.model import Partition


class Cause(StrEnum):
    """What holds records up, as it is told."""

    STARTING = "jobs that are due are not started"
    RUNNING = "a slice with the pool does not report"
    SETTLING = "appends or ledger notes are not answered"
    WAITING = "what jobs need is away"
    ORPHANED = "records are in no queue and no run"
    PAUSED = "it is paused, and nothing is left to wait for"
    READING = "records on the log do not arrive"
    TAKING = "it is ours and is not taken over, or given up again and again"


# Records of other partitions, or repeated ones, may be settled while these last.
_BESIDE = {Cause.READING, Cause.TAKING}


class Held(NamedTuple):
    """A cause, and the partition (main or satellite) whose records it holds up."""

    cause: Cause
    partition: Partition


def held_up(
    assignment: Assignment,
    *,
    now: float,
    overdue: bool,
    pool_excused: bool,
    away: bool,
    unread: Iterable[Partition] = (),
) -> list[Held]:
    """Name what holds an assignment up at this moment (rules 1 to 3). `now` as in not-before.

    `overdue`: a slice of it is with the pool, has room there, and no run of it is within its time.
    `pool_excused`: there is no room, and a run is within its time. `away`: something that its jobs
    need was found away lately. `unread`: its partitions known to have more than has arrived.
    """
    main = assignment.partition
    held = [Held(Cause.READING, each) for each in unread]
    lanes = list(zip(assignment.partitions, assignment.lanes, strict=True))
    idle = all(lane.idle for _, lane in lanes)
    if away and not idle:
        held.append(Held(Cause.WAITING, main))
    elif overdue:
        held.append(Held(Cause.RUNNING, main))
    if assignment.settling:
        held.append(Held(Cause.SETTLING, main))
    if main in assignment.paused and idle:
        held.append(Held(Cause.PAUSED, main))
    for partition, lane in lanes:
        wakes_at = lane.wakes_at
        if lane.runnable or (wakes_at is not None and wakes_at <= now):
            if not pool_excused and not away:
                held.append(Held(Cause.STARTING, partition))
        elif wakes_at is None and not lane.idle and assignment.quiet:
            held.append(Held(Cause.ORPHANED, partition))
    return held


class Progress:
    """The stopwatches of one main partition and its satellites.

    >>> progress = Progress(gap_seconds_max=60.0)
    >>> held = [Held(Cause.SETTLING, Partition("t", 0))]
    >>> for now, settled in (0.0, 4), (30.0, 4), (31.0, 5), (41.0, 5):
    ...     progress.look(now, settled=settled, held=held)
    >>> progress.longest
    (Held(cause=<Cause.SETTLING: ...>, partition=Partition(topic='t', number=0)), 10.0)
    """

    __slots__ = ("_gap_seconds_max", "_looked_at", "_settled", "_since")

    def __init__(self, *, gap_seconds_max: float) -> None:
        assert gap_seconds_max > 0
        self._gap_seconds_max = gap_seconds_max
        self._since: dict[Held, float] = {}
        self._settled = 0
        self._looked_at: float | None = None

    def begin(self) -> None:
        """Count settled records from 0 again: the partition has a new assignment."""
        self._settled = 0

    def look(self, now: float, *, settled: int, held: Iterable[Held]) -> None:
        """Note how many records the assignment has settled so far and what holds it up now."""
        before = now if self._looked_at is None else self._looked_at
        assert now >= before
        skipped = max(0.0, now - before - self._gap_seconds_max)
        moved = settled != self._settled
        since: dict[Held, float] = {}
        for each in held:
            goes_on = each in self._since and not (moved and each.cause not in _BESIDE)
            since[each] = self._since[each] + skipped if goes_on else now
        self._since, self._settled, self._looked_at = since, settled, now

    @property
    def longest(self) -> tuple[Held, float] | None:
        """What has held it up for longest at the last look, and for how many seconds."""
        if not self._since or self._looked_at is None:
            return None
        held = min(self._since, key=lambda each: self._since[each])
        return held, self._looked_at - self._since[held]
