from __future__ import annotations

from processor.core.assignment import Assignment
from processor.core.lane import Ordering
from processor.core.letters import Letters
from processor.core.retry import RetryPolicy
from processor.model import Hop, Partition, Position, Record

MAIN, TIER, DEAD = Partition("t", 0), Partition("t.retry.1", 0), Partition("t.dlt", 0)


def at(offset: int) -> Position:
    return Position("t", 0, offset)


def made(records_max: int = 10) -> Letters:
    return Letters(partition=DEAD, start=5, epoch=2, records_max=records_max)


def test_noted_job_is_dead_for_its_replay_and_older_ones():
    letters = made()

    letters.note(5, origin=at(40), replay=2)

    assert letters.tell(at(40), replay=0) and letters.tell(at(40), replay=2)
    assert not letters.tell(at(40), replay=3)
    assert not letters.tell(at(41), replay=0)


def test_stranger_on_a_tier_is_no_job_of_main_at_the_same_offset():
    letters = made()

    letters.note(5, origin=Position("t.retry.1", 0, 40), replay=0)

    assert not letters.tell(at(40), replay=0)
    assert letters.any_of([40])  # Each of them has to be looked at.


def test_older_replay_s_letter_does_not_hide_a_newer_one():
    letters = made()
    letters.note(5, origin=at(40), replay=2)

    letters.note(6, origin=at(40), replay=1)

    assert letters.tell(at(40), replay=2)


def test_position_moves_only_when_all_is_forgotten():
    letters = made()
    letters.note(5, origin=at(40), replay=0)
    letters.closed_at(6, epoch=3)
    before = letters.position

    letters.forget()

    assert (before, letters.position) == (5, 7)
    assert letters.floor.at(letters.position) == 3
    assert not letters.tell(at(40), replay=0)


def test_full_at_its_bound():
    letters = made(records_max=2)
    letters.note(5, origin=at(40), replay=0)
    below = letters.full

    letters.note(6, origin=at(41), replay=0)

    assert (below, letters.full) == (False, True)


def assignment() -> Assignment:
    made_ = Assignment(
        partition=MAIN,
        satellites=(TIER,),
        epoch=3,
        starts={MAIN: 0, TIER: 0, DEAD: 5},
        ordering=Ordering.KEY,
        policy=RetryPolicy((1.0,), 2),
        lane_records_max=10,
        letters=made(),
    )
    assert made_.letters is not None
    made_.letters.note(5, origin=at(0), replay=0)
    return made_


def knows(mine: Assignment) -> bool:
    assert mine.letters is not None
    return mine.letters.tell(at(0), replay=0)


def arrive(mine: Assignment, tier: int) -> None:
    where = mine.partitions[tier]
    record = Record(*where, 0, b"k", b"", [], 0)
    mine.lanes[tier].arrive(record, Hop(Position(*where, 0), 0))


def settle(mine: Assignment, tier: int) -> None:
    lane = mine.lanes[tier]
    lane.settle(lane.take(now=0.0, count_max=1)[0])
    mine.noted_commit(mine.partitions[tier], 1)


def test_letters_are_forgotten_when_all_is_settled_and_committed():
    mine = assignment()
    arrive(mine, 0)
    settle(mine, 0)

    mine.forget_letters()

    assert not knows(mine)
    assert mine.uncommitted() == {DEAD: 6}


def test_letters_are_kept_while_a_job_is_unsettled():
    mine = assignment()
    arrive(mine, 0)

    mine.forget_letters()

    assert knows(mine)


def test_letters_are_kept_while_a_settled_job_is_not_committed():
    mine = assignment()
    arrive(mine, 0)
    lane = mine.lanes[0]
    lane.settle(lane.take(now=0.0, count_max=1)[0])

    mine.forget_letters()

    assert knows(mine)


def test_letters_are_kept_while_a_copy_has_not_been_fetched():
    mine = assignment()
    mine.appended(TIER, 0)
    mine.forget_letters()
    before = knows(mine)

    arrive(mine, 1)
    settle(mine, 1)
    mine.forget_letters()

    assert before
    assert not knows(mine)


def test_letters_are_kept_while_an_append_is_under_way():
    mine = assignment()
    mine.settling = 1

    mine.forget_letters()

    assert knows(mine)
