"""A new owner writes markers, rebuilds the fence, and passes by what a lost owner left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from processor.contracts import headers
from processor.engine.ports import CommitRefused, Committed
from processor.model import Outgoing, Partition, Record
from processor.testing import Fate
from processor.testing.memory_log import MemoryLog
from tests.engine.bench import DELAYS, GROUP, MAIN, TIER_1, TIER_2, Bench


def test_marker_is_acknowledged_in_every_tier_before_anything_runs(bench: Bench):
    bench.submit(1)
    member = bench.member()
    seen: list[tuple[list[int], list[int]]] = []
    bench.script[1] = [lambda _: seen.append((bench.markers(TIER_1), bench.markers(TIER_2)))]

    member.go()

    assert seen == [([1], [1])]
    assert bench.left(TIER_1) == bench.left(TIER_2) == 0


def test_marker_that_is_not_acknowledged_admits_nothing_and_starts_over(bench: Bench):
    bench.submit(1)
    member = bench.member()
    member.log.fate = lambda _: Fate.ANSWER_LOST

    member.go()
    refused = (list(bench.runs), member.worker.assignments)
    member.log.fate = lambda _: Fate.LANDS
    bench.clock.advance(1.0)
    member.go()

    assert refused == ([], [])
    assert bench.effects() == [1]
    assert bench.markers(TIER_1)[-1] == 2


def test_key_that_waits_in_a_tier_is_fenced_after_a_takeover(bench: Bench):
    for n, key in (1, "a"), (2, "b"):
        bench.submit(n, key)
    bench.fail(1)
    first = bench.member()
    first.go()
    first.log.expel()

    bench.submit(3, "a")
    bench.submit(4, "b")
    second = bench.restart()
    second.go()
    held = (bench.effects(), bench.numbers(TIER_1))
    bench.clock.advance(DELAYS[0])
    second.go()

    assert held == ([2, 4], [1, 3])
    assert bench.effects() == [2, 4, 1, 3]
    assert second.worker.assignments[0].fence.held == 0


def test_copy_of_an_owner_that_had_lost_the_partition_is_void(bench: Bench):
    bench.submit(1)
    bench.fail(1)
    first = bench.member()
    first.worker.step()
    late: list[Outgoing] = []

    def keep(outgoing: Outgoing) -> Fate:
        late.append(outgoing)
        return Fate.FAILS

    first.log.fate = keep
    first.go()
    first.log.expel()
    second = bench.restart()
    second.go()
    # What the first had sent lands only now, behind the second's marker.
    bench.broker.land(late[0])
    second.go()
    bench.clock.advance(DELAYS[0])
    second.go()

    assert bench.attempts == [(1, 1), (1, 1)]
    assert bench.effects() == [1]
    assert second.worker.assignments[0].fence.held == 0
    assert bench.left(TIER_1) == bench.left(MAIN) == 0


def test_epoch_found_in_a_tier_is_passed(bench: Bench):
    bench.broker.append("t.retry.2", 0, headers=headers.write_marker(41))
    bench.submit(1)

    member = bench.member()
    member.go()

    assert member.worker.assignments[0].epoch == 42
    assert bench.note() == "epoch=42 in_flight=0"
    assert bench.effects() == [1]


def test_taking_a_larger_epoch_looks_at_no_record_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    bench.submit(1)
    bench.fail(1)
    first = bench.member()
    first.go()
    bench.broker.append("t.retry.1", 0, headers=headers.write_marker(41))
    first.log.expel()
    scanned: list[dict[Partition, tuple[int, int]]] = []
    scan = MemoryLog.scan

    def listening(log: MemoryLog, ranges: Mapping[Partition, tuple[int, int]]) -> Iterator[Record]:
        scanned.append({each: ranges[each] for each in ranges if each == TIER_1})
        return scan(log, ranges)

    monkeypatch.setattr(MemoryLog, "scan", listening)
    second = bench.member()
    second.worker.step()

    (assignment,) = second.worker.assignments
    # The first owner's copy and the foreign marker; between our own two markers is nothing.
    assert scanned == [{TIER_1: (1, 3)}]
    assert (assignment.epoch, assignment.fence.held) == (42, 1)


@pytest.mark.parametrize("kind", ["marker", "copy"])
def test_newer_owner_s_writing_gives_the_partition_up(bench: Bench, kind: str):
    bench.submit(1)
    bench.fail(1)
    member = bench.member()
    member.go()
    written, value = headers.write_marker(7), None
    if kind == "copy":
        value = b"1"
        written = headers.write_hop([], bench.hops(TIER_1)[0]._replace(epoch=7, copy="7-1"))

    def refuse(_: object) -> None:
        raise CommitRefused("not a member")

    member.log.before_commit = refuse
    bench.broker.append("t.retry.1", 0, key=value, value=value, headers=written)
    member.go()

    assert member.worker.assignments == []
    assert "a newer owner has written to its tiers" in [
        more["why"] for more in bench.logger.told("partition given up")
    ]


def test_floor_is_committed_with_a_tier_s_offset(bench: Bench):
    bench.member().go()
    for member in list(bench.broker.group(GROUP).members):
        bench.broker.group(GROUP).expel(member)

    bench.member().go()

    committed = bench.broker.group(GROUP).committed
    assert committed[TIER_1] == Committed(2, "floor=2")
    assert committed[MAIN].metadata == "epoch=2 in_flight=0"
