"""What has to wait behind its key: aside in its lane for a moment, or parked in a tier.

The rules of what is aside are those of core/aside.py.
"""

from __future__ import annotations

from processor.core.assignment import Assignment
from processor.core.lane import Entry
from processor.core.stretch import Stretch
from processor.engine import journey
from processor.engine.journey import Park
from processor.engine.ports import Clock
from processor.engine.settlement import Settlement
from processor.model import Message


class Parking:
    """Sets records of main lanes aside or parks them, and lets those that are aside come back."""

    def __init__(self, settlement: Settlement, clock: Clock) -> None:
        self._settlement = settlement
        self._clock = clock

    def attend(self, assignment: Assignment, now: float, *, may_run: bool) -> None:
        """Let failed jobs come back whose time has come; park what was aside for too long.

        Where nothing may be run now they stay, to be handed over as what they are.
        """
        lane = assignment.lanes[0]
        if not lane.aside:
            return
        for key in lane.due_again(now) if may_run else ():
            assignment.try_again(key)
        # Half of a lane's records may wait there: a full lane goes on at half.
        pressed = len(lane.aside) > lane.records_max // 2
        self._park_overdue(assignment, float("inf") if pressed else self._clock.monotonic(), now)

    def park_all(self, assignment: Assignment, now: float) -> None:
        """Park all that is aside: it would keep the watermark behind it."""
        self._park_overdue(assignment, float("inf"), now)

    def sift(self, stretch: Stretch, assignment: Assignment, now: float) -> Stretch:
        """Have those records of a stretch wait that are behind their key; gives the others."""
        behind = journey.behind(stretch, assignment)
        for message in behind.messages:
            if not self._stays_aside(message, assignment):
                self._park_aside(message.key(), assignment, now)
                self._park(assignment.lanes[0].entry_of(message), assignment, now)
        return stretch.without(set(behind.offsets)) if behind.offsets else stretch

    def park(self, entry: Entry, assignment: Assignment, verdict: Park, now: float) -> None:
        """Park an entry, or set it aside where it has come fresh and was never run."""
        key = assignment.fence_key(entry.record.key)
        if entry.lane.tier == 0 and key is not None:
            fresh = entry.message if entry.attempt == 0 else None
            if fresh is not None and self._stays_aside(fresh, assignment):
                return
            self._park_aside(key, assignment, now)
        self._settlement.park(entry, assignment, verdict)

    def _stays_aside(self, message: Message, assignment: Assignment) -> bool:
        """Set a fresh record aside, if what its key waits for is through in half of the time."""
        delays, seconds = assignment.policy.delays_seconds, assignment.aside_seconds
        ahead = [delays[tier - 1] for tier in assignment.fence.tiers(message.key())]
        if not ahead or 2 * max(ahead) > seconds:
            return False
        until = self._clock.monotonic() + seconds
        assignment.lanes[0].aside.add(message.key(), message, until=until)
        return True

    def _park_overdue(self, assignment: Assignment, until: float, now: float) -> None:
        for key in assignment.lanes[0].aside.overdue(until):
            self._park_aside(key, assignment, now)

    def _park_aside(self, key: bytes, assignment: Assignment, now: float) -> None:
        """Park all that a key has aside, in order."""
        lane = assignment.lanes[0]
        _, failed, records = lane.aside.pop(key)
        if failed is not None:
            self._settlement.park_failed(failed, assignment)
        for message in records:
            self._park(lane.entry_of(message), assignment, now)

    def _park(self, entry: Entry, assignment: Assignment, now: float) -> None:
        verdict = journey.admit(entry, assignment, now)
        assert isinstance(verdict, Park)
        self._settlement.park(entry, assignment, verdict)
