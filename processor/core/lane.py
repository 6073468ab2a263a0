"""One partition's ordered queue in a worker.

Rule 1: entries of one *turn* run one after the other, in offset order; turns run side by side.
        Ordering `partition` has one turn in all, `key` one a key, `none` one a record.
Rule 2: a turn that was taken is busy until it is released; what is put back goes to its head.
Rule 3: a busy turn that is suspended does not go on when it is released, but when it is let go.
Rule 4: an entry that waits for its time keeps its place: the rest of its turn waits behind it.
Rule 5: where nothing has to be known of a record before it runs, records stay *fresh*: messages as
        the client gave them, behind everything in the queues. They are taken as a `Stretch`, a run
        of them as one turn of the whole lane, or are unrolled into entries and their turns.
Rule 6: a full lane pauses its partition and is resumed at half. `full` is a signal, not a wall:
        the batch that filled the lane is kept, so a lane holds at most `records_max` plus a batch.
Rule 7: what is set aside (core/aside.py) comes back ahead of all that its turn has queued.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from enum import StrEnum
from itertools import chain
from typing import Any

from processor.core.aside import Aside
from processor.core.stretch import Stretch
from processor.core.watermark import Watermark
from processor.model import Failure, Hop, JobHeaders, Message, Record

Turn = Hashable
Key = bytes  # A lane's own `bytes` is another thing.
RECORD_BYTES = 700  # What a record takes beside its value, in the client and here; measured.
UNROLLED_MAX = 8  # Fresh records become entries so many at a time: no more than are soon taken.
WHOLE: Turn = "whole lane"  # The turn of a stretch of many keys: nothing else of the lane runs.


class Ordering(StrEnum):
    """Which records of a partition run one after the other."""

    PARTITION = "partition"
    KEY = "key"
    NONE = "none"


class Entry:
    """A record in a lane, and what the engine knows of it."""

    __slots__ = (
        "attempt", "given_up", "hop", "job", "lane", "message", "not_before", "ran", "record",
        "span", "turn", "waits",
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
        self.waits = 0  # Times it met an outage.
        self.span: Any = None  # Of its latest run, where runs are traced (engine/tracing.py).
        self.message: Message | None = None  # What it was made of, where it came fresh.

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
        "_arrived",
        "_busy",
        "_bytes",
        "_fresh",
        "_queues",
        "_ready",
        "_sleeping",
        "_suspended",
        "_tried",
        "aside",
        "ordering",
        "read",
        "records_max",
        "tier",
        "waiting",
        "watermark",
    )  # fmt: skip

    def __init__(
        self,
        *,
        tier: int,
        ordering: Ordering,
        start: int,
        records_max: int,
        read: Callable[[Message], tuple[Record, Hop]] | None = None,
    ) -> None:
        assert tier >= 0 and records_max >= 1
        self.read = read  # What a fresh record says of its way; None: records arrive one by one.
        self._fresh: deque[Stretch] = deque()
        self.tier = tier  # 0 is the main topic.
        self.ordering = ordering
        self.records_max = records_max
        self.watermark = Watermark(start=start)
        self.waiting = 0  # Entries in the queues: not taken.
        self.aside = Aside()
        self._tried: dict[int, Entry] = {}  # Of fresh records that have failed, by their offsets.
        self._queues: dict[Turn, deque[Entry]] = {}
        self._ready: deque[Turn] = deque()
        self._busy: set[Turn] = set()
        # (last offset, its job's time on main, bytes) of what arrived together, in order.
        self._arrived: deque[tuple[int, int, int]] = deque()
        self._bytes = 0
        self._suspended: Counter[Turn] = Counter()  # How many of its entries ask for it.
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
        return bool(self._ready) or self._fresh_may_run

    def may_run(self, now: float) -> bool:
        """Whether `take` may give anything now. Asked of every lane in every turn: cheap."""
        if self._ready or self._fresh:
            return True
        return bool(self._sleeping) and self._sleeping[0][0] <= now

    @property
    def wakes_at(self) -> float | None:
        """When the next sleeping turn becomes ready, or a failed job may be tried again."""
        turn, failed = self._sleeping[0][0] if self._sleeping else None, self.aside.wakes_at
        return failed if turn is None or (failed is not None and failed < turn) else turn

    def delayed(self, now: float) -> int:
        """How many records wait for their time, or behind one of their turn that does."""
        turns = chain(self._ready, (turn for _, _, turn in self._sleeping))
        queues = (self._queues[turn] for turn in turns)
        return sum(len(queue) for queue in queues if queue[0].not_before > now)

    @property
    def oldest_ms(self) -> int | None:
        """When the job of the first unsettled record came to main (ms); None: all is settled."""
        self._drop_passed()
        return self._arrived[0][1] if self._arrived else None

    @property
    def bytes(self) -> int:
        """About how much memory its records take, of those that the watermark has not passed."""
        self._drop_passed()
        return self._bytes

    def _drop_passed(self) -> None:
        while self._arrived and self._arrived[0][0] < self.watermark.committable:
            self._bytes -= self._arrived.popleft()[2]

    def arrive(self, record: Record, hop: Hop) -> Entry:
        """Queue a record at the end of its turn and take responsibility for its offset."""
        self.watermark.begin(record.offset)
        assert not self._fresh
        entry = self._entry(record, hop)
        size = RECORD_BYTES + len(record.value or b"")
        self._arrived.append((record.offset, hop.origin_timestamp_ms, size))
        self._bytes += size
        self.waiting += 1
        queue = self._queues.get(entry.turn)
        if queue is not None:
            queue.append(entry)
            return entry
        self._queues[entry.turn] = deque((entry,))
        self._go_on(entry.turn)
        return entry

    def arrive_all(self, messages: Sequence[Message]) -> None:
        """Take responsibility for messages in offset order, and keep them fresh.

        Those that came before are left out: a client fetches some twice around a pause.
        """
        assert self.read is not None
        fresh = Stretch.rising(messages, self.watermark.next_offset)
        if not fresh.offsets:
            return
        self.watermark.begin_all(fresh.offsets)
        # The age of the first one stands for all: they were fetched together.
        size = sum(map(len, fresh.messages)) + RECORD_BYTES * len(fresh)
        self._arrived.append((fresh.offsets[-1], fresh.messages[0].timestamp()[1], size))
        self._bytes += size
        self.waiting += len(fresh.offsets)
        self._fresh.append(fresh)

    def pass_by(self, offset: int) -> None:
        """Settle a record that is not to be run: a marker, or a void copy."""
        self.watermark.begin(offset)
        self.watermark.settle(offset)

    def take(self, *, now: float, count_max: int, together: bool = False) -> list[Entry] | Stretch:
        """Take the head of the next ready turn, up to `count_max` entries, and make it busy.

        Fresh records are taken as they are where one turn is all there is, or `together` says that
        their turns need not run side by side. Empty when nothing may run now.
        """
        assert count_max >= 1
        self._wake(now)
        while True:
            taken = self._take_ready(now, count_max)
            if taken or not self._fresh_may_run:
                return taken
            alone = not (self._busy or self._queues or self._suspended)
            if alone and (together or self.ordering is Ordering.PARTITION):
                return self._take_fresh(count_max)
            if together and not (self._sleeping or self._suspended):
                return []  # Soon it is alone: what runs is quick.
            self._unroll_some()

    @property
    def _fresh_may_run(self) -> bool:
        """Whether fresh records could be taken, or unrolled behind what is queued."""
        if not self._fresh or WHOLE in self._busy:
            return False
        if self.ordering is Ordering.PARTITION:
            return not (self._busy or self._queues or self._suspended)
        return True

    def _take_fresh(self, count_max: int) -> Stretch:
        taken = self._fresh.popleft()
        while self._fresh and len(taken) < count_max:
            taken = taken.joined(self._fresh.popleft())
        if len(taken) > count_max:
            taken, rest = taken.split(count_max)
            self._fresh.appendleft(rest)
        self._busy.add(None if self.ordering is Ordering.PARTITION else WHOLE)
        self.waiting -= len(taken)
        return taken

    def _unroll_some(self) -> None:
        """Make entries of the first fresh records, and no more of them than are soon taken."""
        some = self._fresh.popleft()
        if len(some) > UNROLLED_MAX:
            some, rest = some.split(UNROLLED_MAX)
            self._fresh.appendleft(rest)
        for entry in self.entries_of(some):
            self._queues.setdefault(entry.turn, deque()).append(entry)
            if len(self._queues[entry.turn]) == 1:
                self._go_on(entry.turn)

    def entries_of(self, stretch: Stretch) -> list[Entry]:
        """Read what fresh records say of themselves."""
        return [self.entry_of(message) for message in stretch.messages]

    def entry_of(self, message: Message) -> Entry:
        """Read what a fresh record says of itself; of one that has failed more is known."""
        if self._tried and (tried := self._tried.get(message.offset() or 0)) is not None:
            return tried
        assert self.read is not None
        record, hop = self.read(message)
        entry = self._entry(record, hop)
        entry.message = message
        return entry

    def _entry(self, record: Record, hop: Hop) -> Entry:
        entry = Entry(record, hop, self, self._turn_of(record))
        entry.attempt = hop.attempt
        entry.not_before = hop.not_before_ms / 1000
        return entry

    def _take_ready(self, now: float, count_max: int) -> list[Entry]:
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
            assert not self._busy.isdisjoint((entry.turn, WHOLE)) or entry.turn in self._suspended
            self._queues.setdefault(entry.turn, deque()).appendleft(entry)
            self.waiting += 1

    def give_back(self, stretch: Stretch) -> None:
        """Return fresh records that were taken and not run: they come next."""
        if stretch.offsets:
            self._fresh.appendleft(stretch)
            self.waiting += len(stretch)

    def due_again(self, now: float) -> list[Key]:
        """The keys whose failed job may be tried again now: its turn is free."""
        due, one = self.aside.due(now), self.ordering is Ordering.PARTITION
        return [key for key in due if self._busy.isdisjoint((None if one else key, WHOLE))]

    def take_back(self, key: Key) -> None:
        """Let what was set aside for a key come next in its turn, the job that failed first."""
        _, failed, messages = self.aside.pop(key)
        if failed is not None:
            assert failed.message is not None
            self._tried[failed.record.offset] = failed
            failed.not_before = 0.0  # It has come, whatever the clock says next.
            messages.insert(0, failed.message)
        if not messages:
            return
        messages.sort(key=lambda each: each.offset() or 0)  # Ordering `none` may mix them.
        self.waiting += len(messages)
        queue = self._queues.get(None if self.ordering is Ordering.PARTITION else key)
        if queue is not None:
            queue.extendleft([self.entry_of(each) for each in reversed(messages)])
        else:
            self._fresh.appendleft(Stretch(messages, [each.offset() or 0 for each in messages]))

    def release(self, turn: Turn) -> None:
        """End a busy turn: its next entries may be taken, unless it is suspended."""
        self._busy.remove(turn)
        # What was put back of a stretch belongs to turns of its own.
        for each in list(self._queues) if turn == WHOLE else (turn,):
            self._go_on(each)

    def suspend(self, turn: Turn) -> None:
        """Let nothing more of a busy turn be taken until `let_go`."""
        assert not self._busy.isdisjoint((turn, WHOLE))
        self._suspended[turn] += 1

    def let_go(self, turn: Turn) -> None:
        """End a suspension; after the last the turn goes on, or will when it is released."""
        self._suspended[turn] -= 1
        if self._suspended[turn] == 0:
            del self._suspended[turn]
            self._go_on(turn)

    def settle(self, entry: Entry) -> None:
        """Note that an entry reached a final or parked state."""
        assert entry.lane is self
        self.watermark.settle(entry.record.offset)
        self._tried.pop(entry.record.offset, None)

    def settle_all(self, offsets: Sequence[int]) -> list[Entry]:
        """The same for records that were taken fresh, by their offsets in order.

        Returns those among them that had failed before.
        """
        self.watermark.settle_all(offsets)
        again = self._tried.keys() & offsets if self._tried else ()
        return [self._tried.pop(each) for each in again]

    def _go_on(self, turn: Turn) -> None:
        free = self._busy.isdisjoint((turn, WHOLE)) and turn not in self._suspended
        if free and turn in self._queues:
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
