"""One partition's watermark: the offset below which everything is settled.

Rule 1: the watermark never moves backwards within one assignment.
Rule 2: only settled records move it. Having *seen* a record proves nothing.
Rule 3: offsets may have gaps (compaction, transaction markers); never assume the next one exists.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice, repeat


class Watermark:
    """What may be committed: an offset is always *the next one to read*.

    >>> mark = Watermark(start=40)
    >>> mark.begin(40); mark.begin(41)
    >>> mark.settle(41); mark.committable
    40
    >>> mark.settle(40); mark.committable
    42
    """

    __slots__ = ("_begun", "_next", "_settled", "settled_records")

    def __init__(self, *, start: int) -> None:
        assert start >= 0
        self._next = start  # One past the last record begun.
        self._begun: deque[int] = deque()  # In offset order; the head is always unsettled.
        self._settled: set[int] = set()  # Settled, but behind an unsettled one.
        self.settled_records = 0  # In all.

    @property
    def committable(self) -> int:
        """The first unsettled offset, or the next one to read when all is settled."""
        return self._begun[0] if self._begun else self._next

    @property
    def next_offset(self) -> int:
        """The lowest offset that may begin."""
        return self._next

    @property
    def unsettled(self) -> int:
        """How many records have begun and are not settled."""
        return len(self._begun) - len(self._settled)

    def begin(self, offset: int) -> None:
        """Take responsibility for a record. Offsets grow, possibly with gaps."""
        assert offset >= self._next, f"offset {offset} came again or late; next is {self._next}"
        self._begun.append(offset)
        self._next = offset + 1

    def begin_all(self, offsets: Sequence[int]) -> None:
        """Take responsibility for records, in order."""
        assert offsets[0] >= self._next, f"offset {offsets[0]} came again; next is {self._next}"
        assert offsets[-1] - offsets[0] >= len(offsets) - 1, "offsets do not grow"
        self._begun.extend(offsets)
        self._next = offsets[-1] + 1

    def settle_all(self, offsets: Sequence[int]) -> None:
        """Note that records reached a final or parked state, in order."""
        begun, settled, count = self._begun, self._settled, len(offsets)
        if not settled and list(islice(begun, count)) == offsets:
            for _ in repeat(None, count):
                begun.popleft()
        else:
            assert begun[0] <= offsets[0] and offsets[-1] < self._next
            before = len(settled)
            settled.update(offsets)
            assert len(settled) == before + count, "an offset settled twice"
            self._advance()
        self.settled_records += count

    def settle(self, offset: int) -> None:
        """Note that a record reached a final or parked state. Once only, and only after `begin`."""
        begun = self._begun
        assert begun and offset >= begun[0], f"offset {offset} settled twice, or never begun"
        if offset != begun[0]:
            assert offset < self._next and offset not in self._settled
            self._settled.add(offset)
            self.settled_records += 1
            return
        begun.popleft()
        self.settled_records += 1
        self._advance()

    def _advance(self) -> None:
        """Go on to the first record that is not settled."""
        begun, settled = self._begun, self._settled
        while begun and begun[0] in settled:
            settled.remove(begun.popleft())
