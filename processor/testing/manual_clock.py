"""A clock that stands still until a test moves it."""

from __future__ import annotations


class ManualClock:
    """Both of the engine's clocks (port: `engine.ports.Clock`).

    >>> clock = ManualClock(now=1000.0)
    >>> clock.advance(2.5)
    >>> clock.now(), clock.monotonic()
    (1002.5, 2.5)
    """

    def __init__(self, *, now: float = 1_700_000_000.0) -> None:
        self._now = now
        self._monotonic = 0.0

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._now

    def monotonic(self) -> float:
        """Seconds since the clock was made."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        assert seconds >= 0
        self._now += seconds
        self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock, as an operator or a time server does: timers do not notice."""
        self._now += seconds
