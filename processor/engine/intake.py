"""How much is taken in: full lanes hold the intake back for a moment, or pause their partitions.

A lane is full when it holds `records_max` records, or more than its share of the bytes while all
lanes together hold more than `memory_max`. One lane must then be above its share, and what it holds
can settle whatever becomes of the others, so the intake always goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from processor.core.assignment import Assignment
from processor.core.lane import Lane
from processor.engine.ports import Clock, Log
from processor.model import Partition

HOLD_BACK_SECONDS_MAX = 0.1
HOLD_BACK_RECORDS_MIN = 100

Lanes = Mapping[Partition, tuple[Assignment, Lane]]


class Intake:
    """Pauses and resumes the partitions of one worker."""

    def __init__(
        self,
        log: Log,
        clock: Clock,
        typical_seconds: Callable[[str], float],
        memory_max: int,
    ) -> None:
        self._log = log
        self._clock = clock
        self._typical_seconds = typical_seconds
        self._memory_max = memory_max
        self._full_since: dict[Partition, float] = {}  # Lanes that the intake waits for.
        self.bytes = 0  # In all lanes, when it was last regulated.

    @property
    def holds_back(self) -> bool:
        """Whether the intake waits for a lane that is full and will not be in a moment."""
        return bool(self._full_since)

    def forget(self, partitions: Collection[Partition]) -> None:
        """Wait no more for lanes that are gone."""
        for each in partitions:
            self._full_since.pop(each, None)

    def regulate(self, lanes: Lanes) -> None:
        """Pause what is full, resume what has room again."""
        pause, resume = [], []
        now = self._clock.monotonic()
        self.bytes = sum(lane.bytes for _, lane in lanes.values())
        share = self._memory_max / max(1, len(lanes)) if self.bytes > self._memory_max else None
        for partition, (assignment, lane) in lanes.items():
            large = share is not None and lane.bytes > share
            if partition in assignment.paused:
                if large or not lane.resumable:
                    continue
                if lane.tier > 0 or not _crowded(assignment, full=False):
                    assignment.paused.remove(partition)
                    resume.append(partition)
            elif lane.tier == 0 and _crowded(assignment, full=True):
                pause.append(partition)
            elif not lane.full and not large:
                self._full_since.pop(partition, None)
            elif large or not self._will_drain(partition, assignment, lane, now):
                pause.append(partition)
        for partition in pause:
            self._full_since.pop(partition, None)
            lanes[partition][0].paused.add(partition)
        if pause:
            self._log.pause(pause)
        if resume:
            self._log.resume(resume)

    def _will_drain(
        self, partition: Partition, assignment: Assignment, lane: Lane, now: float
    ) -> bool:
        """Whether to wait for a full lane: the client throws away what it has fetched at a pause.

        Only where its jobs are quick, and not for long: meanwhile all partitions wait.
        """
        seconds = self._typical_seconds(assignment.partition.topic) * lane.watermark.unsettled
        if lane.records_max < HOLD_BACK_RECORDS_MIN or seconds > HOLD_BACK_SECONDS_MAX:
            return False
        since = self._full_since.setdefault(partition, now)
        return now < since + HOLD_BACK_SECONDS_MAX


def _crowded(assignment: Assignment, *, full: bool) -> bool:
    """Whether main must pause (`full`), or stay paused, for what waits behind it."""
    letters = assignment.letters
    if letters is not None and letters.full:
        return True
    return assignment.fence.full if full else not assignment.fence.resumable
