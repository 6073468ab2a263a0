from __future__ import annotations

import pytest

from processor.core.assignment import Assignment
from processor.core.lane import Ordering
from processor.core.retry import RetryPolicy
from processor.model import Hop, Partition, Position, Record

MAIN, ONE, TWO = (Partition(topic, 3) for topic in ("t", "t.retry.1", "t.retry.2"))


def assignment_of(*, epoch: int = 7, ordering: Ordering = Ordering.PARTITION) -> Assignment:
    return Assignment(
        partition=MAIN,
        satellites=(ONE, TWO),
        epoch=epoch,
        starts={MAIN: 100, ONE: 10, TWO: 0},
        ordering=ordering,
        policy=RetryPolicy((5.0, 60.0), attempts_max=3),
        lane_records_max=10,
    )


def arrive(assignment: Assignment, tier: int, offset: int) -> None:
    topic, number = assignment.partitions[tier]
    record = Record(topic, number, offset, b"k", b"", [], 0)
    assignment.lanes[tier].arrive(record, Hop(Position(topic, number, offset), 0))


def test_each_partition_has_a_lane_that_starts_where_it_was_committed():
    assignment = assignment_of()

    assert assignment.partitions == (MAIN, ONE, TWO)
    assert [lane.tier for lane in assignment.lanes] == [0, 1, 2]
    assert [lane.watermark.next_offset for lane in assignment.lanes] == [100, 10, 0]


@pytest.mark.parametrize("ordering", list(Ordering))
def test_tiers_keep_the_order_of_keys_whatever_the_topic_s_is(ordering: Ordering):
    assignment = assignment_of(ordering=ordering)

    assert [lane.ordering for lane in assignment.lanes] == [ordering, Ordering.KEY, Ordering.KEY]


def test_names_of_copies_are_never_used_twice():
    first, second = assignment_of(epoch=7), assignment_of(epoch=8)

    names = [each.next_copy() for each in (first, first, second, second)]

    assert names == ["7-1", "7-2", "8-1", "8-2"]


def test_only_watermarks_that_moved_are_uncommitted():
    assignment = assignment_of()
    arrive(assignment, 0, 100)
    arrive(assignment, 1, 15)
    begun = assignment.uncommitted()
    for lane in assignment.lanes[:2]:
        lane.settle(*lane.take(now=0.0, count_max=1))

    settled = assignment.uncommitted()
    assignment.committed.update(settled)

    # A gap below the first record of a tier is passed as soon as it is seen.
    assert begun == {ONE: 15}
    assert settled == {MAIN: 101, ONE: 16}
    assert assignment.uncommitted() == {}


def test_watermark_below_what_was_committed_is_a_bug():
    assignment = assignment_of()
    assignment.committed[MAIN] = 200

    with pytest.raises(AssertionError):
        assignment.uncommitted()


def test_in_flight_counts_what_was_taken_and_is_not_settled():
    assignment = assignment_of()
    for offset in (100, 101, 102):
        arrive(assignment, 0, offset)
    arrive(assignment, 1, 10)
    before = assignment.in_flight
    taken = assignment.lanes[0].take(now=0.0, count_max=2)
    both = assignment.in_flight
    assignment.lanes[0].settle(taken[0])

    assert (before, both, assignment.in_flight) == (0, 2, 1)


@pytest.mark.parametrize(
    ("running", "settling", "quiet"), [(0, 0, True), (1, 0, False), (0, 1, False), (1, 1, False)]
)
def test_assignment_is_quiet_when_nothing_is_on_its_way(running: int, settling: int, quiet: bool):
    assignment = assignment_of()

    assignment.running, assignment.settling = running, settling

    assert assignment.quiet is quiet


def test_assignment_has_an_epoch_and_a_satellite_for_each_tier():
    with pytest.raises(AssertionError):
        assignment_of(epoch=0)
    with pytest.raises(AssertionError):
        Assignment(
            partition=MAIN,
            satellites=(ONE,),
            epoch=1,
            starts={MAIN: 0, ONE: 0},
            ordering=Ordering.KEY,
            policy=RetryPolicy((5.0, 60.0), attempts_max=3),
            lane_records_max=10,
        )
