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


class Fence:
    """The keys with copies ahead, for one partition and all of its tiers.

    >>> fence = Fence()
    >>> fence.add(b"a", tier=2, copy="x")
    >>> fence.tier_ahead(b"a", tier=0), fence.tier_ahead(b"a", tier=2)
    (2, None)
    """

    __slots__ = ("_copies", "held", "records_max")

    def __init__(self, *, records_max: int = 100_000) -> None:
        assert records_max >= 1
        self.records_max = records_max
        # Key -> copy -> tier. Most keys have one copy: a pair takes a quarter of a dict's room.
        self._copies: dict[bytes, tuple[str, int] | dict[str, int]] = {}
        self.held = 0  # Copies in all.

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

    def add(self, key: bytes | None, *, tier: int, copy: str) -> None:
        """Note that a copy of a record with this key is on its way to a tier."""
        assert tier >= 1 and copy
        if key is None:
            return  # No key orders nothing.
        present = self._copies.get(key)
        if present is None:
            self._copies[key] = (copy, tier)
        elif isinstance(present, dict):
            self.held -= copy in present
            present[copy] = tier
        elif present[0] == copy:
            self.held -= 1
            self._copies[key] = (copy, tier)
        else:
            self._copies[key] = {present[0]: present[1], copy: tier}
        self.held += 1

    def remove(self, key: bytes | None, *, copy: str) -> None:
        """Note that a copy is settled. Absent: nothing to do."""
        present = self._copies.get(key) if key is not None else None
        if present is None or key is None:
            return
        if isinstance(present, dict):
            self.held -= present.pop(copy, None) is not None
            if not present:
                del self._copies[key]
        elif present[0] == copy:
            self.held -= 1
            del self._copies[key]

    def tier_ahead(self, key: bytes | None, *, tier: int) -> int | None:
        """The nearest tier beyond `tier` in which the key has a copy waiting, or None."""
        present = self._copies.get(key) if key is not None else None
        if present is None:
            return None
        if not isinstance(present, dict):
            return present[1] if present[1] > tier else None
        return min((ahead for ahead in present.values() if ahead > tier), default=None)
