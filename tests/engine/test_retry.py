"""A job that fails: its way through the tiers, and what waits behind it."""

from __future__ import annotations

import json

import pytest

from processor.contracts import headers
from processor.core.lane import Ordering
from processor.errors import Reject, Retry
from processor.model import Headers
from tests.engine.bench import DELAYS, LETTERS, MAIN, TIER_1, TIER_2, Bench, Member


def test_failed_job_goes_to_tier_1_with_attempt_1_and_its_original_bytes(bench: Bench):
    bench.submit(1, traceparent="00-1-1-00", x_mine="kept")
    bench.fail(1)
    started = bench.clock.now()

    bench.member().go()

    source, copy = bench.copies(MAIN)[0], bench.copies(TIER_1)[0]
    assert (copy.key, copy.value, copy.partition) == (source.key, source.value, source.partition)
    assert bench.own_headers(copy) == source.headers
    hop = bench.hops(TIER_1)[0]
    assert (hop.origin.topic, hop.origin.partition, hop.origin.offset) == ("t", 0, 0)
    assert (hop.attempt, hop.epoch) == (1, 1)
    assert hop.not_before_ms == int((started + DELAYS[0]) * 1000)
    assert (hop.error_class, hop.error_message) == ("OSError", "no answer")
    assert hop.first_failure_ms == hop.last_failure_ms == int(started * 1000)
    assert hop.origin_timestamp_ms == source.timestamp_ms
    assert bench.effects() == []


def test_source_offset_of_a_failed_job_settles_only_after_the_ack(bench: Bench):
    bench.submit(1)
    bench.fail(1)
    member = bench.member()
    member.log.answers_held = True

    member.go()
    before = (bench.numbers(TIER_1), bench.committed())
    member.log.answers_held = False
    member.go()

    assert before == ([1], 0)
    assert bench.committed() == 1


def test_tier_record_waits_for_its_not_before(bench: Bench):
    bench.submit(1)
    bench.fail(1)
    member = bench.member()
    member.go()

    bench.clock.advance(DELAYS[0] - 0.001)
    member.go()
    early = list(bench.runs)
    bench.clock.advance(0.001)
    member.go()

    assert early == [1]
    assert bench.attempts == [(1, 1), (1, 2)]
    assert bench.effects() == [1]
    assert (bench.left(TIER_1), bench.note(TIER_1)) == (0, "floor=1")


def test_each_failed_run_goes_one_tier_further(bench: Bench):
    bench.submit(1)
    bench.fail(1, times=2)
    member = bench.member()

    for delay in (0.0, *DELAYS):
        bench.clock.advance(delay)
        member.go()

    assert [hop.attempt for hop in bench.hops(TIER_1) + bench.hops(TIER_2)] == [1, 2]
    assert bench.attempts == [(1, 1), (1, 2), (1, 3)]
    assert bench.effects() == [1]
    assert [bench.left(each) for each in (MAIN, TIER_1, TIER_2)] == [0, 0, 0]


def test_last_tier_waits_in_place(bench: Bench):
    bench.submit(1)
    bench.submit(2, "other")
    bench.fail(1, times=4)
    bench.fail(2, times=2)
    member = bench.member(attempts_max=5)

    for delay in (0.0, *DELAYS):
        bench.clock.advance(delay)
        member.go()
    in_place = (bench.numbers(TIER_2), bench.effects(), bench.left(TIER_2))
    for _ in range(2):
        bench.clock.advance(DELAYS[-1])
        member.go()

    assert in_place == ([1, 2], [2], 2)
    assert bench.numbers(TIER_2) == [1, 2]
    assert bench.effects() == [2, 1]
    assert bench.left(TIER_2) == 0


def test_job_that_waited_in_place_leaves_no_fence_behind(bench: Bench):
    bench.submit(1)
    bench.fail(1, times=3)
    member = bench.member(attempts_max=4)
    for delay in (0.0, *DELAYS, DELAYS[-1]):
        bench.clock.advance(delay)
        member.go()

    bench.submit(2)
    member.go()

    assert bench.effects() == [1, 2]
    assert bench.numbers(TIER_2) == [1]
    assert member.worker.assignments[0].fence.held == 0


def test_topic_without_tiers_waits_in_place(bench: Bench):
    bench.submit(1)
    bench.submit(2)
    bench.fail(1)
    member = bench.member(tiers=0, attempts_max=2)

    member.go()
    waiting = list(bench.runs)
    bench.clock.advance(1.0)
    member.go()

    assert waiting == [1]
    assert bench.effects() == [1, 2]
    assert bench.committed() == 2


@pytest.mark.parametrize("after", [float("inf"), float("nan"), -1.0])
def test_retry_at_no_time_is_the_handler_s_mistake(after: float):
    with pytest.raises(ValueError, match="a number of seconds"):
        Retry("later", after=after)


def test_retry_asked_for_in_a_million_years_keeps_its_attempts(bench: Bench):
    bench.submit(1)
    bench.fail(1, fault=Retry("later", after=1e17))
    bench.member().go()

    (hop,) = bench.hops(TIER_1)
    assert hop.attempt == 1
    assert hop.not_before_ms < (bench.clock.now() + 367 * 86_400) * 1000


FOREIGN = [
    ("processor-origin-topic", b"t"), ("processor-origin-partition", b"0"),
    ("processor-origin-offset", b"0"),
]  # fmt: skip


@pytest.mark.parametrize(
    "written",
    [
        [*FOREIGN, ("processor-replay", b"9" * 19)],
        [*FOREIGN, ("processor-replay", b"1"), ("processor-attempt", b"9" * 19)],
    ],
)
@pytest.mark.parametrize("hold", [False, True])
def test_foreign_record_with_a_number_beyond_64_bits_is_a_job_like_any_other(
    bench: Bench, written: list[tuple[str, bytes]], hold: bool
):
    bench.submit(0)
    bench.broker.append("t", 0, key=b"k", value=b"5", headers=written)
    bench.submit(1, "b")
    bench.member(hold=hold).go(20)

    assert sorted(bench.effects()) == [0, 1, 5]
    assert bench.committed() == 3


def test_end_of_a_replay_without_a_key_is_no_such_thing(bench: Bench):
    bench.broker.append("t", 0, key=None, value=None, headers=headers.write_replay_end(1))
    bench.submit(1)
    bench.member().go(20)

    assert bench.effects() == [1]
    assert bench.committed() == 2


def test_delay_that_the_handler_asks_for_replaces_the_tiers(bench: Bench):
    bench.submit(1)
    bench.fail(1, fault=Retry("busy", after=120.0))
    member = bench.member()
    member.go()

    bench.clock.advance(119.0)
    member.go()
    early = list(bench.runs)
    bench.clock.advance(1.0)
    member.go()

    assert early == [1]
    assert bench.effects() == [1]


@pytest.mark.parametrize("fault", [Reject("never"), ZeroDivisionError("listed by the job")])
def test_permanent_failure_skips_the_tiers(bench: Bench, fault: Exception):
    bench.submit(1)
    bench.fail(1, fault=fault)

    bench.member().go()

    assert bench.numbers(TIER_1) == []
    assert bench.numbers(LETTERS) == [1]
    assert bench.hops(LETTERS)[0].attempt == 1
    assert bench.committed() == 1


def test_undecodable_record_travels_as_it_is(bench: Bench):
    bench.append(b"\xff\x00", written=[("ce_id", b"x"), ("mine", b"\x01")])
    bench.submit(2)

    bench.member().go()

    letter = bench.copies(LETTERS)[0]
    assert (letter.key, letter.value) == (b"k", b"\xff\x00")
    assert bench.own_headers(letter) == [("ce_id", b"x"), ("mine", b"\x01")]
    assert bench.hops(LETTERS)[0].error_class == "ContractError"
    assert bench.effects() == [2]
    assert bench.committed() == 2


@pytest.mark.parametrize(
    "written",
    [
        [("ce_id", b"x" * 257)],
        [("ce_id", b"a\0b")],
        [("idempotency-key", b"a\0b")],
        [("ce_type", b"count\0")],
        [("deadline", b"soon")],
    ],
)
def test_record_with_malformed_headers_of_its_own_is_dead(
    bench: Bench, written: list[tuple[str, bytes]]
):
    bench.append(b"1", written=written)
    bench.submit(2)

    bench.member().go()

    assert bench.runs == [2]
    assert bench.numbers(LETTERS) == [1]
    assert bench.own_headers(bench.copies(LETTERS)[0]) == written
    assert bench.committed() == 2


def test_job_whose_deadline_has_passed_is_not_run(bench: Bench):
    bench.submit(1, deadline=int(bench.clock.now() * 1000) - 1)
    bench.submit(2, deadline=int(bench.clock.now() * 1000) + 1)

    bench.member().go()

    assert bench.runs == [2]
    assert bench.numbers(LETTERS) == [1]


def test_headers_are_replaced_and_never_appended_over_many_hops(bench: Bench):
    bench.submit(1, x_mine="kept")
    bench.fail(1, times=3)
    member = bench.member()

    for delay in (0.0, *DELAYS):
        bench.clock.advance(delay)
        member.go()

    source = bench.copies(MAIN)[0]
    for place in (TIER_1, TIER_2, LETTERS):
        (copy,) = bench.copies(place)
        names = [name for name, _ in copy.headers]
        assert len(names) == len(set(names))
        assert bench.own_headers(copy) == source.headers
    first, last = bench.hops(TIER_1)[0], bench.hops(LETTERS)[0]
    assert last.first_failure_ms == first.first_failure_ms
    assert last.last_failure_ms == int(bench.clock.now() * 1000)
    assert (last.origin, last.attempt) == (first.origin, 3)


def test_copy_with_malformed_headers_of_ours_starts_anew_and_its_job_runs(bench: Bench):
    written = [("ce_id", b"job-1"), (headers.HOP_ORIGIN_OFFSET, b"x"), (headers.HOP_ATTEMPT, b"2")]
    bench.broker.append("t.retry.1", 0, key=b"k", value=b"1", headers=written)

    bench.member().go()

    assert bench.attempts == [(1, 1)]
    assert bench.left(TIER_1) == 0


# The fence.


def test_later_job_of_a_failing_key_is_held_and_other_keys_pass(bench: Bench):
    for n, key in (1, "a"), (2, "a"), (3, "b"), (4, "a"):
        bench.submit(n, key)
    bench.fail(1)
    member = bench.member()

    member.go()
    held = (bench.numbers(TIER_1), bench.effects(), bench.committed())
    bench.clock.advance(DELAYS[0])
    member.go()

    assert held == ([1, 2, 4], [3], 4)
    assert [hop.attempt for hop in bench.hops(TIER_1)] == [1, 0, 0]
    assert bench.effects() == [3, 1, 2, 4]
    assert bench.attempts == [(1, 1), (3, 1), (1, 2), (2, 1), (4, 1)]


def test_same_key_never_overtakes_through_all_tiers(bench: Bench):
    for n in range(4):
        bench.submit(n, "a")
    bench.fail(0, times=2)
    bench.fail(1, times=1)
    bench.fail(2, times=2)
    member = bench.member(ordering=Ordering.KEY)

    _pass_all_delays(member, bench)
    bench.submit(4, "a")
    _pass_all_delays(member, bench)

    assert bench.effects() == [0, 1, 2, 3, 4]
    assert [bench.left(each) for each in (MAIN, TIER_1, TIER_2)] == [0, 0, 0]


def test_held_job_joins_the_nearest_tier_ahead(bench: Bench):
    for n in range(3):
        bench.submit(n, "a")
    bench.fail(0, times=2)
    member = bench.member()
    member.go()
    bench.clock.advance(DELAYS[0])
    member.go()

    bench.submit(3, "a")
    member.go()

    assert bench.numbers(TIER_1) == [0, 1, 2]
    assert bench.numbers(TIER_2) == [0, 1, 2, 3]
    _pass_all_delays(member, bench)
    assert bench.effects() == [0, 1, 2, 3]


def test_key_goes_on_when_its_job_has_died(bench: Bench):
    for n in range(3):
        bench.submit(n, "a")
    bench.fail(1, fault=Reject("never"))

    bench.member().go()

    assert bench.effects() == [0, 2]
    assert bench.numbers(LETTERS) == [1]
    assert bench.numbers(TIER_1) == []


def test_jobs_without_a_key_hold_nothing_back(bench: Bench):
    bench.submit(1, None)
    bench.submit(2, None)
    bench.fail(1)
    member = bench.member()

    member.go()

    assert bench.numbers(TIER_1) == [1]
    assert bench.effects() == [2]
    _pass_all_delays(member, bench)
    assert bench.effects() == [2, 1]


def test_copy_that_is_read_before_its_ack_leaves_no_fence_behind(bench: Bench):
    bench.submit(1, "a")
    bench.fail(1, fault=Retry("at once", after=0.0))
    member = bench.member()
    member.log.answers_held = True
    member.go()
    member.log.answers_held = False
    member.go()

    bench.submit(2, "a")
    member.go()

    assert bench.effects() == [1, 2]
    assert bench.numbers(TIER_1) == [1]
    assert member.worker.assignments[0].fence.held == 0


def test_copy_that_has_landed_runs_without_being_fetched(bench: Bench):
    member = _behind_its_marker(bench)
    bench.submit(1)
    bench.fail(1)
    member.go()
    bench.clock.advance(DELAYS[0])
    member.go()
    ran = list(bench.runs)
    member.log.resume([TIER_1])
    member.go()

    assert ran == bench.runs == [1, 1]  # Fetched later, it is left out.
    assert bench.left(TIER_1) == 0


def test_copy_that_has_landed_behind_what_is_not_fetched_yet_waits_for_it(bench: Bench):
    member = _behind_its_marker(bench)
    bench.broker.append(*TIER_1, key=b"a", value=b"1", headers=[])  # A stranger's.
    bench.submit(2, "a")
    bench.fail(2)
    member.go()
    bench.clock.advance(DELAYS[0])
    member.go()
    ran = list(bench.runs)
    member.log.resume([TIER_1])
    member.go()

    assert ran == [2]
    assert bench.runs == [2, 1, 2]


def test_copies_that_have_landed_are_bounded_by_memory(bench: Bench):
    member = bench.member(lane_records_max=4000, memory_max=400_000)
    member.go()
    largest = 0

    for n in range(200):
        bench.fail(n, times=9)
        value = json.dumps(n).rjust(10_000).encode()
        named: Headers = [("ce_id", f"job-{n}".encode()), ("ce_type", b"count")]
        bench.append(value, f"k{n}", written=named)
        if n % 5 == 4:
            member.go(2)
            largest = max(largest, member.worker.intake.bytes)

    assert largest <= 500_000


def _behind_its_marker(bench: Bench) -> Member:
    """A member that has read its marker, and from now on nothing of its first tier."""
    member = bench.member()
    member.go()
    member.log.pause([TIER_1])
    return member


def test_nothing_overtakes_a_retried_job_where_the_fence_is_the_partition_s(bench: Bench):
    for n, key in (1, "a"), (2, "b"), (3, None):
        bench.submit(n, key)
    bench.fail(1)
    member = bench.member(fence=Ordering.PARTITION)

    member.go()
    held = (bench.numbers(TIER_1), bench.effects())
    _pass_all_delays(member, bench)

    assert held == ([1, 2, 3], [])
    assert bench.effects() == [1, 2, 3]


def test_job_with_not_before_is_not_parked_ahead_of_what_runs_where_nothing_may_overtake(
    bench: Bench,
):
    bench.submit(1, "a")
    bench.submit(2, "b", not_before=int((bench.clock.now() + 1) * 1000))
    bench.fail(1)
    member = bench.member(fence=Ordering.PARTITION)

    _pass_all_delays(member, bench)

    assert bench.numbers(TIER_1) == [1, 2]
    assert bench.effects() == [1, 2]


# Jobs that ask to start later.


def test_job_with_not_before_is_parked_in_tier_1(bench: Bench):
    at = bench.clock.now() + 30
    bench.submit(1, "a", not_before=int(at * 1000))
    bench.submit(2, "b")
    member = bench.member()

    member.go()
    parked = (bench.numbers(TIER_1), list(bench.runs), bench.committed())
    bench.clock.advance(30)
    member.go()

    assert parked == ([1], [2], 2)
    assert bench.hops(TIER_1)[0].attempt == 0
    assert bench.attempts == [(2, 1), (1, 1)]


def test_not_before_in_the_past_runs_at_once(bench: Bench):
    bench.submit(1, not_before=int(bench.clock.now() * 1000))

    bench.member().go()

    assert bench.effects() == [1]
    assert bench.numbers(TIER_1) == []


def test_job_with_not_before_keeps_its_place_behind_a_job_of_its_key_that_runs(bench: Bench):
    bench.submit(1, "a")
    bench.submit(2, "a", not_before=int((bench.clock.now() + 1) * 1000))
    bench.fail(1)
    member = bench.member(ordering=Ordering.KEY)

    member.go()

    assert bench.numbers(TIER_1) == [1, 2]
    _pass_all_delays(member, bench)
    assert bench.effects() == [1, 2]


def test_job_that_is_held_keeps_its_not_before(bench: Bench):
    bench.submit(1, "a")
    bench.submit(2, "a", not_before=int((bench.clock.now() + 100) * 1000))
    bench.fail(1)
    member = bench.member()
    member.go()

    bench.clock.advance(99)
    member.go()
    early = bench.effects()
    bench.clock.advance(1)
    member.go()

    assert bench.numbers(TIER_1) == [1, 2]
    assert early == [1]
    assert bench.effects() == [1, 2]


def test_job_with_not_before_waits_in_place_where_there_are_no_tiers(bench: Bench):
    bench.submit(1, not_before=int((bench.clock.now() + 30) * 1000))
    member = bench.member(tiers=0)

    member.go()
    early = list(bench.runs)
    bench.clock.advance(30)
    member.go()

    assert early == []
    assert bench.effects() == [1]


def test_malformed_not_before_is_a_dead_letter_and_parks_nothing(bench: Bench):
    for n, text in (1, "tomorrow"), (2, "9" * 20):
        bench.submit(n, not_before=text)

    bench.member().go()

    assert bench.numbers(TIER_1) == []
    assert bench.numbers(LETTERS) == [1, 2]
    assert bench.runs == []


def test_last_of_two_not_befores_counts(bench: Bench):
    late = str(int((bench.clock.now() + 30) * 1000)).encode()
    bench.append(b"1", written=[("ce_id", b"1"), ("not-before", late), ("not-before", b"1")])

    bench.member().go()

    assert bench.runs == [1]


# Crashes on the way.


def test_crash_between_append_and_commit_runs_the_job_no_more_often_than_its_copies(bench: Bench):
    bench.submit(1)
    bench.fail(1)
    first = bench.member()
    first.log.answers_held = True
    first.go()
    first.log.expel()

    second = bench.restart()
    _pass_all_delays(second, bench)

    assert bench.effects() == [1]
    assert bench.numbers(LETTERS) == []
    assert bench.committed() == 1
    assert bench.left(TIER_1) == 0


def test_attempts_survive_a_crash(bench: Bench):
    bench.submit(1)
    bench.fail(1)
    first = bench.member()
    first.go()
    first.log.expel()

    second = bench.restart()
    second.go()
    bench.clock.advance(DELAYS[0])
    second.go()

    assert bench.attempts == [(1, 1), (1, 2)]
    assert bench.hops(TIER_1)[0].epoch == 1
    assert bench.note() == "epoch=2 in_flight=0"


def test_fingerprint_groups_failures_that_differ_in_numbers_only(bench: Bench):
    bench.submit(1, "a")
    bench.submit(2, "b")
    bench.fail(1, fault=OSError("port 71 is closed"))
    bench.fail(2, fault=OSError("port 82 is closed"))

    bench.member().go()

    one, two = bench.hops(TIER_1)
    assert one.fingerprint == two.fingerprint
    assert json.loads(bench.copies(TIER_1)[0].value or b"") == 1


def _pass_all_delays(member: Member, bench: Bench) -> None:
    for delay in (0.0, *DELAYS, *DELAYS):
        bench.clock.advance(delay)
        member.go()
