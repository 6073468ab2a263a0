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

from collections.abc import Iterable, Sequence


class Fence:
    """The keys with copies ahead, for one partition and all of its tiers.

    >>> fence = Fence()
    >>> fence.add(b"a", tier=2, copy="x")
    >>> fence.tier_ahead(b"a", tier=0), fence.tier_ahead(b"a", tier=2)
    (2, None)
    """

    __slots__ = ("_lone", "_several", "held", "records_max")

    def __init__(self, *, records_max: int = 100_000) -> None:
        assert records_max >= 1
        self.records_max = records_max
        self.held = 0  # Copies in all.
        self._several: dict[bytes, dict[str, int]] = {}  # Key -> copy -> tier.
        # Most keys have one copy, here as "tier/copy": a dict of bytes and texts is none of the
        # garbage collector's business. With a million pairs as values it takes four times as long.
        self._lone: dict[bytes, str] = {}

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
        return len(self._lone) + len(self._several)

    def add(self, key: bytes | None, *, tier: int, copy: str) -> None:
        """Note that a copy of a record with this key is on its way to a tier."""
        assert tier >= 1 and copy
        if key is None:
            return  # No key orders nothing.
        copies = self._several.get(key)
        if copies is None:
            lone = self._lone.pop(key, None)
            if lone is None or lone.partition("/")[2] == copy:
                self.held += lone is None
                self._lone[key] = f"{tier}/{copy}"
                return
            ahead, _, other = lone.partition("/")
            copies = self._several[key] = {other: int(ahead)}
        self.held += copy not in copies
        copies[copy] = tier

    def remove(self, key: bytes | None, *, copy: str) -> None:
        """Note that a copy is settled. Absent: nothing to do."""
        if key is None:
            return
        copies = self._several.get(key)
        if copies is not None:
            self.held -= copies.pop(copy, None) is not None
            if not copies:
                del self._several[key]
        elif self._lone.get(key, "").partition("/")[2] == copy:
            self.held -= 1
            del self._lone[key]

    def knows(self, key: bytes | None) -> bool:
        """Whether a key has copies waiting in any tier."""
        return key in self._lone or key in self._several

    def waiting(self, keys: Sequence[bytes | None]) -> list[int]:
        """The places of the keys that have copies waiting."""
        lone, several = self._lone, self._several
        return [at for at, key in enumerate(keys) if key in lone or key in several]

    def tiers(self, key: bytes) -> Iterable[int]:
        """The tiers in which a key has copies waiting, one for each copy."""
        lone = self._lone.get(key)
        if lone is not None:
            return (int(lone.partition("/")[0]),)
        return self._several.get(key, {}).values()

    def tier_ahead(self, key: bytes | None, *, tier: int) -> int | None:
        """The nearest tier beyond `tier` in which the key has a copy waiting, or None."""
        if key is None or not self.held:
            return None
        return min((ahead for ahead in self.tiers(key) if ahead > tier), default=None)
