"""Which dead letters an action touches, and in which order."""

from __future__ import annotations

import pytest

from processor.dead import DeadLetter, Filter, State, grouped, with_values
from processor.dead_plan import Plan, plan
from processor.engine.operations import Action, ClosedKey
from processor.engine.replay import Letter
from processor.errors import ProcessorError, UsageError
from processor.model import Hop, JobHeaders, Position, Record


def letter(
    offset: int, key: str | None = "a", *, state: State = "dead", partition: int = 0,
    error: str = "OSError", replays: int = 0,
) -> DeadLetter:  # fmt: skip
    held = state == "held"
    hop = Hop(
        Position("t", partition, offset), 0, attempt=0 if held else 4, replays=replays,
        last_failure_ms=None if held else 1000 * offset, error_class=None if held else error,
        error_message=None if held else "no answer", held_behind="t-0-0" if held else None,
    )  # fmt: skip
    named = None if key is None else key.encode()
    record = Record("t.dlt", partition, offset, named, None, [], 1000 * offset)
    return DeadLetter(Letter(record, JobHeaders(f"job-{offset}", "count"), hop), 7, state)


def closed(offset: int, key: str = "a") -> ClosedKey:
    return ClosedKey(0, key.encode(), offset, 0, 0.0, 0)


def chosen(
    letters: list[DeadLetter], *shut: ClosedKey, wanted: Filter | None = None,
    action: Action = "replay", replays_max: int = 3, jobs_max: int | None = None,
    after: str | None = None,
) -> Plan:  # fmt: skip
    return plan(
        action, letters, shut, wanted or Filter(), replays_max=replays_max, jobs_max=jobs_max,
        after=after,
    )  # fmt: skip


def offsets(found: Plan) -> list[list[int]]:
    return [[each.hop.origin.offset for each in unit.letters] for unit in found.units]


def test_letters_that_fell_to_retention_since_they_were_listed_are_told():
    letters = [letter(offset).letter for offset in (1, 2, 3)]

    kept = with_values(letters, {(0, 1): b"one", (0, 2): None, (0, 3): b"three"})
    with pytest.raises(ProcessorError, match=r"2 dead letter.*job-1 at t\.dlt-0-1"):
        with_values(letters, {(0, 3): b"three"})

    assert [each.record.value for each in kept] == [b"one", None, b"three"]


def test_dead_jobs_are_replayed_in_the_order_of_their_origins():
    found = chosen([letter(5), letter(2, "b"), letter(9, partition=1), letter(7)])

    assert offsets(found) == [[2], [5], [7], [9]]
    assert found.jobs == 4


def test_what_is_done_or_purged_is_left_alone():
    found = chosen([letter(1, state="done"), letter(2, state="purged"), letter(3)])

    assert offsets(found) == [[3]]


def test_closed_key_is_replayed_whole_where_its_dead_job_is_meant():
    letters = [letter(1), letter(2, state="held"), letter(3, "b"), letter(4, state="held")]

    found = chosen(letters, closed(1), wanted=Filter(error_class="OSError", key="a"))

    assert offsets(found) == [[1, 2, 4]]
    assert found.units[0].closed == closed(1)


def test_what_died_before_the_key_was_released_is_no_part_of_its_sequence():
    found = chosen([letter(1), letter(5), letter(6, state="held")], closed(5))

    assert offsets(found) == [[5, 6]]


@pytest.mark.parametrize("wanted", [Filter(job_id="job-2"), Filter(origin="t-0-2")])
def test_one_job_of_a_held_sequence_is_refused(wanted: Filter):
    with pytest.raises(UsageError, match=r"job-2 is one of 2.*out of order"):
        chosen([letter(1), letter(2, state="held")], closed(1), wanted=wanted)


def test_key_whose_dead_job_has_no_letter_yet_waits():
    with pytest.raises(ProcessorError, match="has not landed yet"):
        chosen([letter(2, state="held")], closed(1))


def test_key_of_which_only_the_end_is_missing_is_opened():
    found = chosen([letter(1, state="done")], closed(1))

    assert offsets(found) == [[]]


def test_release_leaves_the_dead_job_and_what_is_not_held():
    letters = [letter(1), letter(2, state="held"), letter(3, "b")]

    assert offsets(chosen(letters, closed(1), action="release")) == [[2]]


def test_purge_takes_the_whole_sequence():
    letters = [letter(1), letter(2, state="held"), letter(3, "b")]

    assert offsets(chosen(letters, closed(1), action="purge")) == [[1, 2], [3]]


def test_job_that_was_replayed_often_is_skipped_and_a_sequence_whole():
    letters = [letter(1, replays=3), letter(2, state="held"), letter(3, "b"),
               letter(4, "c", replays=3)]  # fmt: skip

    found = chosen(letters, closed(1))

    assert offsets(found) == [[3]]
    assert [each.dead.hop.origin.offset for each in found.skipped] == [1, 2, 4]
    assert "3 times" in found.skipped[0].why


def test_limit_cuts_between_units_and_the_cursor_goes_on():
    letters = [letter(1), letter(2, state="held"), letter(3, "b"), letter(4, "c")]

    first = chosen(letters, closed(1), jobs_max=1)
    second = chosen(letters, closed(1), jobs_max=1, after=first.units[-1].cursor)
    third = chosen(letters, closed(1), after=second.units[-1].cursor)

    assert (offsets(first), offsets(second), offsets(third)) == ([[1, 2]], [[3]], [[4]])


@pytest.mark.parametrize("cursor", ["", "x", "1-", "-1", "1-x"])
def test_cursor_that_is_none_is_refused(cursor: str):
    with pytest.raises(UsageError, match="is no cursor"):
        chosen([letter(1)], after=cursor)


def test_time_is_that_of_the_last_failure():
    found = chosen([letter(1), letter(5), letter(9)], wanted=Filter(since=5.0, until=9.0))

    assert offsets(found) == [[5]]


def test_like_failures_are_counted_together():
    rows = grouped([letter(1), letter(2, "b"), letter(3, error="Reject")], "error_class")

    assert [(row["error_class"], row["jobs"], row["keys"]) for row in rows] == [
        ("OSError", 2, 2), ("Reject", 1, 1),
    ]  # fmt: skip
    assert rows[0]["example_job"] == "job-1"
