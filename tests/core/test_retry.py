from __future__ import annotations

from dataclasses import replace

import pytest

from processor.core.retry import DeadLetter, Retry, RetryPolicy, WaitInPlace, after_failure
from processor.model import Failure

LATE = Failure("Timeout", "no answer", permanent=False)
ASKED = Failure("Retry", "busy", permanent=False, retry_after_seconds=7.0)
NEVER = Failure("Reject", "never", permanent=True)
TWO = RetryPolicy(delays_seconds=(5.0, 60.0), attempts_max=3)
MORE = RetryPolicy(delays_seconds=(5.0, 60.0), attempts_max=5)
NO_TIERS = RetryPolicy(delays_seconds=(), attempts_max=3)


@pytest.mark.parametrize(
    ("failure", "tier", "attempt", "policy", "expected"),
    [
        # One tier further at each failure.
        (LATE, 0, 1, TWO, Retry(1, 105.0, LATE)),
        (LATE, 1, 2, TWO, Retry(2, 160.0, LATE)),
        (LATE, 2, 3, TWO, DeadLetter(LATE)),
        # Attempts count runs, not tiers: it was parked in tier 2 before it ever ran.
        (LATE, 2, 1, TWO, WaitInPlace(105.0, LATE)),
        (LATE, 2, 2, TWO, WaitInPlace(160.0, LATE)),
        (LATE, 1, 3, TWO, DeadLetter(LATE)),
        # More attempts than tiers: the last delay is used again.
        (LATE, 2, 3, MORE, WaitInPlace(160.0, LATE)),
        (LATE, 2, 4, MORE, WaitInPlace(160.0, LATE)),
        (LATE, 2, 5, MORE, DeadLetter(LATE)),
        (LATE, 2, 6, MORE, DeadLetter(LATE)),
        # Permanent: no tier can help.
        (NEVER, 0, 1, TWO, DeadLetter(NEVER)),
        (NEVER, 2, 1, MORE, DeadLetter(NEVER)),
        # The handler's own delay.
        (ASKED, 0, 1, TWO, Retry(1, 107.0, ASKED)),
        (ASKED, 2, 1, TWO, WaitInPlace(107.0, ASKED)),
        (ASKED, 2, 3, TWO, DeadLetter(ASKED)),
        # No later than its topic keeps it.
        (ASKED, 0, 1, replace(TWO, asked_seconds_max=3.0), Retry(1, 103.0, ASKED)),
        # No tiers: a second, in place.
        (LATE, 0, 1, NO_TIERS, WaitInPlace(101.0, LATE)),
        (LATE, 0, 3, NO_TIERS, DeadLetter(LATE)),
        (LATE, 0, 1, RetryPolicy((), attempts_max=1), DeadLetter(LATE)),
    ],
)
def test_what_becomes_of_a_failed_attempt(
    failure: Failure,
    tier: int,
    attempt: int,
    policy: RetryPolicy,
    expected: Retry | WaitInPlace | DeadLetter,
):
    verdict = after_failure(
        failure, tier=tier, attempt=attempt, policy=policy, now=100.0, jitter=0.0
    )

    assert verdict == expected


@pytest.mark.parametrize(("jitter", "not_before"), [(0.0, 110.0), (0.5, 112.5), (0.999, 114.995)])
def test_jitter_lengthens_a_delay_by_its_share(jitter: float, not_before: float):
    policy = RetryPolicy(delays_seconds=(10.0,), attempts_max=2, jitter_ratio=0.5)

    verdict = after_failure(LATE, tier=0, attempt=1, policy=policy, now=100.0, jitter=jitter)

    assert isinstance(verdict, Retry)
    assert verdict.not_before == pytest.approx(not_before)


@pytest.mark.parametrize(
    "wrong",
    [{"attempt": 0}, {"tier": 3}, {"tier": -1}, {"jitter": 1.0}, {"jitter": -0.1}],
    ids=str,
)
def test_nonsense_is_a_bug(wrong: dict[str, float]):
    asked = {"tier": 0, "attempt": 1, "policy": TWO, "now": 100.0, "jitter": 0.0, **wrong}

    with pytest.raises(AssertionError):
        after_failure(LATE, **asked)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts_max": 0},
        {"delays_seconds": (-1.0,)},
        {"jitter_ratio": 1.1},
        {"jitter_ratio": -0.1},
    ],
    ids=str,
)
def test_policy_that_makes_no_sense_is_a_bug(wrong: dict[str, object]):
    with pytest.raises(AssertionError):
        RetryPolicy(**{"delays_seconds": (), "attempts_max": 1, **wrong})  # type: ignore[arg-type]
