"""Which keys have jobs waiting in the retry tiers of one partition: later jobs wait behind them.

Rule 1: an entry is one appended copy: (key, tier, copy). It is added when the copy is sent and
        removed when the copy is settled, so a copy that is read before its acknowledgement is
        served leaks nothing.
Rule 2: removal names the copy; removing one that is absent does nothing. A send that timed out and
        was sent again under the same name counts once.
Rule 3: a record joins the *nearest* tier ahead of it in which its key has anything waiting: the
        farthest would let a later record pass one that waits in between.
Rule 4: a full fence pauses its main partition, which alone adds keys; the tiers empty it.
"""

from __future__ import annotations

import heapq


class Fence:
    """The keys with copies ahead, for one partition and all of its tiers.

    >>> fence = Fence()
    >>> fence.add(b"a", tier=2, copy="x", since_ms=1000)
    >>> fence.tier_ahead(b"a", tier=0), fence.tier_ahead(b"a", tier=2)
    (2, None)
    """

    __slots__ = ("_copies", "_oldest", "held", "records_max")

    def __init__(self, *, records_max: int = 100_000) -> None:
        assert records_max >= 1
        self.records_max = records_max
        self._copies: dict[bytes, dict[str, int]] = {}  # Key -> copy -> tier.
        self.held = 0  # Copies in all.
        # A heap: (since, key, copy). What is gone is taken out when it comes up, or in bulk.
        self._oldest: list[tuple[int, bytes, str]] = []

    @property
    def full(self) -> bool:
        """Whether the main partition should pause. A signal: a takeover may find more."""
        return self.held >= self.records_max

    @property
    def resumable(self) -> bool:
        """Whether a main partition that paused for it should go on."""
        return self.held <= self.records_max // 2

    @property
    def keys(self) -> int:
        """How many keys have something waiting."""
        return len(self._copies)

    @property
    def oldest_ms(self) -> int | None:
        """Since when the job that is held for longest has been on its way; None: none is held."""
        while self._oldest and not self._holds(self._oldest[0]):
            heapq.heappop(self._oldest)
        return self._oldest[0][0] if self._oldest else None

    def add(self, key: bytes | None, *, tier: int, copy: str, since_ms: int) -> None:
        """Note that a copy of a record with this key is on its way to a tier.

        `since_ms`: when its job came to the main topic.
        """
        assert tier >= 1 and copy
        if key is None:
            return  # No key orders nothing.
        copies = self._copies.setdefault(key, {})
        if copy not in copies:
            self.held += 1
            heapq.heappush(self._oldest, (since_ms, key, copy))
            if len(self._oldest) > 2 * self.held + 100:
                self._oldest = [each for each in self._oldest if self._holds(each)]
                heapq.heapify(self._oldest)
        copies[copy] = tier

    def remove(self, key: bytes | None, *, copy: str) -> None:
        """Note that a copy is settled. Absent: nothing to do."""
        copies = self._copies.get(key) if key is not None else None
        if copies is None or key is None or copies.pop(copy, None) is None:
            return
        self.held -= 1
        if not copies:
            del self._copies[key]

    def tier_ahead(self, key: bytes | None, *, tier: int) -> int | None:
        """The nearest tier beyond `tier` in which the key has a copy waiting, or None."""
        copies = self._copies.get(key) if key is not None else None
        if not copies:
            return None
        return min((ahead for ahead in copies.values() if ahead > tier), default=None)

    def _holds(self, each: tuple[int, bytes, str]) -> bool:
        _, key, copy = each
        return copy in self._copies.get(key, ())
