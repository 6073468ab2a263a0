"""Fresh records whose key waits in a tier for a moment: they are set aside, not copied to it.

Rule 1: what is set aside is not settled: the watermark waits for it, and a crash brings it again.
Rule 2: only a key that the fence knows has anything aside. With the key's last copy all that it has
        aside comes back, ahead of everything of the key that came later.
Rule 3: a key's records leave together and in order: back to their lane, or all to a tier. A later
        one is never parked before them.
Rule 4: nothing stays for long (`until`), no more than half a lane stays, and nothing stays when the
        partition is handed over: all that ran behind it would be run again.
"""

from __future__ import annotations

from itertools import takewhile

from processor.model import Message


class Aside:
    """What one lane has set aside, by key.

    >>> aside = Aside()
    >>> aside.add(b"a", "a1", until=9.0); aside.add(b"b", "b1", until=9.5)
    >>> aside.add(b"a", "a2", until=9.7)
    >>> aside.overdue(9.2), aside.pop(b"a"), aside.pop(b"b"), len(aside)
    ([b'a'], ['a1', 'a2'], ['b1'], 0)
    """

    __slots__ = ("_count", "_records")

    def __init__(self) -> None:
        # Key -> (until, records); the key whose first record came first is first.
        self._records: dict[bytes, tuple[float, list[Message]]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, key: bytes, record: Message, *, until: float) -> None:
        """Set a record aside behind those of its key; the first one's time counts for all."""
        self._records.setdefault(key, (until, []))[1].append(record)
        self._count += 1

    def pop(self, key: bytes) -> list[Message]:
        """Take all that a key has aside, in order."""
        _, records = self._records.pop(key, (0.0, []))
        self._count -= len(records)
        return records

    def overdue(self, now: float) -> list[bytes]:
        """The keys whose time is over."""
        waiting = self._records.items()
        return [key for key, _ in takewhile(lambda each: each[1][0] <= now, waiting)]
