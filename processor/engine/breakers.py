"""Which topics are closed since an outage of a sink or the ledger, and what probes them.

A registry or a store closes none: not all jobs of a topic need them, and what does waits before it
is run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from processor.core.assignment import Assignment
from processor.core.breaker import Breaker
from processor.core.lane import Lane
from processor.engine.ports import Clock
from processor.engine.slices import Report, Succeeded, Unavailable


class Breakers:
    """One breaker for each topic that is closed (core/breaker.py)."""

    def __init__(self, clock: Clock, jitter: Callable[[], float], logger: Any) -> None:
        self._clock = clock
        self._jitter = jitter
        self._logger = logger
        self._closed: dict[str, Breaker] = {}

    def __contains__(self, topic: object) -> bool:
        return topic in self._closed

    def hear(self, topic: str, report: Report) -> None:
        """Close a topic whose job met the outage; open it again when one has taken effect."""
        latest = report.outcomes[-1][1] if report.outcomes else None  # An outage ends its slice.
        if isinstance(latest, Unavailable):
            if latest.what == "sink":
                breaker = self._closed.setdefault(topic, Breaker())
                breaker.failed(self._clock.monotonic(), jitter=self._jitter())
            return
        if topic not in self._closed:
            return
        plain = any(each.offsets for each in report.done)
        if plain or any(isinstance(outcome, Succeeded) for _, outcome in report.outcomes):
            del self._closed[topic]
            self._logger.info("the sink answers again: the topic's jobs go on", topic=topic)
        elif report.finished:
            self._closed[topic].unanswered(self._clock.monotonic())

    def lanes(self, topic: str, assignments: Sequence[Assignment]) -> list[tuple[Assignment, Lane]]:
        """Where a probe may be taken from now, in this order; nowhere while it is not time."""
        breaker = self._closed[topic]
        if not breaker.lets_one_go(self._clock.monotonic()):
            return []
        lanes = [(each, lane) for each in assignments for lane in reversed(each.lanes)]
        return sorted(lanes, key=lambda each: breaker.probes(each[1]))

    def begin(self, topic: str, lane: Lane) -> None:
        """Note that a probe was started."""
        self._closed[topic].begin(lane, self._clock.monotonic())
