"""A job that comes again takes effect once: by its id, and by its producer's idempotency key."""

from __future__ import annotations

import json

import pytest

from processor.core.lane import Ordering
from processor.engine.ports import Death, Owner
from processor.engine.replay import letter_of
from processor.errors import Reject, SinkUnavailable
from processor.model import Failure, Position
from tests.engine.bench import LETTERS, Bench, Crash, crash_at


def test_duplicate_idempotency_key_settles_with_the_first_s_result(bench: Bench):
    bench.submit(1, "a", idempotency_key="order-7")
    bench.submit(2, "b", idempotency_key="order-7")
    member = bench.member(publish_status=True, slice_records_max=1)

    member.go()

    assert bench.runs == [1]
    assert bench.effects() == [1]
    assert bench.committed() == 2
    assert [(each["job_id"], each["state"]) for each in bench.statuses()] == [
        ("job-1", "succeeded"),
        ("job-2", "duplicate"),
    ]
    assert json.loads(bench.statuses()[1]["result"]) == {"n": 1}
    assert member.telemetry.outcomes == {"done": 1, "repeated": 1}


def test_same_identity_twice_inside_one_slice_runs_once(bench: Bench):
    for n in (1, 2, 3):
        bench.submit(n, idempotency_key="order-7" if n < 3 else None)
    calls: list[str] = []
    bench.ledger.before = calls.append
    member = bench.member(publish_status=True)

    member.go()

    assert bench.runs == [1, 3]
    assert bench.effects() == [1, 3]
    assert calls.count("lookup") == 2
    assert [each["state"] for each in bench.statuses()] == ["succeeded", "duplicate", "succeeded"]


def test_same_job_id_twice_runs_once_and_is_told_as_succeeded(bench: Bench):
    bench.submit(1)
    bench.submit(2, ce_id="job-1")

    bench.member(publish_status=True).go()

    assert bench.runs == [1]
    assert bench.committed() == 2
    assert [each["state"] for each in bench.statuses()] == ["succeeded", "succeeded"]


def test_same_idempotency_key_of_another_job_type_is_another_job(bench: Bench):
    bench.submit(1, idempotency_key="order-7")
    bench.submit(2, idempotency_key="order-7", ce_type="other")

    bench.member().go()

    assert bench.effects() == [1]
    assert bench.hops(LETTERS)[0].error_message == "header says `other`, the value is a `count`"


def test_idempotency_key_without_a_type_header_is_known_by_the_value_s_type(bench: Bench):
    bench.submit(1, idempotency_key="order-7")
    bench.submit(2, idempotency_key="order-7", ce_type=None)
    bench.submit(3, idempotency_key="order-7", ce_type=None)

    bench.member(slice_records_max=1).go()

    assert bench.runs == [1]
    assert bench.committed() == 3


def test_record_without_any_header_is_known_by_its_place(bench: Bench):
    bench.append(b"1", written=[])
    bench.append(b"1", written=[])

    bench.member().go()

    assert bench.runs == [1, 1]
    assert bench.effects() == [1, 1]
    at = int(bench.clock.now() * 1000)
    identities = {f"job:t-0-0@{at}", f"job:t-0-1@{at}"}
    assert bench.ledger.lookup(list(identities)).keys() == identities


def test_jobs_known_by_their_place_are_others_once_the_topic_is_made_anew(bench: Bench):
    bench.append(b"1", written=[])
    bench.append(b"2", written=[("not-before", b"soon")])
    bench.member(publish_status=True).go()
    first = (list(bench.runs), bench.numbers(LETTERS))

    bench.clock.advance(1.0)
    bench.make_topics()
    bench.append(b"3", written=[])
    bench.append(b"4", written=[("not-before", b"soon")])
    bench.member(publish_status=True).go()

    assert first == ([1], [2])
    assert bench.runs == [1, 3]
    assert bench.effects() == [1, 3]
    assert bench.numbers(LETTERS) == [4]
    assert [each["state"] for each in bench.statuses()] == ["succeeded", "dead"]


def test_job_known_by_its_place_is_known_wherever_it_is_parked(bench: Bench):
    bench.append(b"1", written=[])
    bench.fail(1)
    member = bench.member()
    member.go()
    at = int(bench.clock.now() * 1000)
    bench.clock.advance(5.0)
    bench.ledger.after = crash_at("record")
    member.go_until_crash()
    bench.restart().go()

    assert bench.effects() == [1]
    assert bench.ledger.lookup([f"job:t-0-0@{at}"]) != {}


def test_operators_know_a_dead_job_by_the_identity_that_the_ledger_has(bench: Bench):
    bench.append(b"1", written=[])
    bench.append(b"2", written=[("not-before", b"soon")])
    bench.fail(1, fault=Reject("never"))
    bench.member().go()

    letters = [letter_of(each) for each in bench.copies(LETTERS)]
    identities = [each.identity for each in letters if each is not None]
    rows = bench.ledger.lookup(identities)
    assert [rows[each].state for each in identities] == ["dead", "dead"]


def test_two_runs_side_by_side_with_one_idempotency_key_take_effect_once(bench: Bench):
    bench.submit(1, "a", idempotency_key="order-7")
    bench.submit(2, "b", idempotency_key="order-7")
    member = bench.member(ordering=Ordering.KEY, publish_status=True)
    bench.script[1] = [lambda _: member.pool.run_next()]

    member.go()

    assert bench.runs == [1, 2]
    assert bench.effects() == [2]
    assert bench.committed() == 2
    told = {each["job_id"]: (each["state"], each["result"]) for each in bench.statuses()}
    assert told == {"job-2": ("succeeded", '{"n": 2}'), "job-1": ("duplicate", '{"n": 2}')}


def test_job_with_the_key_of_a_job_that_died_is_run(bench: Bench):
    bench.submit(1, "a", idempotency_key="order-7")
    bench.submit(2, "b", idempotency_key="order-7")
    bench.fail(1, fault=Reject("never"))

    bench.member(slice_records_max=1).go()

    assert bench.numbers(LETTERS) == [1]
    assert bench.effects() == [2]
    assert bench.committed() == 2


def test_dead_job_that_comes_again_is_not_run(bench: Bench):
    bench.submit(1)
    bench.fail(1, fault=Reject("never"))
    member = bench.member(publish_status=True)
    member.go()

    bench.submit(2, ce_id="job-1")
    member.go()

    assert bench.runs == [1]
    assert bench.numbers(LETTERS) == [1]
    assert bench.committed() == 2
    assert [each["state"] for each in bench.statuses()] == ["dead", "dead"]


def test_run_whose_job_died_meanwhile_takes_no_effect_and_is_not_told_as_succeeded(bench: Bench):
    bench.submit(1, None)
    bench.submit(2, None, ce_id="job-1")
    member = bench.member(ordering=Ordering.NONE, publish_status=True)
    bench.fail(2, fault=Reject("never"))

    def let_the_other_die(_: object) -> None:
        member.pool.run_next()
        for _turn in range(4):
            member.worker.step()
            member.pool.run_next()

    bench.script[1] = [let_the_other_die]
    member.go()

    assert bench.runs == [1, 2]
    assert bench.effects() == []
    assert set(bench.numbers(LETTERS)) == {2}
    assert {each["state"] for each in bench.statuses()} == {"dead"}
    assert bench.committed() == 2


def test_write_whose_answer_was_lost_is_done_once_and_told_as_succeeded(bench: Bench):
    bench.submit(1)
    lost = ["record"]

    def lose(call: str) -> None:
        if call in lost:
            lost.remove(call)
            raise SinkUnavailable("the answer did not come")

    bench.ledger.after = lose
    member = bench.member(publish_status=True)

    member.go()
    bench.clock.advance(1.0)
    member.go()

    assert bench.runs == [1]
    assert bench.effects() == [1]
    assert [(each["state"], each["result"]) for each in bench.statuses()] == [
        ("succeeded", '{"n": 1}')
    ]


@pytest.mark.parametrize("publish_status", [False, True])
def test_job_redelivered_after_a_crash_is_told_again(bench: Bench, publish_status: bool):
    bench.submit(1)
    bench.ledger.after = crash_at("record")
    bench.member().go_until_crash()

    bench.restart(publish_status=publish_status).go()

    assert bench.runs == [1]
    assert [each["state"] for each in bench.statuses()] == ["succeeded"] * publish_status


def test_job_whose_key_another_worker_s_job_dies_with_has_a_letter_of_its_own(bench: Bench):
    other = Owner("g", "other", 7, 1)
    failure = Failure("Reject", "never", permanent=True)
    theirs = Death("key:count:order-7", "job-9", "count", Position("other", 7, 1), 1, b"k", failure)
    bench.ledger.dying(other, [theirs])
    bench.submit(1, idempotency_key="order-7")
    bench.fail(1, fault=Reject("never"))

    def crash_once_noted(call: str) -> None:
        if call == "dying":
            bench.ledger.after = lambda _: None
            bench.ledger.dead(other, [theirs])
            raise Crash

    bench.ledger.after = crash_once_noted
    bench.member().go_until_crash()
    letters_before = bench.numbers(LETTERS)
    bench.restart().go()

    assert letters_before == []
    assert bench.numbers(LETTERS) == [1]
    assert bench.runs == [1]
    assert bench.committed() == 1


def test_dead_job_of_a_key_stays_dead_when_another_of_it_died_after(bench: Bench):
    for n in (1, 2):
        bench.submit(n, idempotency_key="order-7")
        bench.fail(n, fault=Reject("never"))
    bench.submit(1, idempotency_key="order-7")
    bench.script[1] = bench.script[1][:1]

    bench.member(slice_records_max=1).go(16)

    assert bench.runs == [1, 2]
    assert bench.numbers(LETTERS) == [1, 2]
    assert bench.effects() == []
    assert bench.committed() == 3
