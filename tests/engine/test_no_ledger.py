"""Without a ledger: the dead-letter topic tells the dead, and a key waits behind a death."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from processor.core.lane import Ordering
from processor.engine.ports import CommitRefused
from processor.errors import Reject
from processor.model import Effect, Position
from processor.sinks.no_ledger import NoLedger
from tests.engine.bench import DELAYS, GROUP, LETTERS, MAIN, Bench

NEVER = Reject("never")


class Named:
    """A sink that writes under each job's own name: twice does no harm."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}

    def write(self, effects: Sequence[Effect]) -> Sequence[str]:
        for each in effects:
            self.names.setdefault(each.job_id, each.result["n"])
        return [each.job_id for each in effects]


@pytest.fixture
def bench() -> Bench:
    sink = Named()
    return Bench(NoLedger(), sink, lambda: list(sink.names.values()))


def test_dead_letter_topic_is_marked_and_scanned_at_takeover(bench: Bench):
    bench.submit(1)
    bench.fail(1, fault=NEVER)

    bench.member().go()

    assert bench.markers(LETTERS) == [1]
    assert bench.numbers(LETTERS) == [1]
    assert bench.note(LETTERS) == "floor=1"


def test_job_that_is_dead_already_is_not_run_again_by_the_next_owner(bench: Bench):
    first = bench.member(ordering=Ordering.KEY)
    bench.submit(9)
    bench.script[9] = [lambda _: bench.clock.advance(1.0)]  # From now on keys run side by side.
    first.go()
    bench.submit(0, "slow")
    bench.submit(1)
    bench.fail(1, fault=NEVER)
    bench.script[0] = [lambda _: None]
    first.worker.step()
    first.pool.run_next(1)  # The job behind dies first: its offset cannot be committed.
    for _ in range(4):
        first.worker.step()
    committed = bench.committed()
    first.log.expel()

    second = bench.member(ordering=Ordering.KEY)
    second.go()

    assert committed == 1
    assert bench.runs.count(1) == 1
    assert bench.numbers(LETTERS) == [1]
    assert bench.committed() == 3


def test_key_waits_behind_a_death_until_a_later_commit_is_accepted(bench: Bench):
    bench.submit(0)
    bench.submit(1)
    bench.fail(0, fault=NEVER)
    member = bench.member()
    refusals = [CommitRefused("not now")] * 2

    def refuse(_: Any) -> None:
        if bench.numbers(LETTERS) and refusals:
            raise refusals.pop()

    member.log.before_commit = refuse
    seen = []
    for _ in range(12):
        member.worker.step()
        member.pool.run_all()
        seen.append((len(refusals), list(bench.runs)))

    assert (1, [0]) in seen
    assert (1, [0, 1]) not in seen
    assert bench.effects() == [1]


def test_letter_behind_a_newer_owner_s_marker_is_void(bench: Bench):
    bench.submit(0)
    bench.script[0] = [NEVER]
    first = bench.member()
    first.log.answers_held = True
    first.worker.step()
    first.pool.run_all()
    outgoing: list[Any] = []
    land = bench.broker.land
    bench.broker.land = lambda each: outgoing.append(each) or 0  # type: ignore[method-assign]
    first.worker._turn()
    bench.broker.land = land  # type: ignore[method-assign]
    first.log.expel()
    second = bench.member()
    second.worker.step()

    for each in outgoing:
        land(each)  # It was on the wire when the partition went to another.
    second.go()

    assert bench.effects() == [0]
    third = bench.member()
    second.log.close()
    third.go()
    letters = third.worker.assignments[0].letters
    assert letters is not None
    assert not letters.tell(Position("t", 0, 0), replay=0)


def test_letters_are_forgotten_when_their_jobs_cannot_come_again(bench: Bench):
    for n in range(3):
        bench.submit(n)
        bench.fail(n, fault=NEVER)
    member = bench.member()

    member.go(30)

    assert bench.committed(MAIN) == 3
    assert bench.committed(LETTERS) == bench.broker.bounds(LETTERS)[1]
    letters = member.worker.assignments[0].letters
    assert letters is not None
    assert not letters.tell(Position("t", 0, 2), replay=0)


def test_main_pauses_while_more_are_dead_than_can_be_remembered(bench: Bench):
    bench.submit(0)
    bench.fail(0, times=1)
    member = bench.member(fence_records_max=3)
    for n in range(1, 6):
        bench.submit(n, f"k{n}")
        bench.fail(n, fault=NEVER)
        member.go(10)
    dead = bench.numbers(LETTERS)
    paused = MAIN in member.log.paused

    bench.clock.advance(DELAYS[0])
    member.go(30)

    assert dead == [1, 2, 3]
    assert paused
    assert len(bench.numbers(LETTERS)) == 5
    assert bench.committed() == 6


def test_replayed_job_runs_though_it_is_known_to_be_dead(bench: Bench):
    bench.submit(0, "waits")
    bench.submit(1)
    bench.script[0] = [OSError("no answer")]
    bench.fail(1, fault=NEVER)
    member = bench.member()
    member.go(20)

    bench.replay(1, 1, end=False)
    member.go(20)

    assert bench.runs.count(1) == 2
    assert bench.effects() == [1]


def test_quiet_letters_are_committed_again_with_the_rest(bench: Bench):
    member = bench.member()
    member.go()
    del bench.broker.group(GROUP).committed[LETTERS]

    bench.clock.advance(601)
    member.go()

    assert bench.committed(LETTERS) == 1
