"""The lag that a worker tells, and the part of it that more workers would settle sooner."""

from __future__ import annotations

from typing import Any

import pytest

from processor.core.lane import Ordering
from processor.engine.backlog import OUTAGE_SECONDS
from processor.errors import BrokerUnavailable, StoreUnavailable
from processor.model import Partition
from tests.engine.bench import DELAYS, LETTERS, MAIN, TIER_1, Bench, Member
from tests.engine.test_outage import AwaySink

# No ledger has a part in it: the bench on one of them tells enough.
pytestmark = pytest.mark.parametrize("bench", ["memory"], indirect=True)


class Told:
    """The latest lags, by topic, as a member has told them."""

    def __init__(self, member: Member) -> None:
        member.worker.step()  # It takes over, and reads its own markers with the next turn.
        self.lag: dict[str, int] = {}
        self.runnable = -1
        self.in_outage = -1
        self.oldest = -1.0
        telemetry: Any = member.telemetry
        telemetry.lag = lambda topic, records: self.lag.update({topic: records})
        telemetry.runnable_lag = lambda _, records: setattr(self, "runnable", records)
        telemetry.in_outage = lambda _, partitions: setattr(self, "in_outage", partitions)
        telemetry.oldest = lambda _, seconds: setattr(self, "oldest", seconds)

    def after(self, bench: Bench, member: Member, seconds: float = 1.0) -> dict[str, int]:
        """Let time pass, with turns of the loop that run nothing, and give the lags."""
        bench.clock.advance(seconds)
        member.worker.step()
        return self.lag


def test_lag_counts_what_is_fetched_and_what_is_not(bench: Bench):
    for n in range(10):
        bench.submit(n)
        bench.clock.advance(1.0)
    member = bench.member(lane_records_max=3)
    told = Told(member)

    first = dict(told.after(bench, member))
    oldest = told.oldest
    member.go(12)
    told.after(bench, member)

    assert first == {"t": 10, "t.retry.1": 0, "t.retry.2": 0}
    assert oldest == pytest.approx(11.0)
    assert (told.lag["t"], told.runnable, told.oldest) == (0, 0, 0.0)


def test_runnable_lag_counts_what_runs_and_what_is_not_fetched(bench: Bench):
    for n in range(10):
        bench.submit(n)
    member = bench.member(lane_records_max=3)
    told = Told(member)

    told.after(bench, member)

    assert told.runnable == 10
    assert member.worker.assignments[0].running == 1


def test_retry_counts_for_its_tier_and_can_run_only_when_it_is_due(bench: Bench):
    bench.submit(0)
    bench.fail(0)
    member = bench.member()
    told = Told(member)
    member.go()

    waiting = dict(told.after(bench, member)), told.runnable
    told.after(bench, member, DELAYS[0])

    assert waiting == ({"t": 0, "t.retry.1": 1, "t.retry.2": 0}, 0)
    assert (told.lag["t.retry.1"], told.runnable) == (1, 1)


def test_what_waits_behind_a_retry_of_its_key_cannot_run(bench: Bench):
    for n in range(4):
        bench.submit(n, "a")
    bench.fail(0)
    member = bench.member(ordering=Ordering.KEY)
    told = Told(member)

    member.go()
    told.after(bench, member)

    assert (told.lag["t.retry.1"], told.runnable) == (4, 0)


def test_due_retry_counts_while_all_threads_are_busy(bench: Bench):
    bench.submit(0)
    bench.fail(0)
    member = bench.member(slots=0)
    told = Told(member)
    bench.append(b"1", "k", written=[])
    member.worker.step()
    bench.broker.append("t.retry.1", 0, key=b"x", value=b"5", headers=[])

    told.after(bench, member)
    told.after(bench, member)

    assert (told.lag["t"], told.lag["t.retry.1"], told.runnable) == (2, 1, 3)


def test_delayed_retry_cannot_run_though_no_thread_has_looked_at_it(bench: Bench):
    bench.submit(0)
    bench.fail(0)
    first = bench.member()
    first.go()
    first.log.expel()
    member = bench.member(slots=0)
    told = Told(member)
    member.worker.step()

    told.after(bench, member)

    assert (told.lag["t.retry.1"], told.runnable) == (1, 0)


def test_unfetched_part_of_a_tier_is_left_out_behind_records_that_wait_for_their_time(bench: Bench):
    for n in range(6):
        bench.submit(n, f"key-{n}")
        bench.fail(n)
    first = bench.member(ordering=Ordering.KEY)
    first.go()
    first.log.expel()
    member = bench.member(ordering=Ordering.KEY, lane_records_max=2)
    told = Told(member)
    member.go(3)

    waiting = dict(told.after(bench, member)), told.runnable
    told.after(bench, member, DELAYS[0])

    assert len(bench.copies(TIER_1)) == 6
    assert waiting[0]["t.retry.1"] == 7  # A second owner's marker is not fetched yet.
    assert waiting[1] == 0
    assert told.runnable == 7


def test_job_that_starts_later_on_a_topic_without_tiers_keeps_its_turn(bench: Bench):
    later = str(int((bench.clock.now() + 100) * 1000))
    for n in range(5):
        bench.submit(n, not_before=later if n == 0 else None)
    member = bench.member(tiers=0, lane_records_max=2)
    told = Told(member)
    member.worker.step()

    told.after(bench, member)

    assert (told.lag["t"], told.runnable) == (5, 0)


def test_full_fence_leaves_out_what_is_not_fetched(bench: Bench):
    for n in range(9):
        bench.submit(n, f"key-{n}")
        bench.fail(n)
    member = bench.member(ordering=Ordering.KEY, fence_records_max=2, lane_records_max=2)
    told = Told(member)

    member.go()
    told.after(bench, member)

    assert told.lag["t"] + told.lag["t.retry.1"] == 9
    assert told.lag["t"] > 0
    assert told.runnable == 0


def test_fence_of_a_whole_partition_holds_all_of_it(bench: Bench):
    for n in range(9):
        bench.submit(n, f"key-{n}")
    bench.fail(0)
    member = bench.member(fence=Ordering.PARTITION, lane_records_max=2)
    told = Told(member)

    member.worker.step()
    member.pool.run_all()
    told.after(bench, member)

    assert told.lag["t"] > 0
    assert told.runnable == 0


def test_topic_that_an_outage_has_closed_has_nothing_to_run(bench: Bench):
    sink = AwaySink()
    bench.sinks = (sink,)
    for n in range(20):
        bench.submit(n)
    member = bench.member()
    told = Told(member)

    member.go()
    told.after(bench, member)
    during = told.lag["t"], told.runnable, told.in_outage
    sink.away = False
    bench.clock.advance(5.0)
    member.go()
    bench.submit(99)
    told.after(bench, member)

    assert during == (20, 0, 1)
    assert (told.lag["t"], told.runnable, told.in_outage) == (1, 1, 0)


def test_registry_that_stays_away_pauses_a_partition_until_it_settles_again(bench: Bench):
    for n in range(3):
        bench.submit(n)
    bench.decode_faults = [StoreUnavailable("away")] * 100
    member = bench.member()
    told = Told(member)
    seen = []
    for _ in range(int(OUTAGE_SECONDS) + 6):
        member.go(2)
        told.after(bench, member)
        seen.append(told.in_outage)

    bench.decode_faults = []
    bench.clock.advance(5.0)
    bench.submit(9)
    member.go()
    bench.submit(10)
    told.after(bench, member)

    assert (seen[0], seen[-1]) == (0, 1)
    assert sorted(seen) == seen
    assert (told.runnable, told.in_outage) == (1, 0)


def test_broker_that_does_not_answer_pauses_every_partition(bench: Bench):
    bench.submit(0)
    member = bench.member()
    told = Told(member)
    member.go()

    def silent(_: object) -> None:
        raise BrokerUnavailable("no answer")

    member.log.before_commit = silent
    bench.submit(1)
    for _ in range(int(OUTAGE_SECONDS) + 3):
        member.go(2)
        told.after(bench, member)

    assert (told.runnable, told.in_outage) == (0, 1)


def test_lags_of_the_group_s_members_add_up(bench: Bench):
    bench = Bench(bench.ledger, bench.sink, bench.effects, partitions=2)
    for n in range(7):
        bench.submit(n, partition=n % 2)
    one = bench.member(slots=0)
    one.worker.step()
    other = bench.member(slots=0)
    told = [Told(each) for each in (one, other)]

    for _ in range(4):
        bench.clock.advance(1.0)
        for member in (one, other):
            member.worker.step()

    assert sorted(each.lag["t"] for each in told) == [3, 4]
    assert sum(each.runnable for each in told) == 7


def test_markers_and_dead_letters_are_no_lag(bench: Bench):
    bench.submit(0)
    bench.fail(0, fault=ZeroDivisionError())
    member = bench.member()
    told = Told(member)

    member.go()
    told.after(bench, member)

    assert bench.numbers(LETTERS) == [0]
    assert bench.markers(TIER_1) == [1]
    assert told.lag == {"t": 0, "t.retry.1": 0, "t.retry.2": 0}


def test_end_that_is_not_told_leaves_what_is_fetched(bench: Bench):
    for n in range(5):
        bench.submit(n)
    member = bench.member(lane_records_max=2)
    told = Told(member)
    member.worker.step()
    member.log.silent = True

    told.after(bench, member)

    assert Partition("t", 0) == MAIN
    assert told.lag["t"] == member.lane.watermark.unsettled == 2
