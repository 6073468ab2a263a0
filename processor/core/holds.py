"""Which keys of one partition are closed since a job of theirs died (dead-letter policy `hold`).

Rule 1: a death under replay r closes its key to records of replay r and of older ones. A job that
        was never replayed is of replay 0, so live jobs stay out of a closed key.
Rule 2: the fence is asked first: a record goes to the dead-letter topic only when nothing of its
        key waits in a tier ahead.
Rule 3: the dead job itself is not behind itself: when it comes again, the ledger decides.
Rule 4: a key is opened by the end record of a replay, and only when the ledger knows no job that is
        held behind it. What is being told to the ledger meanwhile is not known to it yet: the end
        record waits for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple


class Closed(NamedTuple):
    """Why a key is closed: by the death of the job with this origin offset, under this replay."""

    replay: int
    offset: int


class Holds:
    """The closed keys of one partition. The ledger keeps them; this is its owner's view.

    >>> holds = Holds({})
    >>> holds.close(b"a", Closed(replay=0, offset=7))
    >>> holds.held(b"a", replay=0, offset=8), holds.held(b"a", replay=1, offset=8)
    (True, False)
    """

    __slots__ = ("_closed", "_telling", "enabled")

    def __init__(self, closed: Mapping[bytes, Closed] | None = None) -> None:
        self.enabled = closed is not None  # Of the policy `continue` nothing is ever closed.
        self._closed = dict(closed or {})
        self._telling: Counter[bytes] = Counter()  # Notes on their way to the ledger.

    def __len__(self) -> int:
        return len(self._closed)

    def held(self, key: bytes | None, *, replay: int, offset: int) -> bool:
        """Whether a job at the head of its lane, with this origin offset, may not run."""
        closed = self._closed.get(key) if key is not None else None
        return closed is not None and replay <= closed.replay and offset != closed.offset

    def behind(self, key: bytes) -> int:
        """The origin offset of the dead job that a key is held behind."""
        return self._closed[key].offset

    def close(self, key: bytes | None, closed: Closed) -> None:
        """Note a death that the ledger remembers. An older replay's death closes nothing more."""
        if not self.enabled or key is None:
            return  # No key holds nothing but itself.
        present = self._closed.get(key)
        if present is None or present.replay <= closed.replay:
            self._closed[key] = closed

    def open(self, key: bytes) -> None:
        """Note that the ledger has released the key. Open already: nothing to do."""
        self._closed.pop(key, None)

    def tell(self, key: bytes) -> None:
        """Begin to tell the ledger of a held job of this key."""
        self._telling[key] += 1

    def told(self, key: bytes) -> None:
        """The ledger knows it."""
        self._telling[key] -= 1
        if self._telling[key] == 0:
            del self._telling[key]

    def telling(self, key: bytes | None) -> bool:
        """Whether the ledger is still being told of jobs of this key."""
        return key in self._telling
