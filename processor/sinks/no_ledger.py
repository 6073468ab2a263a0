"""No ledger at all (`ledger.url = "none"`): nothing is remembered but in Kafka itself.

It promises less, which docs/architecture.md writes down: no job is lost, *first* effects are in the
order of their keys, and effects happen at least once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from processor.engine.ports import LedgerRow, Owner
from processor.model import Effect


class NoLedger:
    """Remembers nothing (port: `engine.ports.Ledger`)."""

    remembers = False

    def raise_owner(self, owner: Owner) -> None:
        """The group's coordinator and the takeover markers alone fence older owners."""

    def lookup(self, identities: Sequence[str]) -> dict[str, LedgerRow]:  # noqa: ARG002 - none is known.
        """Know no job."""
        return {}

    def record(
        self,
        owner: Owner,  # noqa: ARG002 - nothing is kept that an older one could write over.
        effects: Sequence[Effect],
        write: Callable[[Any, Sequence[Effect]], None] | None = None,
    ) -> set[str]:
        """Take every effect for new. There is no transaction that a sink could write in."""
        assert write is None
        return {effect.identity for effect in effects}

    def never(self, *_: Any, **__: Any) -> Any:
        """Deaths are told by the dead-letter topic alone; the policy `hold` needs a ledger."""
        raise AssertionError("asked for what only a ledger can tell")

    dying = dead = holds = held = unheld = checkpoint = never

    def end_replay(self, *_: Any, **__: Any) -> bool:
        """Nothing is held, so nothing is left to open."""
        return True

    def close(self) -> None:
        """Nothing is held open."""
