from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from processor.core.lane import RECORD_BYTES, WHOLE, Entry, Lane, Ordering
from processor.core.stretch import Stretch
from processor.model import Hop, Position, Record


def lane_of(ordering: Ordering = Ordering.KEY, *, records_max: int = 100, start: int = 0) -> Lane:
    return Lane(tier=0, ordering=ordering, start=start, records_max=records_max)


def arrive(lane: Lane, offset: int, key: bytes | None = b"k", *, not_before_ms: int = 0) -> Entry:
    hop = Hop(Position("t", 0, offset), 0, not_before_ms=not_before_ms)
    return lane.arrive(Record("t", 0, offset, key, b"", [], 0), hop)


def filled(lane: Lane, keys: list[bytes | None]) -> Lane:
    for offset, key in enumerate(keys):
        arrive(lane, offset, key)
    return lane


def taken(lane: Lane, *, now: float = 0.0, count_max: int = 10) -> list[int]:
    return [entry.record.offset for entry in lane.take(now=now, count_max=count_max)]


A, B = b"a", b"b"


@dataclass
class Came:
    """A message, as far as a lane looks at it."""

    at: int
    by: bytes

    def offset(self) -> int:
        return self.at

    def key(self) -> bytes:
        return self.by

    def timestamp(self) -> tuple[int, int]:
        return 1, 0

    def __len__(self) -> int:
        return 1


def read(message: Any) -> tuple[Record, Hop]:
    record = Record("t", 0, message.at, message.by, b"", [], 0)
    return record, Hop(Position("t", 0, message.at), 0)


@pytest.mark.parametrize("ordering", [Ordering.PARTITION, Ordering.KEY])
def test_failed_job_comes_back_ahead_of_what_its_slice_did_not_run(ordering: Ordering):
    lane = Lane(tier=0, ordering=ordering, start=0, records_max=100, read=read)
    lane.arrive_all([Came(at, A) for at in range(4)])  # type: ignore[misc]
    stretch = lane.take(now=0.0, count_max=3, together=True)
    assert isinstance(stretch, Stretch)
    failed = lane.entry_of(stretch.messages[0])
    failed.not_before, failed.attempt = 1.0, 1
    lane.aside.add_failed(A, failed, until=9.0)

    while_it_runs = lane.due_again(2.0)
    lane.give_back(stretch.without({0}))
    lane.release(None if ordering is Ordering.PARTITION else WHOLE)
    due = lane.due_again(2.0)
    lane.take_back(A)
    again = lane.take(now=2.0, count_max=1, together=True)

    assert (while_it_runs, due) == ([], [A])
    assert isinstance(again, Stretch)
    assert again.offsets == [0]
    assert lane.entry_of(again.messages[0]) is failed


@pytest.mark.parametrize(
    ("ordering", "keys", "turns"),
    [
        (Ordering.PARTITION, [A, B, A, None], [[0, 1, 2, 3]]),
        (Ordering.KEY, [A, B, A, B, A], [[0, 2, 4], [1, 3]]),
        (Ordering.KEY, [None, A, None], [[0], [1], [2]]),
        (Ordering.NONE, [A, A, None], [[0], [1], [2]]),
    ],
)
def test_turns_of_an_ordering(ordering: Ordering, keys: list[bytes | None], turns: list[list[int]]):
    lane = filled(lane_of(ordering), keys)

    side_by_side = [taken(lane) for _ in turns]

    assert side_by_side == turns
    assert taken(lane) == []


def test_what_comes_back_is_in_order_also_where_none_is_asked_for():
    lane = Lane(tier=0, ordering=Ordering.NONE, start=0, records_max=100, read=read)
    lane.arrive_all([Came(at, A) for at in range(2)])  # type: ignore[misc]
    stretch = lane.take(now=0.0, count_max=2, together=True)
    assert isinstance(stretch, Stretch)
    lane.aside.add_failed(A, lane.entry_of(stretch.messages[1]), until=9.0)
    lane.aside.add(A, stretch.messages[0], until=9.0)
    lane.release(WHOLE)
    lane.take_back(A)
    again = lane.take(now=0.0, count_max=2, together=True)

    assert isinstance(again, Stretch)
    assert again.offsets == [0, 1]


def test_no_more_is_taken_than_asked_for():
    lane = filled(lane_of(), [A, A, A])

    first = taken(lane, count_max=2)
    lane.release(A)

    assert first == [0, 1]
    assert taken(lane) == [2]


def test_busy_turn_gives_nothing_until_it_is_released():
    lane = filled(lane_of(), [A])
    taken(lane)
    arrive(lane, 1, A)

    busy = (taken(lane), lane.waiting)
    lane.release(A)

    assert busy == ([], 1)
    assert taken(lane) == [1]


def test_what_is_put_back_goes_to_the_head_in_its_order():
    lane = filled(lane_of(), [A, A, A])
    entries = lane.take(now=0.0, count_max=2)

    lane.put_back(entries)
    waiting = lane.waiting
    lane.release(A)

    assert waiting == 3
    assert taken(lane) == [0, 1, 2]


def test_delayed_counts_what_waits_for_its_time_and_what_is_behind_it_in_its_turn():
    lane = lane_of()
    arrive(lane, 0, A, not_before_ms=5000)
    arrive(lane, 1, A)
    arrive(lane, 2, B)
    arrive(lane, 3, None, not_before_ms=9000)
    before_anyone_looked = lane.delayed(1.0)
    taken(lane, now=1.0)

    assert (before_anyone_looked, lane.delayed(1.0)) == (3, 3)
    assert (lane.delayed(5.0), lane.delayed(9.0)) == (1, 0)


def test_entries_of_a_turn_that_is_not_busy_cannot_be_put_back():
    lane = filled(lane_of(), [A, A])
    entries = lane.take(now=0.0, count_max=1)
    lane.release(A)

    with pytest.raises(AssertionError):
        lane.put_back(entries)

    assert taken(lane) == [1]


def test_turn_that_was_not_taken_cannot_be_released():
    lane = filled(lane_of(), [A])

    with pytest.raises(KeyError):
        lane.release(A)

    assert taken(lane) == [0]


def test_suspended_turn_goes_on_when_it_is_let_go():
    lane = filled(lane_of(), [A, A, B])
    lane.take(now=0.0, count_max=1)
    lane.suspend(A)
    lane.release(A)
    arrive(lane, 3, A)

    held = [taken(lane), taken(lane)]
    lane.let_go(A)

    assert held == [[2], []]
    assert taken(lane) == [1, 3]


def test_turn_let_go_before_it_is_released_goes_on_when_it_is():
    lane = filled(lane_of(), [A, A])
    lane.take(now=0.0, count_max=1)
    lane.suspend(A)
    lane.let_go(A)

    busy = taken(lane)
    lane.release(A)

    assert busy == []
    assert taken(lane) == [1]


def test_entry_put_back_into_a_held_turn_is_its_head():
    lane = filled(lane_of(), [A, A])
    entries = lane.take(now=0.0, count_max=1)
    lane.suspend(A)
    lane.release(A)

    lane.put_back(entries)
    lane.let_go(A)

    assert taken(lane) == [0, 1]


def test_turn_sleeps_until_its_head_is_due_and_others_pass():
    lane = lane_of()
    arrive(lane, 0, A, not_before_ms=10_000)
    arrive(lane, 1, A)
    arrive(lane, 2, B)

    early = [taken(lane, now=9.9), taken(lane, now=9.9)]
    wakes_at, runnable = lane.wakes_at, lane.runnable

    assert early == [[2], []]
    assert (wakes_at, runnable) == (10.0, False)
    assert taken(lane, now=10.0) == [0, 1]
    assert lane.wakes_at is None


def test_entry_that_is_not_due_ends_what_is_taken():
    lane = lane_of()
    arrive(lane, 0, A)
    arrive(lane, 1, A, not_before_ms=5_000)
    arrive(lane, 2, A)

    first = taken(lane)
    lane.release(A)

    assert first == [0]
    assert taken(lane) == []
    assert taken(lane, now=5.0) == [1, 2]


def test_entry_put_back_to_wait_keeps_its_place():
    lane = filled(lane_of(), [A, A])
    entries = lane.take(now=0.0, count_max=1)
    entries[0].not_before = 7.0
    lane.put_back(entries)
    lane.release(A)

    assert taken(lane, now=6.0) == []
    assert taken(lane, now=7.0) == [0, 1]


def test_sleeping_turns_wake_in_the_order_of_their_times():
    lane = lane_of()
    for offset, key, at in (0, b"a", 30), (1, b"b", 10), (2, b"c", 20):
        arrive(lane, offset, key, not_before_ms=at * 1000)
    taken(lane)

    assert [taken(lane, now=30.0) for _ in range(3)] == [[1], [2], [0]]


def test_lane_is_full_at_its_bound_and_resumable_at_half():
    lane = lane_of(records_max=4)
    seen = []

    for offset in range(4):
        arrive(lane, offset)
        seen.append(lane.full)
    entries = lane.take(now=0.0, count_max=4)
    told = []
    for entry in entries:
        lane.settle(entry)
        told.append((lane.full, lane.resumable))

    assert seen == [False, False, False, True]
    assert told == [(False, False), (False, True), (False, True), (False, True)]
    assert lane.idle


def test_lane_for_one_record_is_resumable_when_it_is_empty():
    lane = lane_of(records_max=1)
    arrive(lane, 0)
    full = (lane.full, lane.resumable)
    lane.settle(*lane.take(now=0.0, count_max=1))

    assert full == (True, False)
    assert (lane.full, lane.resumable) == (False, True)


def test_entry_settles_only_in_its_own_lane():
    lane, other = filled(lane_of(), [A]), filled(lane_of(), [A])
    (entry,) = lane.take(now=0.0, count_max=1)

    with pytest.raises(AssertionError):
        other.settle(entry)

    assert (lane.watermark.unsettled, other.watermark.unsettled) == (1, 1)


def test_entry_takes_its_attempts_and_its_time_from_its_way():
    lane = lane_of()
    hop = Hop(Position("t", 0, 3), 0, attempt=2, not_before_ms=1500)

    entry = lane.arrive(Record("t", 0, 0, A, b"", [], 0), hop)

    assert (entry.attempt, entry.not_before) == (2, 1.5)


class LaneMachine(RuleBasedStateMachine):
    """Whatever is done with a lane, each turn's records leave it in offset order, one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.next = 0
        self.busy: dict[Hashable, list[Entry]] = {}
        self.held: set[Hashable] = set()
        self.unsettled = 0
        self.left: dict[bytes | None, list[int]] = defaultdict(list)
        self.ordering = Ordering.KEY
        self.lane = lane_of(self.ordering, records_max=5)

    @rule(key=st.sampled_from([b"a", b"b", b"c", None]), gap=st.integers(0, 2), late=st.booleans())
    def arrives(self, key: bytes | None, gap: int, late: bool) -> None:
        offset = self.next + gap
        arrive(self.lane, offset, key, not_before_ms=int(self.now * 1000) + 2000 * late)
        self.next = offset + 1
        self.unsettled += 1

    @rule(count_max=st.integers(1, 3), together=st.booleans())
    def takes(self, count_max: int, together: bool) -> None:
        entries = self.lane.take(now=self.now, count_max=count_max, together=together)
        if entries:
            assert len(entries) <= count_max
            assert {entry.turn for entry in entries} == {entries[0].turn}
            assert entries[0].turn not in self.busy and entries[0].turn not in self.held
            assert all(entry.not_before <= self.now for entry in entries)
            self.busy[entries[0].turn] = entries

    @precondition(lambda self: self.busy)
    @rule(number=st.integers(0, 9), settled=st.integers(0, 3), hold=st.booleans())
    def ends(self, number: int, settled: int, hold: bool) -> None:
        turn = list(self.busy)[number % len(self.busy)]
        entries = self.busy.pop(turn)
        for entry in entries[:settled]:
            self.lane.settle(entry)
            self.left[entry.record.key].append(entry.record.offset)
            self.unsettled -= 1
        if entries[settled:]:
            entries[settled].not_before = self.now + 1.0
        self.lane.put_back(entries[settled:])
        if hold and turn not in self.held:
            self.lane.suspend(turn)
            self.held.add(turn)
        self.lane.release(turn)

    @precondition(lambda self: self.held)
    @rule(number=st.integers(0, 9))
    def lets_go(self, number: int) -> None:
        turn = sorted(self.held, key=repr)[number % len(self.held)]
        self.lane.let_go(turn)
        self.held.remove(turn)

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def keys_keep_their_order(self) -> None:
        for key, offsets in self.left.items():
            assert key is None or offsets == sorted(offsets)

    @invariant()
    def counts_agree(self) -> None:
        taken_now = sum(len(entries) for entries in self.busy.values())
        assert self.lane.watermark.unsettled == self.unsettled
        assert self.lane.waiting == self.unsettled - taken_now
        assert self.lane.full == (self.unsettled >= 5)

    def teardown(self) -> None:
        """Nothing is stuck: released, let go and given time, the lane empties."""
        for turn, entries in self.busy.items():
            self.lane.put_back(entries)
            self.lane.release(turn)
        for turn in self.held:
            self.lane.let_go(turn)
        while entries := self.lane.take(now=self.now + 100.0, count_max=3):
            for entry in entries:
                self.lane.settle(entry)
                self.left[entry.record.key].append(entry.record.offset)
            self.lane.release(entries[0].turn)
        self.keys_keep_their_order()
        assert self.lane.idle
        assert self.lane.watermark.committable == self.next


class PartitionMachine(LaneMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ordering = Ordering.PARTITION
        self.lane = lane_of(self.ordering, records_max=5)

    @invariant()
    def one_turn_at_a_time(self) -> None:
        assert len(self.busy) <= 1
        left = sorted(offset for offsets in self.left.values() for offset in offsets)
        assert self.lane.watermark.committable > max(left, default=-1)


few = settings(
    max_examples=25, stateful_step_count=25, derandomize=True, database=None, deadline=None
)
LaneMachine.TestCase.settings = few
PartitionMachine.TestCase.settings = few
TestLaneByKey = LaneMachine.TestCase
TestLaneByPartition = PartitionMachine.TestCase


def test_oldest_is_the_job_of_the_first_unsettled_record():
    lane = Lane(tier=1, ordering=Ordering.KEY, start=0, records_max=2)
    entries = []
    for offset, at in enumerate((300, 100, 200)):
        hop = Hop(Position("t", 0, offset), at)
        entries.append(
            lane.arrive(Record("t.retry.1", 0, offset, bytes([offset]), b"", [], 0), hop)
        )
    while lane.take(now=0.0, count_max=1):
        pass
    seen = [lane.oldest_ms]

    for entry in (entries[1], entries[0], entries[2]):
        lane.settle(entry)
        seen.append(lane.oldest_ms)

    assert seen == [300, 300, 200, None]


def test_bytes_are_counted_until_the_watermark_has_passed_their_record():
    lane = Lane(tier=1, ordering=Ordering.KEY, start=0, records_max=10)
    for offset in range(2):
        hop = Hop(Position("t", 0, offset), offset)
        lane.arrive(Record("t.retry.1", 0, offset, None, b"x" * 1000, [], 0), hop)
    first, second = (lane.take(now=0.0, count_max=1)[0] for _ in range(2))
    both = lane.bytes

    lane.settle(second)
    behind_the_first = lane.bytes
    lane.settle(first)

    assert both == behind_the_first == 2 * (1000 + RECORD_BYTES)
    assert lane.bytes == 0
