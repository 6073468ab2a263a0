"""A job that succeeds: run, effect, ledger, settle, commit, and nothing before its turn."""

from __future__ import annotations

from processor.core.lane import Ordering
from processor.engine.ports import CommitRefused
from processor.model import Partition, Record
from processor.testing import MemoryLog
from tests.engine.bench import MAIN, Bench, crash_at


def test_offset_is_committed_only_after_the_effect(bench: Bench):
    bench.submit(1)
    member = bench.member()
    member.worker.step()
    member.worker.step()

    before = (bench.effects(), bench.committed())
    member.pool.run_all()
    written = (bench.effects(), bench.committed())
    member.worker.step()

    assert before == ([], 0)
    assert written == ([1], 0)
    assert bench.committed() == 1


def test_watermark_waits_for_the_slowest(bench: Bench):
    for n, key in (1, "a"), (2, "b"), (3, "c"):
        bench.submit(n, key)
    member = bench.member(ordering=Ordering.KEY)
    member.worker.step()

    member.pool.run_next(2)
    member.pool.run_next(1)
    member.worker.step()
    behind = bench.committed()
    member.pool.run_next()
    member.worker.step()

    assert bench.effects() == [3, 2, 1]
    assert behind == 0
    assert bench.committed() == 3


def test_gap_in_the_offsets_holds_nothing_up(bench: Bench):
    bench.submit(1)
    bench.broker.leave_gap(MAIN, 5)
    bench.submit(2)
    member = bench.member()

    member.go()

    assert bench.effects() == [1, 2]
    assert bench.committed() == 7


def test_jobs_of_a_partition_run_one_after_the_other(bench: Bench):
    for n in range(5):
        bench.submit(n, f"k{n}")
    member = bench.member(slice_records_max=1)

    member.worker.step()
    at_once = len(member.pool.pending)
    member.go(turns=10)

    assert at_once == 1
    assert bench.effects() == [0, 1, 2, 3, 4]


def test_keys_of_a_partition_run_side_by_side(bench: Bench):
    for n in range(6):
        bench.submit(n, "ab"[n % 2])
    member = bench.member(ordering=Ordering.KEY)

    member.worker.step()

    slices = [[e.record.offset for e in work.entries] for work in member.pool.pending]
    assert slices == [[0, 2, 4], [1, 3, 5]]


def test_results_of_a_slice_are_written_as_one(bench: Bench):
    for n in range(3):
        bench.submit(n)
    calls: list[str] = []
    bench.ledger.before = calls.append
    member = bench.member()

    member.go()

    assert bench.effects() == [0, 1, 2]
    assert calls.count("record") == 1
    assert calls.count("lookup") == 1


def test_results_are_written_before_the_slice_ends_when_the_first_has_waited(bench: Bench):
    for n in range(3):
        bench.submit(n)
    seen: list[list[int]] = []
    member = bench.member()

    def slow(_: object) -> None:
        seen.append(bench.effects())
        bench.clock.advance(1.0)

    bench.script = {n: [slow] for n in range(3)}
    member.go()

    assert seen == [[], [0], [0, 1]]


def test_full_lane_pauses_its_partition_and_resumes_at_half(bench: Bench):
    for n in range(8):
        bench.submit(n)
    member = bench.member(lane_records_max=4, slice_records_max=1)

    member.worker.step()
    full = set(member.log.paused)
    paused = []
    for _ in range(2):
        paused.append((member.lane.watermark.unsettled, bool(member.log.paused)))
        member.pool.run_all()
        member.worker.step()

    assert full == {MAIN}
    assert paused == [(4, True), (3, True)]  # No more was polled than the lane may hold.
    assert member.lane.watermark.unsettled == 2
    assert member.log.paused == set()


def test_paused_partition_reads_nothing_until_it_is_resumed(bench: Bench):
    for n in range(4):
        bench.submit(n)
    member = bench.member(lane_records_max=4)
    member.worker.step()

    bench.submit(4)
    member.worker.step()
    kept_out = member.lane.watermark.next_offset
    member.go()

    assert kept_out == 4
    assert bench.effects() == [0, 1, 2, 3, 4]


class Stray(MemoryLog):
    """Gives a record of a partition that was given up while it was being fetched."""

    def fetched(self, records_max: int, timeout_seconds: float) -> list[Record]:
        stray = Record("t", 9, 0, b"k", b"7", [], 0)
        return [stray, *super().fetched(records_max, timeout_seconds)]


class Twice(MemoryLog):
    """Fetches again what it gave already, as a client does around a pause."""

    def fetched(self, records_max: int, timeout_seconds: float) -> list[Record]:
        records = super().fetched(records_max, timeout_seconds)
        return [*records, *records]


def test_record_of_a_partition_that_is_not_ours_is_ignored(bench: Bench):
    bench.submit(1)

    bench.member(log_type=Stray).go()

    assert bench.effects() == [1]
    assert bench.committed(Partition("t", 9)) is None


def test_record_polled_twice_runs_once(bench: Bench):
    for n in range(3):
        bench.submit(n)

    bench.member(log_type=Twice).go()

    assert bench.runs == [0, 1, 2]
    assert bench.committed() == 3


def test_crash_before_the_effect_is_written_runs_the_job_again_and_writes_it_once(bench: Bench):
    bench.submit(1)
    bench.ledger.before = crash_at("record")
    bench.member().go_until_crash()

    bench.restart().go()

    assert bench.runs == [1, 1]
    assert bench.effects() == [1]
    assert bench.committed() == 1


def test_crash_after_the_effect_is_written_does_not_run_the_job_again(bench: Bench):
    bench.submit(1)
    bench.ledger.after = crash_at("record")
    bench.member().go_until_crash()

    second = bench.restart()
    second.go()

    assert bench.runs == [1]
    assert bench.effects() == [1]
    assert bench.committed() == 1
    assert second.telemetry.outcomes == {"repeated": 1}


def test_commit_that_is_refused_is_repeated(bench: Bench):
    bench.submit(1)
    member = bench.member()
    member.worker.step()

    def refuse(_: object) -> None:
        raise CommitRefused("the group is rebalancing")

    member.log.before_commit = refuse
    member.go()
    refused = (bench.committed(), member.telemetry.commits["refused"] > 0)
    member.log.before_commit = lambda _: None
    member.worker.step()

    assert refused == (0, True)
    assert bench.committed() == 1


def test_stopped_worker_finishes_what_runs_commits_and_leaves(bench: Bench):
    bench.submit(1)
    bench.submit(2)
    member = bench.member(slice_records_max=1, join=False)
    bench.script[1] = [lambda _: member.worker.stop()]

    member.pool_runs_between_turns()
    member.worker.run()

    assert bench.runs == [1]
    assert bench.effects() == [1]
    assert bench.committed() == 1
    assert bench.broker.group("g").members == []
