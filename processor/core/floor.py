"""The epoch below which a tier's records are void, as it stands at each offset of the tier.

Rule 1: a takeover marker raises the floor for what lies behind it, never for what lies before.
Rule 2: the floor never falls: a marker below it means nothing.
Rule 3: a record whose writer's epoch is below the floor is void. Its writer had lost the partition
        when the marker landed, so the commit of its source was refused and the source comes again.
"""

from __future__ import annotations

from collections import deque


class Floor:
    """One tier's floor from the committed offset on.

    >>> floor = Floor(start=10, epoch=3)
    >>> floor.raise_at(12, epoch=5)
    >>> floor.at(12), floor.at(13), floor.epoch
    (3, 5, 5)
    """

    __slots__ = ("_steps",)

    def __init__(self, *, start: int, epoch: int) -> None:
        assert start >= 0 and epoch >= 0
        self._steps: deque[tuple[int, int]] = deque([(start, epoch)])  # (from offset, epoch)

    @property
    def epoch(self) -> int:
        """The floor behind the last marker seen."""
        return self._steps[-1][1]

    def raise_at(self, offset: int, *, epoch: int) -> None:
        """Note a marker at this offset. Markers come in offset order."""
        assert offset >= self._steps[-1][0]
        if epoch > self.epoch:
            self._steps.append((offset + 1, epoch))

    def at(self, offset: int) -> int:
        """The floor for a record at this offset; not below where `forget` was told."""
        return next(epoch for start, epoch in reversed(self._steps) if start <= offset)

    def forget(self, offset: int) -> None:
        """Drop what is known only of offsets below this one."""
        while len(self._steps) > 1 and self._steps[1][0] <= offset:
            self._steps.popleft()
