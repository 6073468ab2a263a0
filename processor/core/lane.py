"""One partition's ordered queue in a worker.

Rule 1: entries of one *turn* run one after the other, in offset order; turns run side by side.
        Ordering `partition` has one turn in all, `key` one a key, `none` one a record.
Rule 2: a turn that was taken is busy until it is released; what is put back goes to its head.
Rule 3: a busy turn that is suspended does not go on when it is released, but when it is let go.
Rule 4: an entry that waits for its time keeps its place: the rest of its turn waits behind it.
Rule 5: a full lane pauses its partition and is resumed at half. `full` is a signal, not a wall:
        the batch that filled the lane is kept, so a lane holds at most `records_max` plus a batch.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Hashable, Iterable
from enum import StrEnum

from processor.core.watermark import Watermark
from processor.model import Failure, Hop, JobHeaders, Record

Turn = Hashable


class Ordering(StrEnum):
    """Which records of a partition run one after the other."""

    PARTITION = "partition"
    KEY = "key"
    NONE = "none"


class Entry:
    """A record in a lane, and what the engine knows of it."""

    __slots__ = (
        "attempt", "given_up", "hop", "job", "lane", "not_before", "ran", "record", "turn",
    )  # fmt: skip

    def __init__(self, record: Record, hop: Hop, lane: Lane, turn: Turn) -> None:
        self.record = record
        self.lane = lane
        self.turn = turn
        self.not_before = 0.0  # Seconds since the epoch.
        self.attempt = 0  # Runs so far.
        self.hop = hop  # Its way so far.
        self.job: JobHeaders | None = None  # What its headers say, once they were read.
        self.given_up: Failure | None = None  # A run that failed, to be judged at the turn's head.
        self.ran: object = None  # What its run left behind, while that cannot be written.

    def __repr__(self) -> str:
        record = self.record
        return f"<{record.topic}-{record.partition}-{record.offset} attempt {self.attempt}>"


class Lane:
    """One partition's entries, waiting, running or waiting for an acknowledgement.

    >>> from processor.model import Position
    >>> lane = Lane(tier=0, ordering=Ordering.KEY, start=7, records_max=10)
    >>> for offset, key in (7, b"a"), (8, b"b"), (9, b"a"):
    ...     hop = Hop(Position("t", 0, offset), 0)
    ...     _ = lane.arrive(Record("t", 0, offset, key, b"", [], 0), hop)
    >>> [entry.record.offset for entry in lane.take(now=0.0, count_max=5)]
    [7, 9]
    >>> [entry.record.offset for entry in lane.take(now=0.0, count_max=5)]
    [8]
    """

    __slots__ = (
        "_ages",
        "_busy",
        "_queues",
        "_ready",
        "_sleeping",
        "_suspended",
        "ordering",
        "records_max",
        "tier",
        "waiting",
        "watermark",
    )  # fmt: skip

    def __init__(self, *, tier: int, ordering: Ordering, start: int, records_max: int) -> None:
        assert tier >= 0 and records_max >= 1
        self.tier = tier  # 0 is the main topic.
        self.ordering = ordering
        self.records_max = records_max
        self.watermark = Watermark(start=start)
        self.waiting = 0  # Entries in the queues: not taken.
        self._queues: dict[Turn, deque[Entry]] = {}
        self._ready: deque[Turn] = deque()
        self._busy: set[Turn] = set()
        self._ages: deque[tuple[int, int]] = deque()  # (offset, its job's time on main), in order.
        self._suspended: set[Turn] = set()
        self._sleeping: list[tuple[float, int, Turn]] = []  # A heap: (until, head's offset, turn).

    @property
    def full(self) -> bool:
        """Whether the partition should pause."""
        return self.watermark.unsettled >= self.records_max

    @property
    def resumable(self) -> bool:
        """Whether a paused partition should go on."""
        return self.watermark.unsettled <= self.records_max // 2

    @property
    def idle(self) -> bool:
        """Whether every record that began is settled."""
        return self.watermark.unsettled == 0

    @property
    def runnable(self) -> bool:
        """Whether a turn is ready to be taken (one that sleeps becomes ready in `take`)."""
        return bool(self._ready)

    @property
    def wakes_at(self) -> float | None:
        """When the next sleeping turn becomes ready."""
        return self._sleeping[0][0] if self._sleeping else None

    @property
    def oldest_ms(self) -> int | None:
        """When the job of the first unsettled record came to the main topic; None: all is settled.

        Milliseconds since the epoch.
        """
        while self._ages and self._ages[0][0] < self.watermark.committable:
            self._ages.popleft()
        return self._ages[0][1] if self._ages else None

    def arrive(self, record: Record, hop: Hop) -> Entry:
        """Queue a record at the end of its turn and take responsibility for its offset."""
        self.watermark.begin(record.offset)
        entry = Entry(record, hop, self, self._turn_of(record))
        entry.attempt = hop.attempt
        entry.not_before = hop.not_before_ms / 1000
        if len(self._ages) > 2 * self.records_max:
            self.oldest_ms  # noqa: B018 - drops what is settled, where nobody asks.
        self._ages.append((record.offset, hop.origin_timestamp_ms))
        self.waiting += 1
        queue = self._queues.get(entry.turn)
        if queue is not None:
            queue.append(entry)
            return entry
        self._queues[entry.turn] = deque((entry,))
        self._go_on(entry.turn)
        return entry

    def pass_by(self, offset: int) -> None:
        """Settle a record that is not to be run: a marker, or a void copy."""
        self.watermark.begin(offset)
        self.watermark.settle(offset)

    def take(self, *, now: float, count_max: int) -> list[Entry]:
        """Take the head of the next ready turn, up to `count_max` entries, and make it busy.

        Empty when nothing may run now.
        """
        assert count_max >= 1
        self._wake(now)
        while self._ready:
            turn = self._ready.popleft()
            queue = self._queues[turn]
            if queue[0].not_before > now:
                self._sleep(turn, queue[0])
                continue
            taken = [queue.popleft()]
            while queue and len(taken) < count_max and queue[0].not_before <= now:
                taken.append(queue.popleft())
            if not queue:
                del self._queues[turn]
            self._busy.add(turn)
            self.waiting -= len(taken)
            return taken
        return []

    def put_back(self, entries: Iterable[Entry]) -> None:
        """Return entries of a busy or suspended turn to its head, in the order given."""
        for entry in reversed(list(entries)):
            assert entry.turn in self._busy or entry.turn in self._suspended
            self._queues.setdefault(entry.turn, deque()).appendleft(entry)
            self.waiting += 1

    def release(self, turn: Turn) -> None:
        """End a busy turn: its next entries may be taken, unless it is suspended."""
        self._busy.remove(turn)
        self._go_on(turn)

    def suspend(self, turn: Turn) -> None:
        """Let nothing more of a busy turn be taken until `let_go`."""
        assert turn in self._busy and turn not in self._suspended
        self._suspended.add(turn)

    def let_go(self, turn: Turn) -> None:
        """End the suspension: the turn goes on, or will when it is released."""
        self._suspended.remove(turn)
        self._go_on(turn)

    def settle(self, entry: Entry) -> None:
        """Note that an entry reached a final or parked state."""
        assert entry.lane is self
        self.watermark.settle(entry.record.offset)

    def _go_on(self, turn: Turn) -> None:
        if turn in self._queues and turn not in self._busy and turn not in self._suspended:
            self._ready.append(turn)

    def _turn_of(self, record: Record) -> Turn:
        if self.ordering is Ordering.PARTITION:
            return None
        if self.ordering is Ordering.KEY and record.key is not None:
            return record.key
        return record.offset  # No key orders nothing.

    def _sleep(self, turn: Turn, head: Entry) -> None:
        heapq.heappush(self._sleeping, (head.not_before, head.record.offset, turn))

    def _wake(self, now: float) -> None:
        while self._sleeping and self._sleeping[0][0] <= now:
            self._ready.append(heapq.heappop(self._sleeping)[2])
