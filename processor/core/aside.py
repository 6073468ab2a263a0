"""Jobs that wait in their own lane for a moment, and are not copied to a tier.

One is a job that failed and is tried again soon; the others are fresh records behind it, or behind
copies of their key that are soon through.

Rule 1: what is aside is not settled: the watermark waits for it, and a crash brings it again.
Rule 2: only a key that the fence knows has anything aside. With what it knows it by, the failed
        job or the key's last copy, all comes back, ahead of everything of the key that came later.
Rule 3: a key's records leave together and in order, the failed job first: back to their lane, or
        all to a tier. A later one is never parked before them.
Rule 4: a failed job comes back when its turn is free: what its slice has not run of its key is
        behind it then.
Rule 5: nothing stays for long (`until`), no more than half a lane stays, and nothing stays when the
        partition is handed over: all that ran behind it would be run again.
"""

from __future__ import annotations

import heapq
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

from processor.model import Message

if TYPE_CHECKING:
    from processor.core.lane import Entry


class Waiting(NamedTuple):
    """What a key has aside, in order: the job that failed, if one did, and records behind it."""

    until: float  # Monotonic seconds.
    failed: Entry | None
    records: list[Message]


class Aside:
    """What one lane has set aside, by key.

    >>> aside = Aside()
    >>> aside.add(b"a", "a1", until=9.0); aside.add(b"b", "b1", until=9.5)
    >>> aside.add(b"a", "a2", until=9.7)
    >>> aside.overdue(9.2), aside.pop(b"a").records, aside.pop(b"b").records, len(aside)
    ([b'a'], ['a1', 'a2'], ['b1'], 0)
    """

    __slots__ = ("_count", "_due", "_sleeping", "_waiting")

    def __init__(self) -> None:
        # The key whose first record came first is first.
        self._waiting: dict[bytes, Waiting] = {}
        self._sleeping: list[tuple[float, bytes]] = []  # A heap: (not before, key) of the failed.
        self._due: dict[bytes, None] = {}  # Keys whose failed job's time has come.
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, key: bytes, record: Message, *, until: float) -> None:
        """Set a record aside behind those of its key; the first one's time counts for all."""
        self._waiting.setdefault(key, Waiting(until, None, [])).records.append(record)
        self._count += 1

    def add_failed(self, key: bytes, entry: Entry, *, until: float) -> None:
        """Set a failed job aside until its `not_before`, ahead of what its key has aside."""
        earlier = self._waiting.get(key, Waiting(until, None, []))
        assert earlier.failed is None
        self._waiting[key] = Waiting(min(until, earlier.until), entry, earlier.records)
        heapq.heappush(self._sleeping, (entry.not_before, key))
        self._count += 1

    def due(self, now: float) -> list[bytes]:
        """The keys whose failed job may be tried again. Seconds since the epoch."""
        while self._sleeping and self._sleeping[0][0] <= now:
            _, key = heapq.heappop(self._sleeping)
            failed = self._waiting[key].failed if key in self._waiting else None
            if failed is not None and failed.not_before <= now:  # Else it left, and failed again.
                self._due[key] = None
        return list(self._due)

    @property
    def wakes_at(self) -> float | None:
        """When the next failed job's time comes."""
        while self._sleeping and self.failed(self._sleeping[0][1]) is None:
            heapq.heappop(self._sleeping)  # It left before its time.
        return self._sleeping[0][0] if self._sleeping else None

    def failed(self, key: bytes) -> Entry | None:
        """The failed job that a key waits for."""
        waiting = self._waiting.get(key)
        return None if waiting is None else waiting.failed

    def pop(self, key: bytes) -> Waiting:
        """Take all that a key has aside."""
        waiting = self._waiting.pop(key, Waiting(0.0, None, []))
        self._due.pop(key, None)
        self._count -= len(waiting.records) + (waiting.failed is not None)
        return waiting

    def overdue(self, now: float) -> list[bytes]:
        """The keys whose time is over."""
        waiting = self._waiting.items()
        return [key for key, _ in takewhile(lambda each: each[1].until <= now, waiting)]
