"""What becomes of a failed attempt: the next retry tier, a wait in place, or the dead-letter topic.

Rule 1: attempts count runs, not tiers: a record parked behind another has not been attempted.
Rule 2: a failed attempt goes to a later tier, never to the same one: a record that joined its own
        tier's tail would land behind later records of its key. From main it goes to the tier of its
        attempt: earlier ones may have been waited for in place (core/aside.py).
Rule 3: in the last tier it waits in place, as the head of its key.
Rule 4: the delay goes by the attempt, not by the tier: one that failed for the first time waits the
        first delay, also in a late tier, where it was parked behind another job of its key.
Rule 5: a permanent failure skips the tiers: repeating it cannot help, and its key is waiting.
"""

from __future__ import annotations

from dataclasses import dataclass

from processor.model import Failure

DELAY_SECONDS_MAX = 366 * 86_400.0  # What a handler asks for: no later, whatever it says.


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how late a job is tried again.

    `delays_seconds` has one delay for each tier; `jitter_ratio` 0.1 adds up to 10 % to a delay. No
    handler's own delay counts beyond `asked_seconds_max`: the job would be gone by then.
    """

    delays_seconds: tuple[float, ...]
    attempts_max: int
    jitter_ratio: float = 0.0
    asked_seconds_max: float = DELAY_SECONDS_MAX

    def __post_init__(self) -> None:
        assert self.attempts_max >= 1
        assert all(delay >= 0 for delay in self.delays_seconds)
        assert 0.0 <= self.jitter_ratio <= 1.0

    @property
    def tiers(self) -> int:
        """How many retry tiers there are."""
        return len(self.delays_seconds)


@dataclass(frozen=True, slots=True)
class Retry:
    """Append a copy to a tier, to run no earlier than `not_before` (seconds since the epoch)."""

    tier: int
    not_before: float
    failure: Failure


@dataclass(frozen=True, slots=True)
class WaitInPlace:
    """Stay at the head of the key until `until` (seconds since the epoch)."""

    until: float
    failure: Failure


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Append the original bytes to the dead-letter topic."""

    failure: Failure


def after_failure(
    failure: Failure, *, tier: int, attempt: int, policy: RetryPolicy, now: float, jitter: float
) -> Retry | WaitInPlace | DeadLetter:
    """Decide what becomes of a job whose run number `attempt` failed in `tier` (0: main topic).

    `jitter` is a random number in [0, 1). A delay that the handler asked for replaces the tier's.

    >>> policy = RetryPolicy(delays_seconds=(5.0, 60.0), attempts_max=3)
    >>> late = Failure("Timeout", "no answer", permanent=False)
    >>> after_failure(late, tier=0, attempt=1, policy=policy, now=100.0, jitter=0.0).not_before
    105.0
    """
    assert attempt >= 1
    assert 0 <= tier <= policy.tiers
    assert 0.0 <= jitter < 1.0
    if failure.permanent or attempt >= policy.attempts_max:
        return DeadLetter(failure)
    until = now + _delay_seconds(failure, attempt, policy, jitter)
    if tier < policy.tiers:
        tier_next = tier + 1 if tier > 0 else tier_from_main(attempt, policy)
        return Retry(tier=tier_next, not_before=until, failure=failure)
    return WaitInPlace(until=until, failure=failure)


def tier_from_main(attempt: int, policy: RetryPolicy) -> int:
    """The tier for a job of main whose run number `attempt` failed."""
    return min(attempt, policy.tiers)


def _delay_seconds(failure: Failure, attempt: int, policy: RetryPolicy, jitter: float) -> float:
    if failure.retry_after_seconds is not None:
        return min(failure.retry_after_seconds, policy.asked_seconds_max)
    if policy.tiers == 0:
        return 1.0  # A topic without tiers that still allows attempts: a second in place.
    # More attempts than delays: the last delay is used again.
    delay_seconds = policy.delays_seconds[min(attempt, policy.tiers) - 1]
    return delay_seconds * (1 + policy.jitter_ratio * jitter)
