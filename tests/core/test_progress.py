from __future__ import annotations

import pytest

from processor.core.assignment import Assignment
from processor.core.lane import Ordering
from processor.core.progress import Cause, Held, Progress, held_up
from processor.core.retry import RetryPolicy
from processor.model import Hop, Partition, Position, Record

MAIN, ONE = Partition("t", 3), Partition("t.retry.1", 3)
NOW = 1000.0
APPEND = Held(Cause.SETTLING, MAIN)
UNREAD = Held(Cause.READING, ONE)


def assignment_with(*tiers: int, not_before: float = 0.0) -> Assignment:
    """An assignment with one record of the same key in a lane for each tier named."""
    assignment = Assignment(
        partition=MAIN,
        satellites=(ONE,),
        epoch=7,
        starts={MAIN: 100, ONE: 10},
        ordering=Ordering.KEY,
        policy=RetryPolicy((5.0,), attempts_max=3),
        lane_records_max=10,
    )
    for offset, tier in enumerate(tiers, start=100):
        topic, number = assignment.partitions[tier]
        record = Record(topic, number, offset, b"k", b"", [], 0)
        hop = Hop(Position(topic, number, offset), 0, not_before_ms=int(not_before * 1000))
        assignment.lanes[tier].arrive(record, hop)
    return assignment


def held(
    assignment: Assignment,
    *,
    now: float = NOW,
    overdue: bool = False,
    pool_excused: bool = False,
    away: bool = False,
    unread: tuple[Partition, ...] = (),
) -> list[Held]:
    return held_up(
        assignment,
        now=now,
        overdue=overdue,
        pool_excused=pool_excused,
        away=away,
        unread=unread,
    )


def taken(assignment: Assignment, tier: int = 0) -> Assignment:
    """The same, with the tier's first turn at a run."""
    assert assignment.lanes[tier].take(now=NOW, count_max=1)
    assignment.running += 1
    return assignment


def test_nothing_is_held_up_where_nothing_is_to_do():
    assert held(assignment_with()) == []
    assert held(assignment_with(), pool_excused=True, away=True) == []


def test_job_that_is_due_and_not_started_is_held_up():
    assert held(assignment_with(0)) == [Held(Cause.STARTING, MAIN)]
    assert held(assignment_with(1)) == [Held(Cause.STARTING, ONE)]


def test_job_that_is_due_waits_for_room_in_the_pool_without_being_held_up():
    assert held(assignment_with(0, 1), pool_excused=True) == []


def test_job_that_sleeps_until_its_time_is_not_held_up_and_one_whose_time_has_come_is():
    assignment = assignment_with(1, not_before=NOW + 5)
    assert assignment.lanes[1].take(now=NOW, count_max=1) == []

    assert held(assignment, now=NOW + 4.9) == []
    assert held(assignment, now=NOW + 5) == [Held(Cause.STARTING, ONE)]


def test_job_behind_a_run_of_its_turn_is_not_held_up():
    assert held(taken(assignment_with(0, 0))) == []


def test_run_out_of_its_time_holds_up():
    assert held(taken(assignment_with(0)), overdue=True) == [Held(Cause.RUNNING, MAIN)]


def test_record_that_waits_for_an_answer_is_held_up_beside_a_run_within_its_time():
    assignment = taken(assignment_with(0, 1))
    assignment.settling = 1

    assert held(assignment, pool_excused=True) == [APPEND]


def test_record_that_nobody_works_on_is_held_up():
    assignment = taken(assignment_with(0))
    assignment.running = 0

    assert held(assignment) == [Held(Cause.ORPHANED, MAIN)]


def test_what_is_away_holds_up_jobs_that_sleep_until_it_is_tried_again():
    assignment = assignment_with(0, not_before=NOW + 1)
    assert assignment.lanes[0].take(now=NOW, count_max=1) == []

    assert held(assignment, away=True) == [Held(Cause.WAITING, MAIN)]
    assert held(assignment) == []


def test_what_is_away_is_told_instead_of_what_comes_from_it():
    assert held(assignment_with(0), overdue=True, away=True) == [Held(Cause.WAITING, MAIN)]


def test_pause_is_held_up_only_where_no_record_is_left_to_end_it():
    empty, full = assignment_with(), taken(assignment_with(0))
    empty.paused.add(MAIN)
    full.paused.add(MAIN)

    assert held(empty) == [Held(Cause.PAUSED, MAIN)]
    assert held(full) == []


def test_records_on_the_log_that_do_not_arrive_are_held_up():
    assert held(assignment_with(), unread=(ONE,)) == [UNREAD]


def test_stopwatch_runs_from_the_first_look_and_is_set_back_by_progress():
    progress = Progress(gap_seconds_max=60.0)
    seen = []

    for now, settled in (10.0, 0), (20.0, 0), (25.0, 1), (40.0, 1):
        progress.look(now, settled=settled, held=[APPEND])
        seen.append(progress.longest)

    assert seen == [(APPEND, 0.0), (APPEND, 10.0), (APPEND, 0.0), (APPEND, 15.0)]


def test_stopwatch_ends_with_its_cause():
    progress = Progress(gap_seconds_max=60.0)
    progress.look(0.0, settled=0, held=[APPEND])
    progress.look(30.0, settled=0, held=[])
    assert progress.longest is None

    progress.look(40.0, settled=0, held=[APPEND])

    assert progress.longest == (APPEND, 0.0)


def test_each_cause_has_a_stopwatch_and_the_longest_is_told():
    progress = Progress(gap_seconds_max=60.0)
    started = Held(Cause.STARTING, MAIN)

    progress.look(0.0, settled=0, held=[started])
    progress.look(10.0, settled=0, held=[APPEND, started])
    both = progress.longest
    progress.look(20.0, settled=0, held=[APPEND])

    assert both == (started, 10.0)
    assert progress.longest == (APPEND, 10.0)


@pytest.mark.parametrize("cause", [Cause.READING, Cause.TAKING])
def test_what_else_is_settled_does_not_set_these_back(cause: Cause):
    progress = Progress(gap_seconds_max=60.0)

    for now in range(5):
        progress.look(float(now), settled=now, held=[Held(cause, ONE)])

    assert progress.longest == (Held(cause, ONE), 4.0)


def test_silence_between_two_looks_counts_up_to_the_gap_allowed():
    progress = Progress(gap_seconds_max=60.0)
    progress.look(0.0, settled=0, held=[APPEND])
    progress.look(5.0, settled=0, held=[APPEND])

    progress.look(5000.0, settled=0, held=[APPEND])

    assert progress.longest == (APPEND, 65.0)


def test_new_assignment_s_count_from_0_is_no_progress_by_itself():
    progress = Progress(gap_seconds_max=60.0)
    progress.look(0.0, settled=9, held=[APPEND])

    progress.begin()
    progress.look(10.0, settled=0, held=[APPEND])

    assert progress.longest == (APPEND, 10.0)
