"""What is admitted of a topic while a sink or the ledger is away: one job now and then, as a probe.

Rule 1: the first job that meets the outage closes the topic: nothing more of it is admitted.
Rule 2: after a wait one job is. If it meets the outage too, the wait doubles, up to a bound; if it
        takes effect, the topic is open again, all at once.
Rule 3: only a probe's answer doubles the wait: others that were under way when the topic was closed
        prove nothing new.
Rule 4: a probe that proves nothing (its handler failed, its job was known) lets another go at once,
        and so does one that takes long: its handler may be slow.
Rule 5: the lane that has probed least goes first, since what is away may be needed by some jobs
        alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

WAIT_SECONDS_MIN = 1.0
WAIT_SECONDS_MAX = 5.0
PROBE_SECONDS_MAX = 10.0  # A probe is waited for so long.


def wait_seconds(failures: int, *, jitter: float) -> float:
    """How long to wait after so many failures in a row: 1 s, 2 s, 4 s, 5 s, less up to a quarter.

    `jitter` is a random number in [0, 1).

    >>> [wait_seconds(failures, jitter=0.0) for failures in (1, 2, 3, 4, 5000)]
    [1.0, 2.0, 4.0, 5.0, 5.0]
    """
    assert failures >= 1
    assert 0.0 <= jitter < 1.0
    doubled = WAIT_SECONDS_MIN * (1 << min(failures - 1, 10))
    return min(doubled, WAIT_SECONDS_MAX) * (1 - jitter / 4)


class Breaker:
    """One topic, closed since an outage. Times are monotonic seconds.

    >>> breaker = Breaker()
    >>> breaker.failed(100.0, jitter=0.0)
    >>> breaker.lets_one_go(100.9), breaker.lets_one_go(101.0)
    (False, True)
    >>> breaker.begin("lane", 101.0)
    >>> breaker.failed(101.5, jitter=0.0)
    >>> breaker.lets_one_go(103.4), breaker.lets_one_go(103.5)
    (False, True)
    """

    __slots__ = ("_failures", "_probes", "_probing", "_until")

    def __init__(self) -> None:
        self._failures = 0
        self._probing = False
        self._until = 0.0
        self._probes: Counter[Hashable] = Counter()

    def lets_one_go(self, now: float) -> bool:
        """Whether a job may be admitted, as a probe."""
        return now >= self._until

    def probes(self, lane: Hashable) -> int:
        """How many probes a lane has given."""
        return self._probes[lane]

    def begin(self, lane: Hashable, now: float) -> None:
        """Note that a probe was admitted."""
        self._probing = True
        self._until = now + PROBE_SECONDS_MAX
        self._probes[lane] += 1

    def failed(self, now: float, *, jitter: float) -> None:
        """Note that a job has met the outage."""
        if self._failures > 0 and not self._probing:
            return
        self._probing = False
        self._failures += 1
        self._until = now + wait_seconds(self._failures, jitter=jitter)

    def unanswered(self, now: float) -> None:
        """Note that a job has ended and proves nothing."""
        if self._probing:
            self._probing = False
            self._until = now
