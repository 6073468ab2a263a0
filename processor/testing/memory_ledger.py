"""The ledger and a transactional sink in memory. It forgets with its process: for tests only."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from processor.engine.ports import Death, LedgerRow, Owner, OwnershipLost
from processor.model import Effect


@dataclass(slots=True)
class MemoryLedger:
    """The memory of settled jobs (port: `engine.ports.Ledger`)."""

    rows: dict[str, LedgerRow] = field(default_factory=dict)
    epochs: dict[tuple[str, str, int], int] = field(default_factory=dict)
    written: list[Any] = field(default_factory=list)  # What went through committed transactions.

    def raise_owner(self, owner: Owner) -> None:
        """Make this epoch the partition's newest; OwnershipLost when a newer one exists."""
        self._check(owner)
        self.epochs[owner[:3]] = owner.epoch

    def lookup(self, identities: Sequence[str]) -> dict[str, LedgerRow]:
        """Read the rows that exist."""
        return {each: self.rows[each] for each in identities if each in self.rows}

    def record(
        self,
        owner: Owner,
        effects: Sequence[Effect],
        write: Callable[[Any, Sequence[Effect]], None] | None = None,
    ) -> set[str]:
        """Add a `done` row for each effect and call `write` with the new ones, as one."""
        self._check(owner)
        rows, new = dict(self.rows), []
        for effect in effects:
            result = None if effect.result is None else json.dumps(effect.result)
            row = LedgerRow(effect.identity, effect.job_id, "done", result, None, effect.attempt)
            if _takes_its_place(row, rows.get(effect.identity)):
                rows[effect.identity] = row
                new.append(effect)
        transaction: list[Any] = []
        if write is not None:
            write(transaction, new)
        self.rows = rows
        self.written += transaction
        return {effect.identity for effect in new}

    def dying(self, owner: Owner, deaths: Sequence[Death]) -> set[str]:
        """Note deaths before their letters are appended; returns those that are `done` instead."""
        self._check(owner)
        for death in deaths:
            row = LedgerRow(
                death.identity, death.job_id, "dying", None, death.failure, death.attempt
            )
            if _takes_its_place(row, self.rows.get(death.identity)):
                self.rows[death.identity] = row
        return {each.identity for each in deaths if self.rows[each.identity].state == "done"}

    def dead(self, owner: Owner, identities: Sequence[str]) -> None:
        """Note that the letters of these were acknowledged."""
        self._check(owner)
        for identity in identities:
            row = self.rows.get(identity)
            if row is not None and row.state == "dying":
                self.rows[identity] = replace(row, state="dead")

    def close(self) -> None:
        """Nothing is held."""

    def _check(self, owner: Owner) -> None:
        if self.epochs.get(owner[:3], 0) > owner.epoch:
            raise OwnershipLost(
                f"{owner.topic}[{owner.partition}] has a newer owner than epoch {owner.epoch}"
            )


class MemorySink:
    """Adds each effect to `MemoryLedger.written`, in the transaction that adds its row."""

    def write_in(self, transaction: list[Any], effects: Sequence[Effect]) -> None:
        """Write each effect through the transaction."""
        transaction.extend(effects)


def _takes_its_place(row: LedgerRow, present: LedgerRow | None) -> bool:
    """What a job leaves replaces only the death of another job with the same idempotency key."""
    return present is None or (present.state != "done" and present.job_id != row.job_id)
