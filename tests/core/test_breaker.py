from __future__ import annotations

import pytest

from processor.core.breaker import PROBE_SECONDS_MAX, WAIT_SECONDS_MAX, Breaker, wait_seconds


def closed(failures: int = 1, *, now: float = 0.0) -> Breaker:
    """A breaker whose last probe has failed just now."""
    breaker = Breaker()
    breaker.failed(now, jitter=0.0)
    for _ in range(failures - 1):
        breaker.begin("a", now)
        breaker.failed(now, jitter=0.0)
    return breaker


@pytest.mark.parametrize(
    ("failures", "jitter", "seconds"),
    [(1, 0.0, 1.0), (2, 0.0, 2.0), (3, 0.0, 4.0), (4, 0.0, 5.0), (10_000, 0.0, 5.0),
     (1, 0.8, 0.8), (4, 0.4, 4.5)],
)  # fmt: skip
def test_wait_doubles_up_to_its_bound(failures: int, jitter: float, seconds: float):
    assert wait_seconds(failures, jitter=jitter) == pytest.approx(seconds)


@pytest.mark.parametrize(("failures", "until"), [(1, 1.0), (2, 2.0), (3, 4.0), (9, 5.0)])
def test_nothing_goes_until_the_wait_is_over(failures: int, until: float):
    breaker = closed(failures, now=7.0)

    assert not breaker.lets_one_go(7.0 + until - 0.01)
    assert breaker.lets_one_go(7.0 + until)


def test_one_probe_goes_at_a_time():
    breaker = closed()
    breaker.begin("a", 1.0)

    assert not breaker.lets_one_go(1.0)
    assert not breaker.lets_one_go(1.0 + PROBE_SECONDS_MAX - 0.01)


def test_probe_that_takes_long_is_followed_by_another():
    breaker = closed()
    breaker.begin("a", 1.0)

    assert breaker.lets_one_go(1.0 + PROBE_SECONDS_MAX)


def test_jobs_that_were_under_way_before_prove_nothing_new():
    breaker = closed(now=0.0)
    for _ in range(5):
        breaker.failed(0.5, jitter=0.0)
        breaker.unanswered(0.5)

    assert not breaker.lets_one_go(0.99)
    assert breaker.lets_one_go(1.0)


def test_probe_that_proves_nothing_lets_another_go_and_keeps_the_wait():
    breaker = closed(failures=2)
    breaker.begin("a", 2.0)
    breaker.unanswered(3.0)
    at_once = breaker.lets_one_go(3.0)
    breaker.begin("a", 3.0)
    breaker.failed(3.0, jitter=0.0)

    assert at_once
    assert not breaker.lets_one_go(6.99)
    assert breaker.lets_one_go(7.0)


def test_wait_never_exceeds_its_bound():
    breaker = closed(failures=50, now=3.0)

    assert breaker.lets_one_go(3.0 + WAIT_SECONDS_MAX)


def test_probes_are_counted_by_lane():
    breaker = closed(failures=3)
    breaker.begin("b", 9.0)

    assert [breaker.probes(lane) for lane in ("a", "b", "c")] == [2, 1, 0]
