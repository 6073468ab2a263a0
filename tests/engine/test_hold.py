"""Dead-letter policy `hold`: the jobs behind a dead one of their key wait for an operator."""

from __future__ import annotations

import pytest

from processor.core.lane import Ordering
from processor.engine.ports import Owner
from processor.errors import Reject, SinkUnavailable
from tests.engine.bench import DELAYS, GROUP, LETTERS, MAIN, TIER_1, Bench, Crash

OWNER = Owner(GROUP, "t", 0, 1)


def dead_at(bench: Bench, n: int) -> None:
    bench.fail(n, fault=Reject("never"))


@pytest.mark.parametrize("ordering", [Ordering.PARTITION, Ordering.KEY])
def test_jobs_behind_a_dead_one_go_to_the_letters_unattempted_and_in_order(
    bench: Bench, ordering: Ordering
):
    for n in range(4):
        bench.submit(n)
    dead_at(bench, 1)

    bench.member(hold=True, ordering=ordering).go(20)

    assert bench.runs == [0, 1]
    assert bench.numbers(LETTERS) == [1, 2, 3]
    assert [hop.held_behind for hop in bench.hops(LETTERS)] == [None, "t-0-1", "t-0-1"]
    assert [hop.attempt for hop in bench.hops(LETTERS)] == [1, 0, 0]
    assert bench.committed() == 4


def test_other_keys_go_on(bench: Bench):
    bench.submit(0, "k")
    bench.submit(1, "other")
    bench.submit(2, None)
    dead_at(bench, 0)

    bench.member(hold=True).go(20)

    assert bench.effects() == [1, 2]


def test_under_continue_nothing_is_held(bench: Bench):
    bench.submit(0)
    bench.submit(1)
    dead_at(bench, 0)

    bench.member(hold=False).go(20)

    assert bench.effects() == [1]


def test_key_stays_closed_for_the_next_owner(bench: Bench):
    bench.submit(0)
    dead_at(bench, 0)
    first = bench.member(hold=True)
    first.go(20)
    first.log.close()
    bench.submit(1)

    bench.member(hold=True).go(20)

    assert bench.numbers(LETTERS) == [0, 1]
    assert bench.effects() == []


def test_replay_runs_the_sequence_in_order_and_opens_the_key(bench: Bench):
    for n in range(3):
        bench.submit(n)
    dead_at(bench, 0)
    member = bench.member(hold=True)
    member.go(20)

    bench.replay(1, 0, 1, 2)
    bench.submit(3)
    member.go(20)

    assert bench.effects() == [0, 1, 2, 3]
    assert bench.ledger.holds(OWNER) == {}
    assert bench.logger.told("key released")


def test_empty_key_is_a_key(bench: Bench):
    bench.submit(0, "")
    bench.submit(1, "")
    dead_at(bench, 0)
    member = bench.member(hold=True)
    member.go(20)

    bench.replay(1, 0, 1, key="")
    member.go(20)

    assert bench.effects() == [0, 1]
    assert bench.ledger.holds(OWNER) == {}


def test_replayed_job_is_tried_as_often_as_a_new_one(bench: Bench):
    bench.submit(0)
    bench.fail(0, times=5)
    member = bench.member(hold=True, tiers=1, attempts_max=3)
    for _ in range(4):
        member.go(20)
        bench.clock.advance(DELAYS[0])

    bench.replay(1, 0)
    for _ in range(4):
        member.go(20)
        bench.clock.advance(DELAYS[0])

    assert [attempt for _, attempt in bench.attempts] == [1, 2, 3, 1, 2, 3]
    assert bench.effects() == [0]


def test_job_that_dies_in_its_replay_closes_the_key_again(bench: Bench):
    for n in range(3):
        bench.submit(n)
    bench.fail(0, fault=Reject("never"))
    member = bench.member(hold=True)
    member.go(20)
    dead_at(bench, 1)

    bench.replay(1, 0, 1, 2)
    member.go(20)
    between = list(bench.effects())
    bench.replay(2, 1, 2)
    member.go(20)

    assert between == [0]
    assert bench.effects() == [0, 1, 2]
    assert bench.ledger.holds(OWNER) == {}
    assert bench.logger.told("key stays held: a job died in the replay or was held since it began")


def test_job_held_while_a_replay_was_on_its_way_keeps_the_key_closed(bench: Bench):
    bench.submit(0)
    dead_at(bench, 0)
    member = bench.member(hold=True)
    member.go(20)

    bench.submit(1)
    bench.replay(1, 0)
    bench.submit(2)
    member.go(20)
    between = list(bench.effects())
    bench.replay(2, 1, 2)
    member.go(20)

    assert between == [0]
    assert bench.effects() == [0, 1, 2]


def test_end_record_waits_behind_its_replay_s_retries(bench: Bench):
    bench.submit(0)
    bench.submit(1)
    bench.script[0] = [Reject("never"), OSError("no answer")]
    member = bench.member(hold=True)
    member.go(20)

    bench.replay(1, 0, 1)
    bench.submit(2)
    member.go(20)
    parked = bench.hops(TIER_1)
    held = bench.ledger.holds(OWNER)
    bench.clock.advance(DELAYS[0])
    member.go(20)

    assert [hop.ends_replay for hop in parked] == [False, False, True, False]
    assert list(held) == [b"k"]
    assert bench.effects() == [0, 1, 2]


def test_release_without_the_dead_job_runs_what_was_held(bench: Bench):
    for n in range(3):
        bench.submit(n)
    dead_at(bench, 0)
    member = bench.member(hold=True)
    member.go(20)

    bench.replay(1, 1, 2)
    member.go(20)

    assert bench.effects() == [1, 2]
    assert bench.ledger.holds(OWNER) == {}


def test_replay_that_was_broken_off_is_made_good_by_the_next(bench: Bench):
    for n in range(3):
        bench.submit(n)
    dead_at(bench, 0)
    member = bench.member(hold=True)
    member.go(20)

    bench.replay(1, 0, 1, end=False)
    bench.submit(3)
    member.go(20)
    between = (list(bench.effects()), list(bench.ledger.holds(OWNER)))
    bench.replay(2, 2, 3)
    member.go(20)

    assert between == ([0, 1], [b"k"])
    assert bench.effects() == [0, 1, 2, 3]


@pytest.mark.parametrize("call", ["held", "unheld", "end_replay"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_crash_around_a_note_of_a_hold_loses_and_doubles_nothing(
    bench: Bench, call: str, when: str
):
    for n in range(3):
        bench.submit(n)
    dead_at(bench, 0)
    first = bench.member(hold=True)

    def crash(name: str) -> None:
        if name == call:
            raise Crash

    setattr(bench.ledger, when, crash)
    if call != "held":
        first.go(20)
        bench.replay(1, 0, 1, 2)
    first.go_until_crash()
    second = bench.restart(hold=True)
    second.go(20)
    if bench.ledger.holds(OWNER):
        bench.replay(2, 0, 1, 2)
        second.go(20)

    assert bench.effects() == [0, 1, 2]
    assert bench.ledger.holds(OWNER) == {}


def test_held_jobs_wait_for_a_ledger_that_is_away(bench: Bench):
    bench.submit(0)
    bench.submit(1)
    dead_at(bench, 0)
    member = bench.member(hold=True)
    faults = [SinkUnavailable("away")] * 2

    def away(call: str) -> None:
        if call == "held" and faults:
            raise faults.pop()

    bench.ledger.before = away
    member.go(20)
    committed = bench.committed()
    for _ in range(3):
        bench.clock.advance(1.0)
        member.go(20)

    assert committed == 1
    assert bench.committed() == 2
    assert bench.numbers(LETTERS) == [0, 1]


def test_dead_job_that_comes_again_is_not_held_behind_itself(bench: Bench):
    bench.submit(0)
    dead_at(bench, 0)
    first = bench.member(hold=True)

    def crash(name: str) -> None:
        if name == "dead":
            raise Crash

    bench.ledger.after = crash
    first.go_until_crash()
    bench.restart(hold=True).go(20)

    assert bench.runs == [0]
    assert [hop.held_behind for hop in bench.hops(LETTERS)] == [None]
    assert bench.committed() == 1


def test_status_tells_of_a_held_job(bench: Bench):
    bench.submit(0)
    bench.submit(1)
    dead_at(bench, 0)

    bench.member(hold=True, publish_status=True).go(20)

    assert [(each["job_id"], each["state"]) for each in bench.statuses()] == [
        ("job-0", "dead"), ("job-1", "held"),
    ]  # fmt: skip


def test_job_that_claims_a_replay_with_a_foreign_origin_is_a_new_job(bench: Bench):
    written = [("ce_id", b"job-1"), ("ce_type", b"count"), ("processor-replay", b"7"),
               ("processor-origin-topic", b"elsewhere"), ("processor-origin-partition", b"0"),
               ("processor-origin-offset", b"0")]  # fmt: skip
    bench.append(b"1", written=written)

    bench.member(hold=True).go(20)

    assert bench.effects() == [1]
    assert bench.committed(MAIN) == 1


def test_replayed_job_runs_again_under_continue_too(bench: Bench):
    bench.submit(0)
    dead_at(bench, 0)
    member = bench.member()
    member.go(20)

    bench.replay(1, 0, end=False)
    member.go(20)
    bench.replay(1, 0, end=False)
    member.go(20)

    assert bench.runs == [0, 0]
    assert bench.effects() == [0]
