"""How much is taken from a lane at once, and when: by how long runs take lately, and by linger.

Rule 1: quick jobs of many keys are taken together and run by one thread, one after the other:
        handing each key to a thread takes longer. A topic is quick once its runs have shown it.
Rule 2: what turns out slow after all is handed back, and its topic's keys have threads of their own
        for a while: the next slow run would hold up all keys of its partition.
Rule 3: a batch that is not full waits for `linger_seconds`. Then all that waits is let go, turn by
        turn: a turn does not begin to wait anew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from processor.core.assignment import Assignment
from processor.core.lane import Entry, Lane, Ordering
from processor.core.stretch import Stretch
from processor.engine.ports import Clock

QUICK_SECONDS = 0.0005  # What is typically below it is quick.
TOGETHER_SECONDS = 0.01  # What is run together should take so long.
SLOW_SECONDS = 1.0
SLOW_REMEMBERED_SECONDS = 60.0


class Pace:
    """What the loop knows of the pace of each topic's runs, and which lanes linger."""

    def __init__(self, clock: Clock, slice_records_max: int) -> None:
        self._clock = clock
        self._slice_records_max = slice_records_max
        self._lingering: dict[Lane, float] = {}  # Until when (monotonic seconds).
        self._let_go: dict[Lane, int] = {}  # How many of its records need wait no more.
        self._typical_seconds: dict[str, float] = {}  # Of a topic's runs, lately.
        self._slow_until: dict[str, float] = {}  # Of topics with a slow run (monotonic seconds).

    def typical_seconds(self, topic: str) -> float:
        """How long a run of this topic takes lately; 0: none has run."""
        return self._typical_seconds.get(topic, 0.0)

    def learn(self, topic: str, seconds: Sequence[float]) -> None:
        """Note how long runs of a topic took.

        The median counts: many threads that wait for the interpreter make some quick runs long.
        """
        ordered = sorted(seconds)
        if ordered[-1] >= SLOW_SECONDS:
            self.saw_slow(topic)
        median = ordered[len(ordered) // 2]
        self._typical_seconds[topic] = 0.7 * self._typical_seconds.get(topic, median) + 0.3 * median

    def saw_slow(self, topic: str) -> None:
        """Note that a run of a topic takes long."""
        self._slow_until[topic] = self._clock.monotonic() + SLOW_REMEMBERED_SECONDS

    def take(self, assignment: Assignment, lane: Lane, now: float) -> list[Entry] | Stretch:
        """Take what one slice is to hold; empty: nothing may run now, or it lingers."""
        if assignment.linger_seconds == 0 or lane.tier > 0:
            return self._take_now(assignment, lane, now)
        if self._let_go.get(lane, 0) <= 0:
            if self._lingers(assignment, lane):
                return []
            self._let_go[lane] = lane.waiting
        taken = self._take_now(assignment, lane, now)
        self._let_go[lane] -= len(taken)
        return taken

    def forget(self, lane: Lane) -> None:
        """Let go of a lane that is gone."""
        self._lingering.pop(lane, None)
        self._let_go.pop(lane, None)

    @property
    def lingers_seconds(self) -> float:
        """How long the next batch that is not full is still waited for."""
        return max(0.0, min(self._lingering.values(), default=math.inf) - self._clock.monotonic())

    def _take_now(self, assignment: Assignment, lane: Lane, now: float) -> list[Entry] | Stretch:
        count_max = max(self._slice_records_max, assignment.batch_max)
        if lane.ordering is Ordering.PARTITION:
            return lane.take(now=now, count_max=count_max)
        topic = assignment.partition.topic
        typical = self._typical_seconds.get(topic)
        together = typical is not None and typical < QUICK_SECONDS and not self._is_slow(topic)
        if together and typical:
            quick = max(1, int(TOGETHER_SECONDS / typical))
            count_max = min(count_max, max(assignment.batch_max, quick))
        return lane.take(now=now, count_max=count_max, together=together)

    def _is_slow(self, topic: str) -> bool:
        until = self._slow_until.get(topic)
        if until is None or self._clock.monotonic() < until:
            return until is not None
        del self._slow_until[topic]
        return False

    def _lingers(self, assignment: Assignment, lane: Lane) -> bool:
        """Whether a lane's batch is to become fuller before it is taken."""
        if 0 < lane.waiting < assignment.batch_max:
            now = self._clock.monotonic()
            if now < self._lingering.setdefault(lane, now + assignment.linger_seconds):
                return True
        self._lingering.pop(lane, None)
        return False
