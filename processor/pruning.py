"""Forget what the ledger need not remember any more, in small steps beside the worker.

The rule: a row may go when its job cannot come again. A job that is done comes
again from its main topic or a retry topic, so its row outlives both retentions; of one that has a
dead letter (it died, was purged, or was done in a replay) or may have one (it was dying) the
letter's retention counts too. How far a job was that never ended nobody asks for by then.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from processor.contracts.topic import Topic
from processor.errors import ProcessorError

STEP_ROWS_MAX = 1000
STEPS_MAX = 20  # In one go: what is left waits for the next one.
EVERY_SECONDS = 60.0


@runtime_checkable
class Prunable(Protocol):
    """A ledger with rows to forget."""

    def prune(self, topic: str, before: float, count_max: int, *, with_letters: bool) -> int:
        """Forget at most so many rows of jobs that ended before a time. Returns how many."""
        ...


class Pruner:
    """Prunes the rows of these topics, on a thread of its own, until it is stopped.

    Another topic's rows may be in the same ledger and have to stay for longer. `now` gives seconds
    since the epoch.
    """

    def __init__(
        self,
        ledger: Prunable,
        topics: Sequence[Topic],
        *,
        retention_seconds: float,
        now: Callable[[], float],
        pruned: Callable[[int], None],
        logger: Any,
    ) -> None:
        self._ledger = ledger
        self._retention_seconds = retention_seconds
        self._topics = topics
        self._now = now
        self._pruned = pruned
        self._logger = logger
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="processor-prune", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the step in progress."""
        self._stop.set()

    def step(self) -> int:
        """Prune once, in bounded steps. Returns how many rows went."""
        gone = 0
        for topic in self._topics:
            gone += self._forget(topic.name, self._retention_seconds, with_letters=False)
            letters_seconds = topic.dead_letter.retention_seconds
            if letters_seconds is not None:
                longest = max(self._retention_seconds, letters_seconds)
                gone += self._forget(topic.name, longest, with_letters=True)
        return gone

    def _forget(self, topic: str, seconds: float, *, with_letters: bool) -> int:
        gone = 0
        for _ in range(STEPS_MAX):
            before = self._now() - seconds
            count = self._ledger.prune(topic, before, STEP_ROWS_MAX, with_letters=with_letters)
            self._pruned(count)
            gone += count
            if count < STEP_ROWS_MAX or self._stop.is_set():
                break
        return gone

    def _run(self) -> None:
        while not self._stop.wait(EVERY_SECONDS):
            try:
                self.step()
            except ProcessorError as fault:  # Whatever it is, the next time may go well.
                self._logger.warning("the ledger is not pruned now", why=fault.message)


def too_short(
    retention_seconds: float,
    topics: Sequence[Topic],
    *,
    kept: Mapping[str, float | None] | None = None,
) -> str | None:
    """Tell when rows would be forgotten while their jobs can still come again.

    `kept` is how long the cluster's own topics keep records, None for ever: the longer counts.
    """
    for topic in topics:
        declared = max(topic.retention, topic.retry_retention_seconds)
        found = [(kept or {}).get(name, 0.0) for name in (topic.name, *topic.retry_topics)]
        needed = max(math.inf if each is None else each for each in [declared, *found])
        if retention_seconds < needed:
            long = f"for {needed:.0f} s" if needed < math.inf else "for ever"
            return (
                f"ledger.retention is {retention_seconds:g} s, and topic `{topic.name}` keeps its "
                f"records {long}: a job that comes again after its row is forgotten "
                "takes effect twice"
            )
    return None
