"""What a worker shows of itself at this moment."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from processor.core.holds import Closed, Holds
from processor.core.lane import Ordering
from processor.errors import BrokerUnavailable
from processor.testing.memory_log import Fate
from tests.engine.bench import DELAYS, MAIN, TIER_1, Bench, Member


class Shown:
    """The latest value of each gauge, by its name and topic, and the sums of the counters."""

    def __init__(self, member: Member) -> None:
        self.now: dict[Any, Any] = {}
        self.waits: list[float] = []
        self.ended: Counter[int] = Counter()  # Jobs, by their attempts.
        self.counts: dict[str, int] = {"late_results": 0, "produce_failed": 0}
        telemetry: Any = member.telemetry
        for name in ("in_flight", "lane_records", "partitions_owned", "partitions_paused"):
            setattr(telemetry, name, self._gauge(name))
        for name in ("held_keys", "lag", "runnable_lag", "in_outage", "oldest"):
            setattr(telemetry, name, self._gauge(name))
        telemetry.ended = lambda topic, attempts, count=1: self.ended.update({attempts: count})
        telemetry.parked = lambda topic, **more: self.now.update({("parked", topic): more})
        telemetry.commit_age = lambda seconds: self.now.update(commit_age=seconds)
        telemetry.waited = lambda topic, seconds: self.waits.append(seconds)
        for name in self.counts:
            setattr(telemetry, name, self._counter(name))

    def _gauge(self, name: str) -> Any:
        return lambda topic, count: self.now.update({(name, topic): count})

    def _counter(self, name: str) -> Any:
        def count(topic: str, count: int = 1) -> None:
            self.counts[name] += count

        return count


def second(bench: Bench, member: Member) -> None:
    """Let the next look come."""
    bench.clock.advance(1.0)
    member.worker.step()


def test_lanes_and_runs_are_counted_by_topic(bench: Bench):
    for n in range(5):
        bench.submit(n, f"key-{n % 2}")
    member = bench.member(lane_records_max=3)
    shown = Shown(member)

    def look(_: object) -> None:
        second(bench, member)
        seen.update(shown.now)

    seen: dict[Any, Any] = {}
    bench.script[0] = [look]
    member.worker.step()
    second(bench, member)
    before = dict(shown.now)
    member.go()
    second(bench, member)

    assert (before["in_flight", "t"], before["lane_records", "t"]) == (0, 3)
    assert seen["in_flight", "t"] == 1
    assert seen["lane_records", "t"] == 3
    assert seen["lane_records", "t.retry.1"] == 0
    assert (seen["partitions_owned", "t"], seen["partitions_paused", "t"]) == (1, 1)
    assert shown.now["in_flight", "t"] == shown.now["lane_records", "t"] == 0
    assert shown.now["partitions_paused", "t"] == 0


def test_partitions_that_went_are_shown_as_none(bench: Bench):
    bench.submit(1)
    member = bench.member()
    shown = Shown(member)
    second(bench, member)
    owned = shown.now["partitions_owned", "t"]

    member.worker.lost([MAIN])
    second(bench, member)

    assert owned == 1
    assert shown.now["partitions_owned", "t"] == shown.now["lane_records", "t"] == 0


def test_what_waits_in_the_tiers_is_counted_with_its_age_since_the_main_topic(bench: Bench):
    bench.submit(0, "a")
    bench.clock.advance(100.0)
    for n, key in enumerate("abb", start=1):
        bench.submit(n, key)
    bench.fail(0)
    bench.fail(2)
    member = bench.member(ordering=Ordering.KEY)
    shown = Shown(member)

    member.go()
    second(bench, member)
    waiting = shown.now["parked", "t"]
    bench.clock.advance(DELAYS[0])
    member.go()
    second(bench, member)

    assert (waiting["records"], waiting["keys"]) == (4, 2)
    assert waiting["oldest_seconds"] == pytest.approx(101.0)
    assert bench.effects().count(0) == 1
    assert shown.now["parked", "t"] == {"records": 0, "keys": 0, "oldest_seconds": 0.0}


def test_new_owner_counts_what_an_earlier_one_has_parked(bench: Bench):
    bench.submit(0)
    bench.fail(0)
    first = bench.member()
    first.go()
    bench.clock.advance(2.0)
    first.log.expel()

    second_member = bench.member()
    shown = Shown(second_member)
    second_member.worker.step()

    assert shown.now["parked", "t"]["records"] == 1
    assert shown.now["parked", "t"]["oldest_seconds"] == pytest.approx(2.0)


def test_closed_keys_are_counted(bench: Bench):
    bench.submit(1)
    member = bench.member()
    shown = Shown(member)
    second(bench, member)
    (assignment,) = member.worker.assignments
    assignment.holds = Holds({})
    before = shown.now["held_keys", "t"]

    assignment.holds.close(b"k", Closed(replay=0, offset=1))
    second(bench, member)

    assert (before, shown.now["held_keys", "t"]) == (0, 1)


def test_commit_age_grows_while_commits_are_not_answered(bench: Bench):
    bench.submit(1)
    member = bench.member()
    shown = Shown(member)
    second(bench, member)
    idle = shown.now["commit_age"]

    def silent(_: object) -> None:
        raise BrokerUnavailable("no answer")

    member.log.before_commit = silent
    member.go()
    ages = []
    for _ in range(5):
        second(bench, member)
        ages.append(shown.now["commit_age"])
    member.log.before_commit = lambda _: None
    second(bench, member)

    assert idle is None
    assert ages == pytest.approx([1.0, 2.0, 3.0, 4.0, 5.0])
    assert shown.now["commit_age"] is None


def test_commit_age_is_told_before_a_commit_that_may_hang(bench: Bench):
    member = bench.member()
    shown = Shown(member)
    second(bench, member)
    seen = []
    member.log.before_commit = lambda _: seen.append(shown.now["commit_age"])

    for n in range(3):  # Every look comes just after a commit.
        bench.submit(n)
        member.go()
        seen.append(shown.now["commit_age"])
        second(bench, member)

    assert seen == [0.0, None] * 3
    assert shown.now["commit_age"] is None


def test_commit_age_begins_anew_with_each_commit_that_is_accepted(bench: Bench):
    member = bench.member(commit_interval_seconds=1.5)
    shown = Shown(member)
    ages = []

    for n in range(24):  # Something is settled and not committed whenever it looks.
        bench.submit(n)
        bench.clock.advance(0.5)
        member.worker.step()
        ages.append(shown.now["commit_age"])
        member.pool.run_all()

    assert len(bench.effects()) == 24
    assert set(ages) <= {0.0, None}


def test_wait_is_counted_from_when_the_job_was_due(bench: Bench):
    bench.submit(1)
    bench.fail(1)
    member = bench.member()
    shown = Shown(member)
    bench.clock.advance(7.0)

    member.go()
    bench.clock.advance(DELAYS[0] + 2.0)
    member.go()

    assert shown.waits == pytest.approx([7.0, 2.0])


def test_results_that_come_too_late_are_counted(bench: Bench):
    for n in range(3):
        bench.submit(n)
    member = bench.member()
    shown = Shown(member)
    member.worker.step()
    member.pool.run_all()

    member.worker.lost([MAIN])
    member.worker.step()

    assert shown.counts["late_results"] == len(bench.runs) == 3


def test_append_that_fails_is_counted(bench: Bench):
    bench.submit(1)
    bench.fail(1)
    member = bench.member()
    shown = Shown(member)
    member.worker.step()
    member.log.fate = lambda _: Fate.FAILS

    member.go()

    assert shown.counts["produce_failed"] == 1
    assert bench.numbers(TIER_1) == []


def test_attempts_are_told_of_jobs_that_are_done_and_of_those_that_die(bench: Bench):
    for n in range(3):
        bench.submit(n, f"key-{n}")
    bench.fail(1)
    bench.fail(2, fault=ZeroDivisionError())
    member = bench.member(ordering=Ordering.KEY)
    shown = Shown(member)

    member.go()
    at_once = dict(shown.ended)
    bench.clock.advance(DELAYS[0])
    member.go()

    assert at_once == {1: 2}
    assert shown.ended == {1: 2, 2: 1}


def test_failed_attempt_counts_for_its_main_topic_also_in_a_tier(bench: Bench):
    bench.submit(1)
    bench.fail(1, times=2)
    member = bench.member()
    told: Counter[str] = Counter()
    member.telemetry.attempts_failed = lambda topic, error, count=1: told.update({topic: count})

    member.go()
    bench.clock.advance(DELAYS[0])
    member.go()

    assert told == {"t": 2}
