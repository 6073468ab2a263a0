"""The ledger and a transactional sink in memory. It forgets with its process: for tests only."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from processor.core.holds import Closed
from processor.engine.ports import Checkpoint, Death, HeldJob, LedgerRow, Owner, OwnershipLost
from processor.model import Effect

_Place = tuple[str, str, int]  # Group, topic, partition.


@dataclass(slots=True)
class MemoryLedger:
    """The memory of settled jobs (port: `engine.ports.Ledger`)."""

    remembers: ClassVar[bool] = True

    rows: dict[str, LedgerRow] = field(default_factory=dict)
    epochs: dict[_Place, int] = field(default_factory=dict)
    closed: dict[_Place, dict[bytes, Closed]] = field(default_factory=dict)
    held_jobs: dict[_Place, dict[int, HeldJob]] = field(default_factory=dict)  # By origin offset.
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
            row = LedgerRow(
                effect.identity, effect.job_id, "done", result, None, effect.attempt,
                effect.replay, effect.payload_hash,
            )  # fmt: skip
            if _takes_its_place(row, rows.get(effect.identity)):
                rows[effect.identity] = row
                new.append(effect)
        transaction: list[Any] = []
        if write is not None and new:
            write(transaction, new)
        self.rows = rows
        self.written += transaction
        return {effect.identity for effect in new}

    def dying(self, owner: Owner, deaths: Sequence[Death]) -> set[str]:
        """Note deaths before their letters are appended; returns those that are `done` instead."""
        self._check(owner)
        for death in deaths:
            row = LedgerRow(
                death.identity, death.job_id, "dying", None, death.failure, death.attempt,
                death.replay,
            )  # fmt: skip
            if _takes_its_place(row, self.rows.get(death.identity)):
                self.rows[death.identity] = row
            if death.closes and self.rows[death.identity].state != "done":
                self._close(owner, death)
        return {each.identity for each in deaths if self.rows[each.identity].state == "done"}

    def checkpoint(self, owner: Owner, checkpoint: Checkpoint) -> None:
        """Note how far a job has come, unless it has ended."""
        self._check(owner)
        each = checkpoint
        row = LedgerRow(each.identity, each.job_id, "running", None, None, each.attempt,
                        each.replay, None, each.progress)  # fmt: skip
        if _takes_its_place(row, self.rows.get(each.identity)):
            self.rows[each.identity] = row

    def holds(self, owner: Owner) -> dict[bytes, Closed]:
        """Read the closed keys of the owner's partition."""
        return dict(self.closed.get(owner[:3], {}))

    def held(self, owner: Owner, jobs: Sequence[HeldJob]) -> None:
        """Note that these jobs are held behind a dead one; what is `done` is not."""
        self._check(owner)
        for job in jobs:
            row = self.rows.get(job.identity)
            if row is None or row.state != "done" or row.job_id != job.job_id:
                self.held_jobs.setdefault(owner[:3], {}).setdefault(job.offset, job)

    def unheld(self, owner: Owner, offsets: Sequence[int]) -> None:
        """Note that these have been run after all."""
        self._check(owner)
        for offset in offsets:
            self.held_jobs.get(owner[:3], {}).pop(offset, None)

    def end_replay(self, owner: Owner, key: bytes, replay: int) -> bool:
        """Open a key behind its replay, unless a job is still held or has died in it."""
        self._check(owner)
        closed = self.closed.get(owner[:3], {})
        held = any(job.key == key for job in self.held_jobs.get(owner[:3], {}).values())
        if key in closed and closed[key].replay < replay and not held:
            del closed[key]
        return key not in closed

    def dead(self, owner: Owner, identities: Sequence[str]) -> None:
        """Note that the letters of these were acknowledged."""
        self._check(owner)
        for identity in identities:
            row = self.rows.get(identity)
            if row is not None and row.state == "dying":
                self.rows[identity] = replace(row, state="dead")

    def close(self) -> None:
        """Nothing is held."""

    def _close(self, owner: Owner, death: Death) -> None:
        assert death.key is not None
        closed = self.closed.setdefault(owner[:3], {})
        if death.key not in closed or closed[death.key].replay <= death.replay:
            closed[death.key] = Closed(death.replay, death.origin.offset)
        self.held_jobs.get(owner[:3], {}).pop(death.origin.offset, None)

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
    """A job replaces how far it was, another job's death, and its own before a replay."""
    if present is None:
        return True
    other = present.job_id != row.job_id or present.replay < row.replay
    return present.state != "done" and (other or present.state == "running")
