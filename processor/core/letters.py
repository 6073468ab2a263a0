"""Which jobs of a partition are dead, where no ledger remembers it: read from its dead letters.

Rule 1: a dead job that comes again is not run again, unless an operator replays it.
Rule 2: dead letters are marked and scanned at takeover like a tier: what an older owner appends
        behind the marker is void, for its job comes again.
Rule 3: a letter can be forgotten once its job cannot come again. That is sure when nothing of the
        partition is on its way or waits in a tier, and all of it is committed: then all of them are
        forgotten at once, and the position moves behind them.
Rule 4: full, they pause their main partition until then: the tiers empty by themselves.
"""

from __future__ import annotations

from collections.abc import Iterable

from processor.core.floor import Floor
from processor.model import Partition, Position


class Letters:
    """The dead of one partition since its position on the dead-letter topic.

    >>> letters = Letters(partition=Partition("t.dlt", 0), start=3, epoch=0, records_max=10)
    >>> dead = Position("t", 0, 40)
    >>> letters.note(3, origin=dead, replay=0)
    >>> letters.tell(dead, replay=0), letters.tell(dead, replay=1), letters.position
    (True, False, 3)
    >>> letters.forget()
    >>> letters.tell(dead, replay=0), letters.position
    (False, 4)
    """

    __slots__ = ("_end", "_offsets", "_replays", "floor", "partition", "position", "records_max")

    def __init__(self, *, partition: Partition, start: int, epoch: int, records_max: int) -> None:
        assert records_max >= 1
        self.partition = partition  # Of the dead-letter topic.
        self.position = start  # What is to be committed: where the next owner scans from.
        self.floor = Floor(start=start, epoch=epoch)
        self.records_max = records_max
        self._end = start
        self._replays: dict[Position, int] = {}  # Origin -> the replay it died in.
        self._offsets: set[int] = set()  # Of the origins: a stranger's is on a tier.

    @property
    def full(self) -> bool:
        """Whether the main partition should pause."""
        return len(self._replays) >= self.records_max

    def note(self, offset: int, *, origin: Position, replay: int) -> None:
        """Note a letter at this offset, of the job with this origin."""
        self._end = max(self._end, offset + 1)
        self._replays[origin] = max(replay, self._replays.get(origin, 0))
        self._offsets.add(origin.offset)

    def closed_at(self, offset: int, *, epoch: int) -> None:
        """Note our own takeover marker, behind all that was scanned."""
        self._end = max(self._end, offset + 1)
        self.floor.raise_at(offset, epoch=epoch)

    def tell(self, origin: Position, *, replay: int) -> bool:
        """Tell whether this job has died, in this replay or a newer one."""
        died = self._replays.get(origin)
        return died is not None and replay <= died

    def any_of(self, offsets: Iterable[int]) -> bool:
        """Whether a job with one of these origin offsets may have died, in whatever replay."""
        return bool(self._offsets) and not self._offsets.isdisjoint(offsets)

    def forget(self) -> None:
        """Forget all of them: none of their jobs can come again."""
        self._replays.clear()
        self._offsets.clear()
        self.position = self._end
        self.floor.forget(self._end)
