"""Partitions come and go: takeover, revoke, lost, and a worker that is no longer the owner."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from processor.adapters.pool import ThreadPool
from processor.engine.ports import CommitRefused, Owner, OwnershipLost
from processor.engine.takeover import OffsetLost
from processor.errors import BrokerUnavailable, SinkUnavailable
from processor.model import Outgoing, Partition
from processor.testing import Fate
from tests.engine.bench import DELAYS, GROUP, MAIN, TIER_1, Bench, Member


def hand_over(bench: Bench, to: Member) -> None:
    """Let the group decide that the first partition is another's from now on."""
    assert to.log.member is not None
    bench.broker.group(GROUP).reassign({MAIN: to.log.member})


# Takeover.


def test_takeover_commits_the_next_epoch_before_anything_runs(bench: Bench):
    bench.submit(1)
    first = bench.member()
    first.worker.step()
    taken = (bench.committed(), bench.note(), list(bench.runs))
    first.go()
    second = bench.member()

    hand_over(bench, second)
    first.go()
    second.go()

    assert taken == (0, "epoch=1 in_flight=0", [])
    assert (bench.committed(), bench.note()) == (1, "epoch=2 in_flight=0")
    assert second.worker.assignments[0].epoch == 2


def test_takeover_raises_the_ledgers_owner_row(bench: Bench):
    bench.member().worker.step()

    with pytest.raises(OwnershipLost):
        bench.ledger.record(Owner(GROUP, "t", 0, 0), [])
    bench.ledger.record(Owner(GROUP, "t", 0, 1), [])


def test_satellites_are_read_beside_their_main_partition(bench: Bench):
    member = bench.member()

    member.worker.step()

    assert member.log.assigned == [MAIN, TIER_1, Partition("t.retry.2", 0)]


@pytest.mark.parametrize(
    "fault", [CommitRefused("rebalancing"), BrokerUnavailable("Kafka does not answer")]
)
def test_refused_commit_in_takeover_admits_nothing_and_starts_over(bench: Bench, fault: Exception):
    bench.submit(1)
    member = bench.member()

    def refuse(_: object) -> None:
        raise fault

    member.log.before_commit = refuse
    member.go()
    refused = (member.worker.assignments, member.log.assigned, list(bench.runs), bench.committed())
    member.log.before_commit = lambda _: None
    bench.clock.advance(1.0)
    member.go()

    assert refused == ([], [], [], None)
    assert bench.effects() == [1]
    assert bench.committed() == 1


def test_member_has_joined_when_what_it_was_given_first_is_taken_over(bench: Bench):
    member = bench.member()
    before = member.worker.joined

    def refuse(_: object) -> None:
        raise CommitRefused("rebalancing")

    member.log.before_commit = refuse
    member.go()
    refused = member.worker.joined
    member.log.before_commit = lambda _: None
    bench.clock.advance(1.0)
    member.go()

    assert (before, refused, member.worker.joined) == (False, False, True)


def test_member_that_is_given_nothing_has_joined(bench: Bench):
    member = bench.member()

    member.worker.assigned([])

    assert member.worker.joined


@pytest.mark.parametrize(
    "fault", [OwnershipLost("a newer owner"), SinkUnavailable("the ledger is away")]
)
def test_ledger_that_does_not_take_the_epoch_admits_nothing_and_starts_over(
    bench: Bench, fault: Exception
):
    bench.submit(1)
    member = bench.member()

    def refuse(call: str) -> None:
        if call == "raise_owner":
            raise fault

    bench.ledger.before = refuse
    member.go()
    refused = (member.worker.assignments, list(bench.runs))
    bench.ledger.before = lambda call: None
    bench.clock.advance(1.0)
    member.go()

    assert refused == ([], [])
    assert bench.effects() == [1]
    # Every try took a new epoch.
    assert bench.note() == "epoch=2 in_flight=0"


def test_partition_that_is_not_taken_yet_is_not_tried_again_when_it_is_revoked(bench: Bench):
    member, other = bench.member(), bench.member()

    def refuse(_: object) -> None:
        raise CommitRefused("rebalancing")

    member.log.before_commit = refuse
    member.worker.step()
    hand_over(bench, other)
    member.worker.step()
    member.log.before_commit = lambda _: None
    bench.clock.advance(5.0)
    member.go()

    assert member.worker.assignments == []
    assert bench.committed() is None


def test_lost_offset_stops_the_worker_and_says_so(bench: Bench):
    for n in range(3):
        bench.submit(n)
    first = bench.member(slice_records_max=1)
    first.worker.step()
    first.pool.run_next()
    first.worker.step()
    first.log.expel()
    bench.broker.truncate(MAIN, before=2)

    with pytest.raises(OffsetLost) as caught:
        bench.member().worker.step()

    assert "has committed offset 1 of t[0], which now holds 2 to 3" in caught.value.message
    assert bench.committed() == 1
    assert bench.runs == [0]


def test_lost_offset_goes_on_with_what_is_left_where_that_was_chosen(bench: Bench):
    for n in range(3):
        bench.submit(n)
    bench.member(slice_records_max=1).worker.step()
    bench.broker.truncate(MAIN, before=2)
    bench.broker.group(GROUP).expel(bench.broker.group(GROUP).members[0])

    bench.member(when_offset_lost="earliest").go()

    assert bench.effects() == [2]
    assert bench.committed() == 3


def test_offset_beyond_the_end_is_lost_too(bench: Bench):
    bench.submit(1)
    bench.member().go()
    fresh = Bench(bench.ledger, bench.sink, bench.effects)
    fresh.broker.group(GROUP).committed.update(bench.broker.group(GROUP).committed)

    with pytest.raises(OffsetLost):
        fresh.member().worker.step()

    assert fresh.committed() == 1


@pytest.mark.parametrize(("start_from", "ran"), [("earliest", [1, 2]), ("latest", [2])])
def test_new_group_starts_where_it_was_told_to(bench: Bench, start_from: str, ran: list[int]):
    bench.submit(1)
    member = bench.member(start_from=start_from)
    member.worker.step()

    bench.submit(2)
    member.go()

    assert bench.effects() == ran


# Revoke.


class Threaded:
    """A worker with real threads, whose job 1 runs until its partition is being revoked."""

    def __init__(self, bench: Bench) -> None:
        self.started, self.revoking = threading.Event(), threading.Event()
        bench.script[1] = [lambda _: (self.started.set(), self.revoking.wait(10))]
        self.member = bench.member(pool_of=lambda runner: ThreadPool(runner, threads=1))
        self.member.telemetry.on_revoke = self.revoking.set

    def go_until_job_1_runs(self) -> None:
        while not self.started.is_set():
            self.member.worker.step()
            self.started.wait(0.01)


def test_revoke_drains_commits_and_hands_back_what_has_not_run(bench: Bench):
    for n in range(4):
        bench.submit(n)
    first, second = Threaded(bench), bench.member()
    first.go_until_job_1_runs()

    hand_over(bench, second)
    first.member.worker.step()
    drained = (list(bench.runs), bench.effects(), bench.committed())
    second.go()

    assert drained == ([0, 1], [0, 1], 2)
    assert first.member.worker.assignments == []
    assert first.member.log.assigned == []
    assert bench.runs == [0, 1, 2, 3]
    assert bench.effects() == [0, 1, 2, 3]
    assert bench.committed() == 4


def test_job_that_fails_while_its_partition_is_revoked_is_parked_and_committed(bench: Bench):
    bench.submit(1)
    first, second = Threaded(bench), bench.member()

    def fail(_: object) -> None:
        first.started.set()
        first.revoking.wait(10)
        raise OSError("no answer")

    bench.script[1] = [fail]
    first.go_until_job_1_runs()
    hand_over(bench, second)
    first.member.worker.step()

    assert bench.numbers(TIER_1) == [1]
    assert bench.committed() == 1
    bench.clock.advance(DELAYS[0])
    second.go()
    assert bench.effects() == [1]


def test_slice_that_has_not_started_is_handed_back_at_once(bench: Bench):
    bench.submit(1)
    first, second = bench.member(), bench.member()
    first.worker.step()

    hand_over(bench, second)
    first.worker.step()
    handed_back = (list(bench.runs), first.worker.assignments)
    second.go()

    assert handed_back == ([], [])
    assert bench.runs == [1]
    assert bench.committed() == 1


def test_revoke_waits_for_acks_and_commits_them(bench: Bench):
    bench.submit(1)
    bench.fail(1)
    first, second = bench.member(), bench.member()
    first.log.answers_held = True
    first.go()
    before = bench.committed()

    def answer(_: float) -> None:
        first.log.answers_held = False

    first.pool.on_wait = answer
    hand_over(bench, second)
    first.worker.step()

    assert before == 0
    assert bench.committed() == 1
    assert bench.numbers(TIER_1) == [1]


def revoke_while_it_runs(bench: Bench, first: Member, second: Member) -> Callable[[Any], None]:
    """A job's step during which its partition is revoked, and the drain's budget is used up."""

    def run_on(_: Any) -> None:
        first.pool.on_wait = bench.clock.advance
        hand_over(bench, second)
        first.worker.step()

    return run_on


def test_job_that_outlives_the_drain_budget_is_the_next_owners(bench: Bench):
    bench.submit(1)
    first, second = bench.member(drain_seconds=20.0), bench.member()
    started = bench.clock.monotonic()
    waited: list[float] = []

    def run_on(context: Any) -> None:
        revoke_while_it_runs(bench, first, second)(context)
        waited.append(bench.clock.monotonic() - started)
        second.go()

    bench.script[1] = [run_on]
    first.go()

    assert waited == [pytest.approx(20.0, abs=0.01)]
    assert bench.runs == [1, 1]
    assert bench.effects() == [1]
    assert bench.committed() == 1
    late = bench.logger.told("jobs outlive the drain budget; their next owner runs them again")
    assert late == [{"jobs": 1}]


def test_run_that_outlives_its_partition_is_told_to_stop(bench: Bench):
    bench.submit(1)
    first, second = bench.member(), bench.member()
    told: list[bool] = []

    def run_on(context: Any) -> None:
        revoke_while_it_runs(bench, first, second)(context)
        told.append(context.cancelled)
        context.raise_if_cancelled()

    bench.script[1] = [run_on]
    first.go()
    second.go()

    assert told == [True]
    assert bench.attempts == [(1, 1), (1, 1)]
    assert bench.effects() == [1]
    assert bench.numbers(TIER_1) == []


def test_late_report_after_revoke_is_dropped(bench: Bench):
    bench.submit(1)
    first, second = bench.member(), bench.member()

    def run_on(context: Any) -> None:
        revoke_while_it_runs(bench, first, second)(context)
        raise OSError("no answer")

    bench.script[1] = [run_on]
    first.go()
    dropped = (list(bench.runs), bench.numbers(TIER_1), bench.committed())
    second.go()

    assert dropped == ([1], [], 0)
    assert bench.attempts == [(1, 1), (1, 1)]
    assert bench.effects() == [1]


def test_effect_written_between_revoke_and_takeover_is_not_repeated(bench: Bench):
    bench.submit(1)
    first, second = bench.member(), bench.member()

    bench.script[1] = [revoke_while_it_runs(bench, first, second)]
    first.go()
    between = (bench.effects(), bench.committed())
    second.go()

    assert between == ([1], 0)
    assert bench.runs == [1]
    assert bench.effects() == [1]
    assert bench.committed() == 1


def test_late_ack_after_revoke_is_dropped(bench: Bench):
    bench.submit(1)
    bench.fail(1)
    first, second = bench.member(), bench.member()
    first.log.answers_held = True
    first.go()
    first.pool.on_wait = bench.clock.advance
    hand_over(bench, second)
    first.worker.step()

    first.log.answers_held = False
    first.go()

    assert first.worker.assignments == []
    assert bench.committed() == 0


def test_partition_that_is_being_revoked_is_not_taken_again(bench: Bench):
    bench.submit(1)
    bench.fail(1)
    first, second = bench.member(takeover_again_seconds=0.0), bench.member()
    first.worker.step()
    first.log.fate = lambda _: Fate.FAILS

    hand_over(bench, second)
    first.worker.step()

    assert first.worker.assignments == []
    assert "epoch=1 " in bench.note()
    second.go()
    assert "epoch=2 " in bench.note()


def test_other_partitions_work_on_through_a_revoke(bench: Bench):
    two = Bench(bench.ledger, bench.sink, bench.effects, partitions=2)
    two.submit(1, partition=0)
    two.submit(2, partition=1)
    first = two.member()
    first.worker.step()
    second = two.member()

    first.go()
    second.go()

    assert sorted(two.effects()) == [1, 2]
    assert two.committed(MAIN) == two.committed(Partition("t", 1)) == 1
    assert [len(each.worker.assignments) for each in (first, second)] == [1, 1]


# Lost.


def test_lost_commits_nothing(bench: Bench):
    bench.submit(1)
    first, second = bench.member(commit_interval_seconds=1000.0), bench.member()
    first.go()
    commits: list[object] = []
    first.log.before_commit = commits.append

    first.log.expel()
    first.worker.step()
    lost = (bench.effects(), bench.committed(), first.worker.assignments, first.log.assigned)
    second.go()

    assert lost == ([1], 0, [], [])
    assert commits == []
    assert bench.logger.told("partitions lost") == [{"partitions": ["t[0]"]}]
    assert bench.runs == [1]
    assert bench.committed() == 1


def test_stale_owner_writes_nothing(bench: Bench):
    bench.submit(1)
    stale, owner = bench.member(), bench.member()

    def stall(_: object) -> None:
        stale.log.expel()
        owner.go()

    bench.script[1] = [stall]
    stale.go()

    assert bench.runs == [1, 1]
    assert bench.effects() == [1]
    assert stale.worker.assignments == []
    assert (bench.committed(), bench.note()) == (1, "epoch=2 in_flight=0")


def test_newer_epoch_in_the_ledger_gives_the_partition_up_until_it_is_passed(bench: Bench):
    bench.submit(1)
    member = bench.member()
    bench.script[1] = [lambda _: bench.ledger.raise_owner(Owner(GROUP, "t", 0, 3))]

    member.go()
    given_up = (bench.effects(), member.worker.assignments, bench.committed())
    for _ in range(3):
        bench.clock.advance(1.0)
        member.go()

    assert given_up == ([], [], 0)
    assert bench.effects() == [1]
    assert bench.note() == "epoch=3 in_flight=0"


# An append that failed.


@pytest.mark.parametrize("fate", [Fate.FAILS, Fate.ANSWER_LOST])
def test_failed_delivery_gives_the_partition_up_and_takes_it_again(bench: Bench, fate: Fate):
    bench.submit(1)
    bench.fail(1, times=2)
    member = bench.member()
    member.log.fate = lambda _: fate
    member.go()
    given_up = (member.worker.assignments, member.log.assigned, bench.committed())

    member.log.fate = lambda _: Fate.LANDS
    for delay in (1.0, *DELAYS, *DELAYS):
        bench.clock.advance(delay)
        member.go()

    assert given_up == ([], [], 0)
    assert bench.effects() == [1]
    assert "epoch=2 " in bench.note()
    assert [bench.left(each) for each in (MAIN, TIER_1)] == [0, 0]


def test_failed_delivery_of_one_partition_leaves_the_others_alone(bench: Bench):
    two = Bench(bench.ledger, bench.sink, bench.effects, partitions=2)
    two.submit(1, partition=0)
    two.submit(2, partition=1)
    two.fail(1)
    member = two.member()

    def fate(outgoing: Outgoing) -> Fate:
        return Fate.FAILS if outgoing.value is not None else Fate.LANDS

    member.log.fate = fate
    member.go()

    assert [each.partition for each in member.worker.assignments] == [Partition("t", 1)]
    assert two.committed(Partition("t", 1)) == 1
    assert two.effects() == [2]
