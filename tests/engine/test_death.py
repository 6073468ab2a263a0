"""A job that dies: `dying` in the ledger, letter, `dead` in the ledger, settled, in this order."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from processor.core.lane import Ordering
from processor.engine.ports import CommitRefused, Owner, OwnershipLost
from processor.engine.slices import Slice
from processor.errors import Reject, SinkUnavailable
from processor.model import Effect, Outgoing, Partition, Position
from processor.testing import Fate
from tests.engine.bench import GROUP, LETTERS, Bench, Crash, Member, crash_at


def state_of(bench: Bench, job_id: str = "job-1") -> str | None:
    row = bench.ledger.lookup([f"job:{job_id}"]).get(f"job:{job_id}")
    return None if row is None else row.state


def test_letter_carries_the_original_bytes_and_what_is_known_of_the_failure(bench: Bench):
    bench.submit(1, x_mine="kept")
    bench.fail(1, fault=Reject("no such customer"))

    bench.member().go()

    source, letter = bench.copies(Partition("t", 0))[0], bench.copies(LETTERS)[0]
    assert (letter.key, letter.value) == (source.key, source.value)
    assert bench.own_headers(letter) == source.headers
    hop = bench.hops(LETTERS)[0]
    assert (hop.error_class, hop.error_message) == ("Reject", "no such customer")
    assert (hop.attempt, hop.origin.offset, hop.epoch) == (1, 0, 1)
    assert hop.fingerprint


def test_each_step_of_a_death_waits_for_the_one_before(bench: Bench):
    bench.submit(1)
    bench.fail(1, fault=Reject("never"))
    member = bench.member()
    member.log.answers_held = True
    seen = []

    def look(step: str) -> None:
        seen.append((step, state_of(bench), bench.numbers(LETTERS), bench.committed()))

    member.worker.step()
    member.pool.run_all()
    member.worker.step()
    look("judged")
    member.pool.run_all()
    look("dying noted")
    member.worker.step()
    look("letter appended")
    member.log.answers_held = False
    member.worker.step()
    look("letter acknowledged")
    member.pool.run_all()
    look("dead noted")
    member.worker.step()
    look("settled")

    assert seen == [
        ("judged", None, [], 0),
        ("dying noted", "dying", [], 0),
        ("letter appended", "dying", [1], 0),
        ("letter acknowledged", "dying", [1], 0),
        ("dead noted", "dead", [1], 0),
        ("settled", "dead", [1], 1),
    ]


def _before_dying(member: Member, bench: Bench) -> None:
    bench.ledger.before = crash_at("dying")


def _after_dying(member: Member, bench: Bench) -> None:
    bench.ledger.after = crash_at("dying")


def _before_the_letter(member: Member, bench: Bench) -> None:
    def crash(outgoing: Outgoing) -> Fate:
        raise Crash

    member.log.fate = crash


def _before_dead(member: Member, bench: Bench) -> None:
    bench.ledger.before = crash_at("dead")


def _after_dead(member: Member, bench: Bench) -> None:
    bench.ledger.after = crash_at("dead")


def _before_the_commit(member: Member, bench: Bench) -> None:
    def crash(_: object) -> None:
        if state_of(bench) == "dead":
            raise Crash

    member.log.before_commit = crash


def _after_the_commit(member: Member, bench: Bench) -> None:
    def crash(_: object) -> None:
        if state_of(bench) == "dead":
            raise Crash

    member.log.after_commit = crash


CRASHES: list[tuple[Callable[[Member, Bench], None], int, int]] = [
    # Where the process ends, letters appended in all, runs in all.
    (_before_dying, 1, 2),
    (_after_dying, 1, 1),
    (_before_the_letter, 1, 1),
    (_before_dead, 2, 1),
    (_after_dead, 1, 1),
    (_before_the_commit, 1, 1),
    (_after_the_commit, 1, 1),
]


@pytest.mark.parametrize(
    ("crash", "letters", "runs"), CRASHES, ids=[each[0].__name__ for each in CRASHES]
)
def test_crash_between_two_steps_of_a_death_leaves_one_dead_job(
    bench: Bench, crash: Callable[[Member, Bench], None], letters: int, runs: int
):
    bench.submit(1)
    bench.submit(2)
    bench.fail(1, times=2, fault=Reject("never"))
    first = bench.member(slice_records_max=1)
    crash(first, bench)
    first.go_until_crash()

    bench.restart().go()

    assert bench.numbers(LETTERS) == [1] * letters
    assert {name for each in bench.copies(LETTERS) for name in dict(each.headers)} >= {"ce_id"}
    assert {dict(each.headers)["ce_id"] for each in bench.copies(LETTERS)} == {b"job-1"}
    assert state_of(bench) == "dead"
    assert bench.runs.count(1) == runs
    assert bench.effects() == [2]
    assert bench.committed() == 2


def test_crash_while_the_letter_is_not_acknowledged_appends_it_again(bench: Bench):
    bench.submit(1)
    bench.fail(1, fault=Reject("never"))
    first = bench.member()
    first.log.answers_held = True
    first.go()
    first.log.expel()

    bench.restart().go()

    assert bench.runs == [1]
    assert bench.numbers(LETTERS) == [1, 1]
    assert state_of(bench) == "dead"
    assert bench.committed() == 1


def test_letter_written_again_tells_the_first_failure(bench: Bench):
    bench.submit(1)
    bench.fail(1, fault=Reject("no such customer"))
    bench.ledger.after = crash_at("dying")
    bench.member().go_until_crash()

    bench.restart().go()

    assert bench.hops(LETTERS)[0].error_message == "no such customer"


@pytest.mark.parametrize("crash", [_before_dying, _after_dying, _before_the_letter, _before_dead])
def test_job_that_succeeds_gets_no_letter_whatever_crashes(
    bench: Bench, crash: Callable[[Member, Bench], None]
):
    bench.submit(1)
    bench.submit(2, "other")
    bench.fail(2, times=1, fault=Reject("never"))
    first = bench.member()
    crash(first, bench)
    first.go_until_crash()
    bench.script.clear()

    bench.restart().go()

    assert 1 not in bench.numbers(LETTERS)
    assert bench.effects().count(1) == 1
    # Job 2 is dead where its death was noted, and else has succeeded: never both.
    assert (2 in bench.effects()) != (state_of(bench, "job-2") == "dead")
    assert (2 in bench.numbers(LETTERS)) == (state_of(bench, "job-2") == "dead")


def test_job_that_took_effect_meanwhile_is_settled_without_a_letter(bench: Bench):
    bench.submit(1)
    bench.fail(1, fault=Reject("never"))
    member = bench.member(publish_status=True)
    member.worker.step()
    member.pool.run_all()
    member.worker.step()

    effect = Effect("job-1", "count", "job:job-1", Position("t", 0, 0), 1, "k", {"n": 1})
    bench.ledger.record(Owner(GROUP, "t", 0, 1), [effect])
    member.go()

    assert bench.numbers(LETTERS) == []
    assert state_of(bench) == "done"
    assert bench.committed() == 1
    assert [each["state"] for each in bench.statuses()] == ["succeeded"]


@pytest.mark.parametrize("ordering", [Ordering.PARTITION, Ordering.KEY])
def test_next_job_of_the_key_runs_only_when_the_death_is_noted(bench: Bench, ordering: Ordering):
    bench.submit(1)
    bench.submit(2)
    bench.fail(1, fault=Reject("never"))
    member = bench.member(ordering=ordering)
    member.worker.step()
    member.pool.run_next()
    member.worker.step()

    waiting = [isinstance(work, Slice) for work in member.pool.pending]
    member.pool.run_next()
    noted = state_of(bench)
    member.worker.step()

    assert waiting == [False]
    assert noted == "dying"
    assert [isinstance(work, Slice) for work in member.pool.pending] == [True]
    member.go()
    assert bench.effects() == [2]


def test_outage_of_the_ledger_during_a_death_is_waited_for(bench: Bench):
    bench.submit(1)
    bench.fail(1, fault=Reject("never"))
    away = ["dying", "dead"]

    def fault(call: str) -> None:
        if call in away:
            away.remove(call)
            raise SinkUnavailable("the ledger is away")

    bench.ledger.before = fault
    member = bench.member()

    member.go()
    waiting = (bench.numbers(LETTERS), bench.committed())
    for _ in range(3):
        bench.clock.advance(1.0)
        member.go()

    assert waiting == ([], 0)
    assert bench.numbers(LETTERS) == [1]
    assert state_of(bench) == "dead"
    assert bench.runs == [1]
    assert bench.committed() == 1


@pytest.mark.parametrize("call", ["dying", "dead"])
def test_answer_of_the_ledger_that_is_lost_does_no_harm(bench: Bench, call: str):
    bench.submit(1)
    bench.fail(1, fault=Reject("never"))
    lost = [call]

    def lose(name: str) -> None:
        if name in lost:
            lost.remove(name)
            raise SinkUnavailable("the answer did not come")

    bench.ledger.after = lose
    member = bench.member()

    member.go()
    bench.clock.advance(1.0)
    member.go()

    assert bench.numbers(LETTERS) == [1]
    assert state_of(bench) == "dead"
    assert bench.committed() == 1


def test_death_of_a_partition_that_is_another_s_is_not_noted(bench: Bench):
    bench.submit(1)
    bench.fail(1, fault=Reject("never"))
    member = bench.member()

    def refuse(_: object) -> None:
        raise CommitRefused("not a member")

    def newer(call: str) -> None:
        if call == "dying":
            raise OwnershipLost("t[0] has a newer owner than epoch 1")

    bench.ledger.before = newer
    member.worker.step()
    member.log.before_commit = refuse
    member.go()

    assert bench.numbers(LETTERS) == []
    assert state_of(bench) is None
    assert member.worker.assignments == []
    assert bench.committed() == 0
