"""A partition with work and no progress is told; one that only waits, runs or sleeps is not."""

from __future__ import annotations

from typing import Any

import pytest

from processor.core.lane import Ordering
from processor.engine.outages import Outages
from processor.engine.telemetry import Telemetry
from processor.errors import BrokerUnavailable, RegistryUnavailable, SinkUnavailable
from processor.model import Partition, Record
from processor.testing import ManualClock, MemoryLog
from processor.testing.memory_log import Fate
from tests.engine.bench import DELAYS, LETTERS, MAIN, TIER_1, Bench, Member

STALL = 30.0


def passes(bench: Bench, member: Member, seconds: float, *, works: bool = True) -> None:
    """Let time pass second by second, with the loop turning."""
    for _ in range(int(seconds)):
        bench.clock.advance(1.0)
        member.worker.step()
        if works:
            member.pool.run_all()
            member.worker.step()


def stalls(member: Member) -> list[tuple[Partition, str, str | None]]:
    return [(each.partition, each.why, each.away) for each in member.worker.watch.stalls]


def told(bench: Bench) -> list[dict[str, Any]]:
    return bench.logger.told("partition stalled")


class Stuck(MemoryLog):
    """A client that gives nothing more of some partitions, paused or not."""

    stuck: frozenset[Partition] = frozenset()

    def _fetch(self, partition: Partition, count_max: int) -> list[Record]:
        return [] if partition in self.stuck else super()._fetch(partition, count_max)


def test_append_that_is_never_acknowledged_is_told_once_with_the_state(bench: Bench):
    bench.submit(1)
    bench.submit(2)
    bench.script[1] = [ZeroDivisionError()]
    member = bench.member(stall_seconds=STALL)
    member.log.answers_held = True
    member.go()

    passes(bench, member, STALL - 1)
    early = (stalls(member), told(bench))
    passes(bench, member, 2 * STALL)

    assert early == ([], [])
    assert stalls(member) == [(MAIN, "appends or ledger notes are not answered", None)]
    (state,) = told(bench)
    assert state["partition"] == "t[0]"
    assert state["seconds"] == pytest.approx(STALL, abs=2)
    assert (state["running"], state["settling"], state["fence"]) == (0, 1, 0)
    assert state["lanes"][0] == "t[0]: 1 unsettled, 0 waiting, watermark 0, next 2"
    assert member.telemetry.stalled["t"] > 2 * STALL


def test_partition_that_moves_again_is_told_once_and_healthy(bench: Bench):
    bench.submit(1)
    bench.script[1] = [ZeroDivisionError()]
    member = bench.member(stall_seconds=STALL)
    member.log.answers_held = True
    member.go()
    passes(bench, member, STALL + 2)
    assert len(stalls(member)) == 1

    member.log.answers_held = False
    passes(bench, member, 2)

    assert stalls(member) == []
    assert bench.logger.told("partition moves again") == [{"partition": "t[0]"}]
    assert member.telemetry.stalled["t"] == 0.0
    assert bench.numbers(LETTERS) == [1]


def test_append_to_a_broker_that_is_away_is_told_as_an_outage(bench: Bench):
    bench.submit(1)
    bench.script[1] = [ZeroDivisionError()]
    member = bench.member(stall_seconds=STALL)
    member.worker.step()
    member.log.answers_held = member.log.silent = True

    passes(bench, member, 10 * STALL)

    assert stalls(member) == [(MAIN, "appends or ledger notes are not answered", "broker")]
    (state,) = told(bench)
    assert state["away"] == "broker"


def test_broker_that_is_back_while_appends_stay_unanswered_is_no_outage_any_more(bench: Bench):
    bench.submit(1)
    bench.script[1] = [ZeroDivisionError()]
    member = bench.member(stall_seconds=STALL)
    member.worker.step()
    member.log.answers_held = member.log.silent = True
    passes(bench, member, 2 * STALL)

    member.log.silent = False
    passes(bench, member, 120)

    assert stalls(member) == [(MAIN, "appends or ledger notes are not answered", None)]


def test_run_within_its_timeout_is_no_stall_however_long(bench: Bench):
    bench.submit(1)
    bench.submit(2, "other")
    member = bench.member(stall_seconds=STALL, slots=1, timeout_seconds=100 * STALL)

    def long(_: object) -> None:
        passes(bench, member, 5 * STALL, works=False)

    bench.script[1] = [long]
    member.go()

    assert bench.effects() == [1, 2]
    assert bench.clock.monotonic() >= 5 * STALL
    assert told(bench) == []


def test_jobs_of_other_partitions_wait_for_the_pool_without_a_stall(bench: Bench):
    bench.partitions = 2
    bench.__post_init__()
    bench.submit(1)
    bench.submit(2, partition=1)
    member = bench.member(stall_seconds=STALL, slots=1, timeout_seconds=100 * STALL)
    seen = []

    def long(_: object) -> None:
        passes(bench, member, 5 * STALL, works=False)
        seen.extend(stalls(member))

    bench.script[1] = bench.script[2] = [long]
    member.go()

    assert sorted(bench.effects()) == [1, 2]
    assert (seen, told(bench)) == ([], [])


def test_partition_paused_by_its_full_lane_is_no_stall_while_its_job_runs(bench: Bench):
    bench.submit(1)
    bench.submit(2)
    member = bench.member(stall_seconds=STALL, lane_records_max=1, timeout_seconds=100 * STALL)

    def long(_: object) -> None:
        bench.submit(3)
        passes(bench, member, 5 * STALL, works=False)
        paused.extend(member.log.paused)

    paused: list[Partition] = []
    bench.script[1] = [long]
    member.go()

    assert paused == [MAIN]
    assert bench.effects() == [1, 2, 3]
    assert told(bench) == []


def test_partition_that_finds_no_room_in_a_pool_that_never_reports_is_told_too(bench: Bench):
    bench.partitions = 2
    bench.__post_init__()
    bench.submit(1)
    bench.submit(2, partition=1)
    member = bench.member(stall_seconds=STALL, slots=1)

    passes(bench, member, STALL + 3, works=False)

    assert sorted(stalls(member)) == [
        (MAIN, "a slice with the pool does not report", None),
        (Partition("t", 1), "jobs that are due are not started", None),
    ]


def test_pool_that_never_reports_is_told(bench: Bench):
    bench.submit(1)
    bench.submit(2)
    member = bench.member(stall_seconds=STALL)
    member.worker.step()

    passes(bench, member, STALL + 3, works=False)

    assert stalls(member) == [(MAIN, "a slice with the pool does not report", None)]
    assert told(bench)[0]["running"] == 1


def test_run_that_outlives_its_timeout_unnoticed_is_told(bench: Bench):
    bench.submit(1)
    member = bench.member(stall_seconds=STALL, timeout_seconds=10.0)

    def deaf(context: object) -> None:
        # The loop does all but give it up.
        member.worker._runs.police = lambda: None  # type: ignore[method-assign]
        passes(bench, member, 15 + STALL - 2, works=False)
        early.extend(stalls(member))
        passes(bench, member, 6, works=False)
        late.extend(stalls(member))

    early: list[Any] = []
    late: list[Any] = []
    bench.script[1] = [deaf]
    member.go()

    assert early == []
    assert late == [(MAIN, "a slice with the pool does not report", None)]
    state = told(bench)[0]
    assert state["oldest_run"] == "job-1"
    assert state["oldest_run_seconds"] == pytest.approx(15 + STALL, abs=4)


def test_jobs_that_sleep_until_their_time_are_no_stall(bench: Bench):
    bench.submit(1)
    bench.submit(2)
    bench.fail(1, times=2)  # A minute in tier 2, with job 2 behind it.
    bench.submit(3, "later", not_before=int((bench.clock.now() + 500) * 1000))
    member = bench.member(stall_seconds=STALL)

    passes(bench, member, 510)

    assert bench.effects() == [1, 2, 3]
    assert told(bench) == []


def test_jobs_that_wait_for_the_registry_are_told_as_an_outage(bench: Bench):
    bench.submit(1)
    member = bench.member(stall_seconds=STALL)
    bench.decode_faults = [RegistryUnavailable("away") for _ in range(1000)]

    passes(bench, member, 3 * STALL)
    away = (stalls(member), len(told(bench)))
    bench.decode_faults.clear()
    passes(bench, member, 6)

    assert away == ([(MAIN, "what jobs need is away", "registry")], 1)
    assert stalls(member) == []
    assert bench.attempts == [(1, 1)]


def test_records_that_do_not_arrive_are_told(bench: Bench):
    member = bench.member(stall_seconds=STALL, log_type=Stuck)
    bench.submit(1)
    member.go()
    member.log.stuck = frozenset({MAIN})  # type: ignore[attr-defined]
    bench.submit(2)

    passes(bench, member, STALL)
    early = stalls(member)
    passes(bench, member, STALL)
    late = stalls(member)
    member.log.stuck = frozenset()  # type: ignore[attr-defined]
    passes(bench, member, 2)

    assert early == []
    assert late == [(MAIN, "records on the log do not arrive", None)]
    assert stalls(member) == []
    assert bench.effects() == [1, 2]


def test_tier_that_does_not_arrive_is_told_while_its_main_partition_goes_on(bench: Bench):
    bench.submit(0)
    bench.fail(0)
    earlier = bench.member()
    earlier.go()
    earlier.log.expel()  # What it has parked must be fetched.
    member = bench.member(stall_seconds=STALL, log_type=Stuck)
    member.log.stuck = frozenset({TIER_1})  # type: ignore[attr-defined]

    for n in range(1, int(2 * STALL)):
        bench.submit(n, f"key-{n}")
        passes(bench, member, 1)
    member.go()

    assert len(bench.effects()) == 2 * STALL - 1
    assert stalls(member) == [
        (MAIN, "records on the log do not arrive (t.retry.1[0])", None),
    ]


def test_offsets_without_records_are_no_stall(bench: Bench):
    bench.submit(1)
    member = bench.member(stall_seconds=STALL)
    member.go()
    bench.broker.leave_gap(MAIN, 3)

    passes(bench, member, 5 * STALL)
    bench.submit(2)
    passes(bench, member, 1)

    assert told(bench) == []
    assert bench.effects() == [1, 2]


def test_quiet_partitions_are_asked_one_a_second_at_most(bench: Bench):
    member = bench.member(stall_seconds=600.0)
    asked: list[float] = []
    bounds = member.log.bounds

    def counting(*arguments: Any) -> Any:
        asked.append(bench.clock.monotonic())
        return bounds(*arguments)

    member.go()
    member.log.bounds = counting  # type: ignore[method-assign]
    passes(bench, member, 182)

    assert len(asked) == 3 * 3  # Three partitions, each minute.
    assert len(set(asked)) == len(asked)


def test_every_quiet_partition_is_asked_in_its_turn(bench: Bench):
    bench.partitions = 30
    bench.__post_init__()
    member = bench.member(stall_seconds=600.0)
    asked: list[Partition] = []
    bounds = member.log.bounds

    def noting(partitions: Any, *more: Any) -> Any:
        asked.extend(partitions)
        return bounds(partitions, *more)

    member.go()
    member.log.bounds = noting  # type: ignore[method-assign]
    passes(bench, member, 60 + 90)

    assert len(set(asked)) == 3 * 30


def test_sink_that_is_away_excuses_the_topic_that_waits_for_its_probes():
    outages = Outages(ManualClock(), Telemetry())

    outages.heard("sink", Partition("t", 0))

    assert outages.lately(Partition("t", 7), ("sink",)) == "sink"
    assert outages.lately(Partition("t", 7), ("registry",)) is None
    assert outages.lately(Partition("other", 0), ("sink",)) is None


def test_commit_that_is_not_answered_is_an_outage_for_a_while(bench: Bench):
    bench.submit(1)
    member = bench.member()

    def silent(_: object) -> None:
        raise BrokerUnavailable("no answer")

    member.worker.step()
    member.pool.run_all()
    member.log.before_commit = silent
    member.worker.step()
    away = member.worker.outages.any_lately
    member.log.before_commit = lambda _: None
    passes(bench, member, 91)

    assert away
    assert not member.worker.outages.any_lately
    assert bench.committed() == 1


def test_partition_that_cannot_be_taken_over_without_the_ledger_is_told_as_an_outage(bench: Bench):
    member = bench.member(stall_seconds=STALL)

    def away(call: str) -> None:
        raise SinkUnavailable(f"{call}: the ledger is away")

    bench.ledger.before = away
    passes(bench, member, STALL + 3)

    assert [each[2] for each in stalls(member)] == ["sink"]


def test_partition_that_is_never_taken_over_is_told(bench: Bench):
    member = bench.member(stall_seconds=STALL)
    member.log.fate = lambda outgoing: Fate.LANDS
    member.log.before_commit = lambda _: bench.broker.group("g").commit(None, {})  # type: ignore[arg-type]

    passes(bench, member, STALL + 3)

    assert member.worker.assignments == []
    assert stalls(member)[0][:2] == (
        MAIN,
        "it is ours and is not taken over, or given up again and again",
    )


def test_partition_that_is_given_up_again_and_again_is_told(bench: Bench):
    bench.submit(1)
    bench.submit(2, "beside")
    bench.fail(1, times=1000)
    member = bench.member(stall_seconds=STALL, ordering=Ordering.KEY, commit_interval_seconds=5.0)
    member.log.fate = lambda each: Fate.FAILS if each.value is not None else Fate.LANDS

    passes(bench, member, STALL + 5)
    failing = stalls(member)
    member.log.fate = lambda _: Fate.LANDS
    passes(bench, member, DELAYS[0] + 20)

    assert failing[0][1] == "it is ours and is not taken over, or given up again and again"
    assert stalls(member) == []
    assert bench.effects()[0] == 2


def test_partition_that_is_lost_is_not_told_any_more(bench: Bench):
    bench.submit(1)
    bench.script[1] = [ZeroDivisionError()]
    member = bench.member(stall_seconds=STALL)
    member.log.answers_held = True
    member.go()
    passes(bench, member, STALL + 2)
    assert len(stalls(member)) == 1

    member.log.expel()
    other = bench.member(stall_seconds=STALL)
    other.go()
    passes(bench, member, 2)

    assert stalls(member) == []


def test_dead_letter_that_is_never_acknowledged_is_an_outage_where_its_broker_is_away(
    bench: Bench,
):
    bench.submit(1)
    bench.script[1] = [ZeroDivisionError()]
    member = bench.member(stall_seconds=STALL)
    bounds = member.log.bounds

    def silent_letters(partitions: Any, *more: Any) -> Any:
        member.log.silent = LETTERS in partitions
        return bounds(partitions, *more)

    member.log.bounds = silent_letters  # type: ignore[method-assign]
    member.log.answers_held = True
    member.go()

    passes(bench, member, 5 * STALL)

    assert stalls(member) == [(MAIN, "appends or ledger notes are not answered", "broker")]
