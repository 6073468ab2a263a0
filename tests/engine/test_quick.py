"""Jobs of which nothing is kept are run in stretches: many as one slice, whatever their keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from processor.core.lane import Ordering
from processor.errors import RegistryUnavailable, Reject, Retry, SinkUnavailable
from processor.model import Effect
from processor.sinks.no_ledger import NoLedger
from tests.engine.bench import DELAYS, LETTERS, MAIN, TIER_1, TIER_2, Bench, Member

NEVER = Reject("never")


@pytest.fixture
def bench() -> Bench:
    """Its jobs leave nothing behind but what their handler did."""
    return Bench(NoLedger(), None, list, sinks=())  # type: ignore[arg-type]


@pytest.mark.parametrize("ordering", list(Ordering))
def test_quick_jobs_of_many_keys_are_one_slice(bench: Bench, ordering: Ordering):
    bench.submit(0, "k0")
    member = bench.member(ordering=ordering)
    member.go()  # Its runs have been seen to be quick.
    for n in range(1, 6):
        bench.submit(n, f"k{n % 3}")
    member.worker.step()
    member.worker.step()

    slices = len(member.pool.pending)
    member.go()

    assert slices == 1
    assert bench.runs == [0, 1, 2, 3, 4, 5]
    assert bench.committed() == 6
    assert member.telemetry.outcomes == {"done": 6}


def keys_that_start_beside_a_slow_one(bench: Bench, member: Member) -> int:
    started: list[object] = []

    def slow(_: object) -> None:
        for _ in range(10):
            bench.clock.advance(30.0)
            member.worker.step()
        started.extend(member.pool.pending)

    for n, key in enumerate(["a", "b", "c"], start=100):
        bench.submit(n, key)
    bench.script[100] = [slow]
    member.go()
    return len(started)


def test_slow_job_of_one_key_lets_other_keys_run(bench: Bench):
    member = bench.member(ordering=Ordering.KEY, slots=4, timeout_seconds=3600.0)

    assert keys_that_start_beside_a_slow_one(bench, member) == 2


def test_keys_have_threads_of_their_own_for_a_while_after_a_slow_job(bench: Bench):
    member = bench.member(ordering=Ordering.KEY, slots=4, timeout_seconds=3600.0)
    bench.submit(0, "a")
    bench.script[0] = [lambda _: bench.clock.advance(1.0)]
    for n in range(1, 50):
        bench.submit(n, "a")  # The mean is quick again.
    member.go(30)

    assert keys_that_start_beside_a_slow_one(bench, member) == 2


def test_registry_that_answers_late_between_two_kinds_of_jobs_is_no_job_that_hangs(bench: Bench):
    member = bench.member(timeout_seconds=2.0, timeout_grace_seconds=1.0)

    def late(value: bytes | None) -> None:
        if value is not None and value.startswith(b"X"):
            bench.clock.advance(5.0)
            member.worker.step()
            raise RegistryUnavailable("no answer")

    bench.on_new_schema = late
    bench.submit(0, "a")
    bench.append(b"X".ljust(12), "b", written=[])
    member.go()

    assert bench.runs == [0]
    assert member.pool.replaced == 0


def test_slow_jobs_of_many_keys_run_side_by_side(bench: Bench):
    for n in range(4):
        bench.submit(n, f"k{n}")
        bench.script[n] = [lambda _: bench.clock.advance(1.0)]
    member = bench.member(ordering=Ordering.KEY, slots=4)
    member.go()
    for n in range(4, 8):
        bench.submit(n, f"k{n}")
    member.worker.step()

    assert bench.runs == [0, 1, 2, 3]
    assert len(member.pool.pending) == 4


@pytest.mark.parametrize("ordering", [Ordering.PARTITION, Ordering.KEY])
def test_job_that_fails_lets_others_pass_and_holds_its_key(bench: Bench, ordering: Ordering):
    for n, key in enumerate(["a", "b", "a", "b", "a"]):
        bench.submit(n, key)
    bench.fail(0)
    member = bench.member(ordering=ordering)
    member.go()

    before_the_retry = list(bench.runs)
    parked = bench.numbers(TIER_1)
    bench.clock.advance(10.0)
    member.go()

    assert before_the_retry == [0, 1, 3]
    assert parked == [0, 2, 4]
    assert bench.runs == [0, 1, 3, 0, 2, 4]
    assert bench.left(MAIN) == bench.left(TIER_1) == 0


def behind_a_retry(bench: Bench, ordering: Ordering, **how: Any) -> Member:
    """Key `a` waits in tier 1, with jobs 1 and 3 behind it on main; 2 is another key's."""
    bench.submit(0, "a")
    bench.fail(0)
    earlier = bench.member(ordering=ordering, aside_seconds=0.0)
    earlier.go()
    earlier.log.expel()
    member = bench.member(ordering=ordering, **{"aside_seconds": 100.0, **how})
    member.go()
    for n, key in enumerate(["a", "b", "a"], start=1):
        bench.submit(n, key)
    member.go()
    return member


@pytest.mark.parametrize("ordering", [Ordering.PARTITION, Ordering.KEY])
def test_jobs_behind_a_short_retry_wait_aside_and_are_not_copied(bench: Bench, ordering: Ordering):
    member = behind_a_retry(bench, ordering)

    before = (list(bench.runs), bench.committed(), member.telemetry.outcomes["parked"])
    bench.clock.advance(10.0)
    member.go()

    assert before == ([0, 2], 1, 0)
    assert bench.runs == [0, 2, 0, 1, 3]
    assert bench.numbers(TIER_1) == [0]
    assert bench.left(MAIN) == bench.left(TIER_1) == 0


def test_jobs_aside_are_first_in_their_key_when_they_come_back(bench: Bench):
    member = behind_a_retry(bench, Ordering.PARTITION)
    bench.clock.advance(10.0)
    for n in (4, 5):
        bench.submit(n, "a")
    member.go()

    assert bench.runs == [0, 2, 0, 1, 3, 4, 5]


def test_jobs_aside_are_copied_in_order_when_the_retry_takes_longer(bench: Bench):
    member = behind_a_retry(bench, Ordering.PARTITION, aside_seconds=2 * DELAYS[0])
    bench.fail(0)
    bench.clock.advance(DELAYS[0])  # The retry fails: its next tier is longer than they stay.
    member.go()
    bench.submit(4, "a")
    member.go()

    assert bench.numbers(TIER_2) == [0, 1, 3, 4]
    assert bench.committed() == 5


def test_no_more_than_half_a_lane_waits_aside(bench: Bench):
    member = behind_a_retry(bench, Ordering.PARTITION, lane_records_max=4)
    aside = (bench.numbers(TIER_1), bench.committed())
    bench.submit(4, "a")
    member.go()

    assert aside == ([0], 1)
    assert bench.numbers(TIER_1) == [0, 1, 3, 4]
    assert bench.committed() == 5


def test_jobs_aside_come_again_to_the_next_owner(bench: Bench):
    behind_a_retry(bench, Ordering.PARTITION).log.expel()
    member = bench.member(aside_seconds=100.0)
    member.go()
    bench.clock.advance(10.0)
    member.go()

    assert [n for n in bench.runs if n != 2] == [0, 0, 1, 3]
    assert bench.left(MAIN) == bench.left(TIER_1) == 0


def test_clean_hand_over_repeats_nothing_that_ran_behind_what_is_aside(bench: Bench):
    member = behind_a_retry(bench, Ordering.PARTITION)
    for n in range(4, 30):
        bench.submit(n, "b")
    member.go()
    member.worker.revoked([MAIN])
    member.log.expel()
    successor = bench.member()
    successor.go()
    bench.clock.advance(10.0)
    successor.go()

    assert sorted(bench.runs) == sorted([0, *range(30)])
    assert bench.left(MAIN) == bench.left(TIER_1) == 0


def test_clock_that_steps_back_keeps_nothing_aside(bench: Bench):
    member = behind_a_retry(bench, Ordering.PARTITION, aside_seconds=10.0)
    bench.clock.jump(-3600.0)
    bench.clock.advance(10.0)
    member.go()

    assert bench.committed() == 4


def failed_aside(bench: Bench, ordering: Ordering, **how: Any) -> Member:
    """Job 0 of key `a` has failed and waits in its lane, with 1 and 3 behind it; 2 is another's."""
    for n, key in enumerate(["a", "a", "b"]):
        bench.submit(n, key)
    bench.fail(0)
    member = bench.member(ordering=ordering, **{"aside_seconds": 100.0, **how})
    member.go()
    bench.submit(3, "a")
    member.go()
    return member


@pytest.mark.parametrize("ordering", [Ordering.PARTITION, Ordering.KEY])
def test_job_that_is_tried_again_soon_is_not_copied(bench: Bench, ordering: Ordering):
    member = failed_aside(bench, ordering)

    before = (list(bench.runs), bench.committed())
    bench.clock.advance(DELAYS[0])
    member.go()

    assert before == ([0, 2], 0)
    assert bench.runs == [0, 2, 0, 1, 3]
    assert bench.numbers(TIER_1) == []
    assert member.telemetry.outcomes["retried"] == 1
    assert member.telemetry.attempts == {1: 3, 2: 1}
    assert bench.left(MAIN) == 0


def test_job_that_fails_again_goes_to_a_tier_with_what_is_behind_it(bench: Bench):
    member = failed_aside(bench, Ordering.PARTITION, aside_seconds=2 * DELAYS[0])
    bench.fail(0)
    bench.clock.advance(DELAYS[0])
    member.go()
    bench.submit(4, "a")
    member.go()

    assert bench.runs == [0, 2, 0]
    assert bench.numbers(TIER_2) == [0, 1, 3, 4]
    assert bench.hops(TIER_2)[0].attempt == 2


def test_job_that_goes_on_failing_dies_after_its_attempts(bench: Bench):
    member = failed_aside(bench, Ordering.PARTITION, aside_seconds=1000.0, attempts_max=3)
    bench.fail(0, times=5)
    for _ in range(5):
        bench.clock.advance(DELAYS[-1])
        member.go()

    assert bench.runs == [0, 2, 0, 0, 1, 3]
    assert bench.numbers(LETTERS) == [0]
    assert bench.left(MAIN) == 0


def test_job_that_is_parked_before_its_time_wakes_nobody(bench: Bench):
    member = failed_aside(bench, Ordering.PARTITION, lane_records_max=4)
    bench.submit(4, "a")
    member.go()
    bench.clock.advance(DELAYS[0] / 2)

    assert bench.numbers(TIER_1) == [0, 1, 3]
    assert member.lane.wakes_at is None


def test_count_of_runs_outlives_a_slice_that_was_stopped(bench: Bench):
    """The slice has made entries of all its records when it is stopped, and gives the rest back."""
    for n, key in enumerate(["a", "b", "a"]):
        bench.submit(n, key)
    bench.fail(0)
    bench.fail(1)
    member = bench.member(aside_seconds=100.0, attempts_max=2)
    member.go()
    bench.fail(1, times=9)
    lane = member.lane
    bench.clock.advance(DELAYS[0])
    for key in lane.due_again(bench.clock.now()):
        member.worker.assignments[0].try_again(key)
    lane.entries_of(lane._fresh[0])  # As a slice does that is stopped before it runs them.
    member.go(20)

    assert Counter(bench.runs) == {0: 2, 1: 2, 2: 1}
    assert bench.numbers(LETTERS) == [1]


def test_job_that_is_due_while_nothing_may_run_is_handed_over_as_failed(bench: Bench):
    member = failed_aside(bench, Ordering.PARTITION)
    member.pool._slots = 0
    bench.clock.advance(DELAYS[0])
    member.worker.step()
    member.worker.revoked([MAIN])
    member.log.expel()

    assert bench.numbers(TIER_1) == [0, 1, 3]
    assert bench.hops(TIER_1)[0].attempt == 1


def test_job_that_goes_on_failing_does_not_stay_aside_for_ever(bench: Bench):
    bench.submit(0, "a")
    bench.fail(0, times=9, fault=Retry(after=4.0))
    member = bench.member(aside_seconds=10.0, attempts_max=9)
    for _ in range(3):
        member.go()
        bench.clock.advance(4.0)

    assert bench.runs == [0, 0, 0]
    assert bench.numbers(TIER_2) == [0]


def test_failed_job_that_is_handed_over_keeps_its_attempts_and_its_place(bench: Bench):
    member = failed_aside(bench, Ordering.PARTITION)
    member.worker.revoked([MAIN])
    member.log.expel()

    assert bench.numbers(TIER_1) == [0, 1, 3]
    assert [each.attempt for each in bench.hops(TIER_1)] == [1, 0, 0]
    assert bench.committed() == 4


def test_failed_job_comes_again_to_the_next_owner_of_a_crashed_one(bench: Bench):
    failed_aside(bench, Ordering.PARTITION).log.expel()
    bench.member().go()

    assert [n for n in bench.runs if n != 2] == [0, 0, 1, 3]


def test_dead_stranger_on_a_tier_hides_no_job_of_main(bench: Bench):
    bench.submit(0, "z")
    bench.fail(0)
    member = bench.member()
    member.go()  # A marker, and the copy of job 0.
    at = bench.broker.append(*TIER_1, key=b"x", value=b"no job", headers=[])
    member.go()
    for n in range(1, 4):
        bench.submit(n, "a")
    member.go()

    assert at == 2
    assert bench.runs == [0, 1, 2, 3]


class Away:
    """A sink that does not answer while it is to write of some jobs."""

    def __init__(self) -> None:
        self.of: set[int] = set()
        self.written: list[int] = []

    def write(self, effects: Sequence[Effect]) -> Sequence[str]:
        if self.of & {each.result["n"] for each in effects}:
            raise SinkUnavailable("the sink did not answer")
        self.written += [each.result["n"] for each in effects]
        return [each.job_id for each in effects]


def test_outage_of_one_key_s_jobs_lets_others_through_though_many_are_aside():
    sink = Away()
    bench = Bench(NoLedger(), sink, list)  # type: ignore[arg-type]
    bench.submit(0, "a")
    bench.fail(0)
    earlier = bench.member()
    earlier.go()
    earlier.log.expel()
    sink.of = {0}
    member = bench.member(lane_records_max=10, aside_seconds=100.0, attempts_max=5)
    member.go()
    for n in range(1, 16):
        bench.submit(n, "a")
    for n in range(100, 130):
        bench.submit(n, "b")
    bench.clock.advance(DELAYS[0])
    for _ in range(60):
        bench.clock.advance(2.0)
        member.go(3)

    assert sorted(sink.written) == list(range(100, 130))


def test_two_jobs_of_one_stretch_may_die(bench: Bench):
    for n, key in enumerate(["a", "b", "c"]):
        bench.submit(n, key)
    bench.fail(0, fault=NEVER)
    bench.fail(2, fault=NEVER)
    member = bench.member()
    member.go(20)

    assert bench.runs == [0, 1, 2]
    assert bench.numbers(LETTERS) == [0, 2]
    assert bench.committed() == 3


def test_job_that_asks_for_a_later_start_is_found_in_a_stretch(bench: Bench):
    later = int((bench.clock.now() + 60.0) * 1000)
    bench.submit(0, "a")
    bench.submit(1, "b", not_before=later)
    bench.submit(2, "c")
    member = bench.member()
    member.go()

    assert bench.runs == [0, 2]
    assert bench.numbers(TIER_1) == [1]


def test_job_of_another_type_than_its_header_says_is_dead_and_the_rest_goes_on(bench: Bench):
    bench.submit(0, "a")
    bench.submit(1, "b", ce_type="mail")
    bench.submit(2, "c")
    member = bench.member()
    member.go(20)

    assert bench.runs == [0, 2]
    assert bench.numbers(LETTERS) == [1]
    assert bench.committed() == 3


def test_value_that_is_no_job_is_dead_and_the_rest_goes_on(bench: Bench):
    bench.submit(0, "a")
    bench.append(b"       10000{", "b", written=[])
    bench.submit(2, "c")
    member = bench.member()
    member.go(20)

    assert bench.runs == [0, 2]
    assert len(bench.copies(LETTERS)) == 1
    assert bench.committed() == 3


def test_what_ran_before_a_job_that_hangs_is_not_run_again(bench: Bench):
    member = bench.member(timeout_seconds=5.0, timeout_grace_seconds=1.0)

    def hang(_: object) -> None:
        for _ in range(2):
            bench.clock.advance(10.0)
            member.worker.step()  # The loop gives it up while it hangs.

    for n in range(4):
        bench.submit(n, f"k{n}")
    bench.script[2] = [hang]
    member.go(20)

    assert member.pool.replaced == 1
    assert [bench.runs.count(n) for n in (0, 1, 3)] == [1, 1, 1]
    assert bench.numbers(TIER_1) == [2]
    assert [each["job_id"] for each in bench.logger.told("job abandoned: it ignores its timeout")]


def test_stretch_that_is_revoked_half_way_is_gone_on_with_by_the_next_owner(bench: Bench):
    first = bench.member()
    bench.script[1] = [lambda _: first.worker.revoked([MAIN])]
    for n in range(4):
        bench.submit(n, f"k{n}")
    first.worker.step()
    first.worker.step()
    first.pool.run_next()
    ran_by_the_first = list(bench.runs)
    first.log.expel()

    bench.member().go()

    assert ran_by_the_first == [0, 1]
    assert set(bench.runs) == {0, 1, 2, 3}
    assert bench.committed() == 4
