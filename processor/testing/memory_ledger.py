"""The ledger and a transactional sink in memory. It forgets with its process: for tests only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from processor.core.holds import Closed
from processor.engine.ports import Checkpoint, Death, HeldJob, LedgerRow, Owner, OwnershipLost
from processor.model import Effect, own_identity

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
            result = effect.result_text
            row = LedgerRow(
                effect.identity, effect.job_id, "done", result, None, effect.attempt,
                effect.replay, effect.payload_hash,
            )  # fmt: skip
            if all(_takes_its_place(row, rows.get(each)) for each in effect.identities):
                for each in effect.identities:
                    rows.pop(each, None)
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
        done = {each.identity for each in deaths if self._done(each.identity)}
        for death in deaths:
            if death.identity in done:
                continue
            own = own_identity(death.identity, death.job_id)
            kept = replace(death.failure, raised=None)
            row = LedgerRow(own, death.job_id, "dying", None, kept, death.attempt, death.replay)
            if _takes_its_place(row, self.rows.get(own)):
                self.rows[own] = row
            if death.closes:
                self._close(owner, death)
        return done

    def checkpoint(self, owner: Owner, checkpoint: Checkpoint) -> None:
        """Note how far a job has come, unless it has ended."""
        self._check(owner)
        each, own = checkpoint, own_identity(checkpoint.identity, checkpoint.job_id)
        row = LedgerRow(own, each.job_id, "running", None, None, each.attempt,
                        each.replay, None, each.progress)  # fmt: skip
        if not self._done(each.identity) and _takes_its_place(row, self.rows.get(own)):
            self.rows[own] = row

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

    def dead(self, owner: Owner, deaths: Sequence[Death]) -> None:
        """Note that the letters of these were acknowledged."""
        self._check(owner)
        for death in deaths:
            own = own_identity(death.identity, death.job_id)
            row = self.rows.get(own)
            if row is not None and row.state == "dying" and row.replay == death.replay:
                self.rows[own] = replace(row, state="dead")

    def close(self) -> None:
        """Nothing is held."""

    def _close(self, owner: Owner, death: Death) -> None:
        assert death.key is not None
        closed = self.closed.setdefault(owner[:3], {})
        if death.key not in closed or closed[death.key].replay <= death.replay:
            closed[death.key] = Closed(death.replay, death.origin.offset)
        self.held_jobs.get(owner[:3], {}).pop(death.origin.offset, None)

    def _done(self, identity: str) -> bool:
        row = self.rows.get(identity)
        return row is not None and row.state == "done"

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
    """A job replaces how far it was, and its own death before a replay."""
    if present is None or present.state == "running":
        return True
    return present.state != "done" and present.replay < row.replay
