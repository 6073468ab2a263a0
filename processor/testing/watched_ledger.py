"""A ledger that a test can make fail, or crash its worker, around any call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

from processor.core.holds import Closed
from processor.engine.ports import Checkpoint, Death, HeldJob, Ledger, LedgerRow, Owner
from processor.model import Effect

Call = Literal[
    "raise_owner",
    "lookup",
    "record",
    "checkpoint",
    "dying",
    "dead",
    "holds",
    "held",
    "unheld",
    "end_replay",
]
_T = TypeVar("_T")


def _nothing(_: Call) -> None:
    """Let the call through."""


class WatchedLedger:
    """Passes every call on to another ledger (port: `engine.ports.Ledger`).

    `before` and `after` are told of each call: what they raise, the caller is given. Raised by
    `after` it stands for an answer that was lost: the call has taken effect.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.before: Callable[[Call], None] = _nothing
        self.after: Callable[[Call], None] = _nothing

    @property
    def remembers(self) -> bool:
        """As the other ledger does."""
        return self._ledger.remembers

    def raise_owner(self, owner: Owner) -> None:
        """Pass it on."""
        self._pass_on("raise_owner", lambda: self._ledger.raise_owner(owner))

    def lookup(self, identities: Sequence[str]) -> dict[str, LedgerRow]:
        """Pass it on."""
        return self._pass_on("lookup", lambda: self._ledger.lookup(identities))

    def record(
        self,
        owner: Owner,
        effects: Sequence[Effect],
        write: Callable[[Any, Sequence[Effect]], None] | None = None,
    ) -> set[str]:
        """Pass it on."""
        return self._pass_on("record", lambda: self._ledger.record(owner, effects, write))

    def checkpoint(self, owner: Owner, checkpoint: Checkpoint) -> None:
        """Pass it on."""
        self._pass_on("checkpoint", lambda: self._ledger.checkpoint(owner, checkpoint))

    def dying(self, owner: Owner, deaths: Sequence[Death]) -> set[str]:
        """Pass it on."""
        return self._pass_on("dying", lambda: self._ledger.dying(owner, deaths))

    def dead(self, owner: Owner, deaths: Sequence[Death]) -> None:
        """Pass it on."""
        self._pass_on("dead", lambda: self._ledger.dead(owner, deaths))

    def holds(self, owner: Owner) -> dict[bytes, Closed]:
        """Pass it on."""
        return self._pass_on("holds", lambda: self._ledger.holds(owner))

    def held(self, owner: Owner, jobs: Sequence[HeldJob]) -> None:
        """Pass it on."""
        self._pass_on("held", lambda: self._ledger.held(owner, jobs))

    def unheld(self, owner: Owner, offsets: Sequence[int]) -> None:
        """Pass it on."""
        self._pass_on("unheld", lambda: self._ledger.unheld(owner, offsets))

    def end_replay(self, owner: Owner, key: bytes, replay: int) -> bool:
        """Pass it on."""
        return self._pass_on("end_replay", lambda: self._ledger.end_replay(owner, key, replay))

    def close(self) -> None:
        """Close the other ledger."""
        self._ledger.close()

    def _pass_on(self, name: Call, call: Callable[[], _T]) -> _T:
        self.before(name)
        answer = call()
        self.after(name)
        return answer
