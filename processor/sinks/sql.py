"""The ledger in SQL: what SQLite and PostgreSQL have in common, which is nearly everything.

The statements are written with `?` for a parameter; `Statements` is what runs them inside one
transaction. The two ledgers add how a transaction is opened and what a fault of theirs means.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, Protocol

from processor.core.holds import Closed
from processor.engine.operations import Action, ClosedKey, Operation, PurgedJob, State
from processor.engine.ports import Checkpoint, Death, HeldJob, LedgerRow, Owner, OwnershipLost
from processor.model import Effect, Failure, own_identity
from processor.sinks import sql_holds, sql_operations
from processor.sinks.sql_operations import key_text

LOOKUP_MAX = 500  # Identities in one SELECT.
FAILURE_KEPT = ("error_class", "message", "permanent", "retry_after_seconds", "fingerprint")


class Statements(Protocol):
    """One open transaction. What a statement gives has `fetchone`, `rowcount` and is iterable."""

    def execute(self, statement: str, parameters: Any = (), /) -> Any:
        """Run one statement."""
        ...

    def executemany(self, statement: str, rows: Any, /) -> Any:
        """Run one statement for each row."""
        ...


class Dialect(NamedTuple):
    """How a database spells what the tables are made of."""

    whole: str  # 64 bits.
    real: str
    bytes: str
    number: str  # A column that numbers its rows, ever upwards.
    without_rowid: str


_TABLES = """
CREATE TABLE IF NOT EXISTS processor_owner (
    consumer_group TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition {whole} NOT NULL,
    epoch {whole} NOT NULL,
    PRIMARY KEY (consumer_group, topic, partition)
){without_rowid};
CREATE TABLE IF NOT EXISTS processor_ledger (
    identity TEXT PRIMARY KEY,
    job_id TEXT NOT NULL,
    job_type TEXT NOT NULL,
    key TEXT,
    state TEXT NOT NULL CHECK (state IN ('running', 'done', 'dying', 'dead', 'purged')),
    replay {whole} NOT NULL,
    attempt {whole} NOT NULL,
    origin_topic TEXT NOT NULL,
    origin_partition {whole} NOT NULL,
    origin_offset {whole} NOT NULL,
    epoch {whole} NOT NULL,
    payload_hash TEXT,
    result TEXT,
    failure TEXT,
    progress TEXT,
    at {real} NOT NULL
){without_rowid};
CREATE INDEX IF NOT EXISTS processor_ledger_at ON processor_ledger (at);
"""

COLUMNS = (
    "identity, job_id, job_type, key, state, replay, attempt, origin_topic, origin_partition,"
    " origin_offset, epoch, payload_hash, result, failure, progress, at"
)
SELECT = (
    "SELECT identity, job_id, state, result, failure, attempt, replay, payload_hash, progress"
    " FROM processor_ledger"
)
# What a job leaves replaces how far it was, and its own death before it was replayed.
UPSERT = (
    " ON CONFLICT (identity) DO UPDATE SET job_id=excluded.job_id, state=excluded.state,"
    " replay=excluded.replay, attempt=excluded.attempt, origin_topic=excluded.origin_topic,"
    " origin_partition=excluded.origin_partition, origin_offset=excluded.origin_offset,"
    " epoch=excluded.epoch, payload_hash=excluded.payload_hash, result=excluded.result,"
    " failure=excluded.failure, progress=excluded.progress, at=excluded.at"
    " WHERE processor_ledger.state <> 'done' AND (processor_ledger.state = 'running'"
    " OR processor_ledger.replay < excluded.replay)"
)
INSERT = (
    f"INSERT INTO processor_ledger ({COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?){UPSERT}"  # noqa: S608
)
EPOCH = "SELECT epoch FROM processor_owner WHERE consumer_group=? AND topic=? AND partition=?"


class SqlLedger(ABC):
    """The durable memory of settled jobs in a database (port: `engine.ports.Ledger`)."""

    remembers = True

    def __init__(self, dialect: Dialect, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._dialect = dialect

    # What each database does in its own way.

    @abstractmethod
    def _transaction(self) -> AbstractContextManager[Statements]:
        """Open a transaction to write in. SinkUnavailable: it may or may not have committed."""

    @abstractmethod
    def _reading(self) -> AbstractContextManager[Statements]:
        """Open what statements read through, each on its own."""

    @abstractmethod
    def _write(
        self,
        write: Callable[[Any, Sequence[Effect]], None],
        statements: Statements,
        effects: Sequence[Effect],
    ) -> None:
        """Let transactional sinks write. PermanentError: what a job left is refused for good."""

    @abstractmethod
    def _has_tables(self, statements: Statements) -> bool:
        """Tell whether the newest of the ledger's tables is there, and so all of them."""

    def _alone(self, statements: Statements) -> None:  # noqa: B027 - SQLite has one writer.
        """Have nobody else make tables in this transaction, where two would collide."""

    def _epoch(self, statements: Statements, owner: Owner, *, alone: bool = False) -> int:  # noqa: ARG002 - one transaction at a time writes.
        """Read the newest epoch of a partition, and let nobody raise it in this transaction.

        `alone`: nor write anything else for the same owner.
        """
        row = statements.execute(EPOCH, owner[:3]).fetchone()
        return int(row[0]) if row else 0

    # The port.

    def raise_owner(self, owner: Owner) -> None:
        """Make this epoch the partition's newest; OwnershipLost when a newer one exists."""
        with self._transaction() as statements:
            # One statement: of two owners that come at once the older one never has the last word.
            raised = statements.execute(
                "INSERT INTO processor_owner VALUES (?,?,?,?) ON CONFLICT (consumer_group, topic,"
                " partition) DO UPDATE SET epoch=excluded.epoch"
                " WHERE processor_owner.epoch <= excluded.epoch",
                owner,
            )
            if raised.rowcount == 0:
                raise lost(owner)

    def lookup(self, identities: Sequence[str]) -> dict[str, LedgerRow]:
        """Read the rows that exist."""
        with self._reading() as statements:
            return {row.identity: row for row in _rows(statements, identities)}

    def record(
        self,
        owner: Owner,
        effects: Sequence[Effect],
        write: Callable[[Any, Sequence[Effect]], None] | None = None,
    ) -> set[str]:
        """Add a `done` row for each effect and call `write` with the new ones, as one."""
        with self._owned(owner) as statements:
            return self._record(statements, owner, effects, write)

    def dying(self, owner: Owner, deaths: Sequence[Death]) -> set[str]:
        """Note deaths before their letters are appended; returns those that are `done` instead."""
        with self._owned(owner, alone=True) as statements:
            at = self._clock()
            done = self._done(statements, [death.identity for death in deaths])
            left = [death for death in deaths if death.identity not in done]
            statements.executemany(INSERT, [_dying(owner, death, at) for death in left])
            for death in left:
                if death.closes:
                    sql_holds.close(statements, owner, death, at)
        return done

    def dead(self, owner: Owner, deaths: Sequence[Death]) -> None:
        """Note that the letters of these were acknowledged."""
        with self._owned(owner) as statements:
            statements.executemany(
                "UPDATE processor_ledger SET state='dead'"
                " WHERE identity=? AND replay=? AND state='dying'",
                [(own_identity(each.identity, each.job_id), each.replay) for each in deaths],
            )

    def checkpoint(self, owner: Owner, checkpoint: Checkpoint) -> None:
        """Note how far a job has come, unless it has ended."""
        with self._owned(owner) as statements:
            each = checkpoint
            own = own_identity(each.identity, each.job_id)
            if own != each.identity and self._done(statements, [each.identity]):
                return
            row = (own, each.job_id, each.job_type, None, "running", each.replay,
                   each.attempt, *each.origin, owner.epoch, None, None, None, each.progress,
                   self._clock())  # fmt: skip
            statements.execute(INSERT, row)

    def holds(self, owner: Owner) -> dict[bytes, Closed]:
        """Read the closed keys of the owner's partition."""
        with self._reading() as statements:
            return sql_holds.closed(statements, owner)

    def held(self, owner: Owner, jobs: Sequence[HeldJob]) -> None:
        """Note that these jobs are held behind a dead one; what is `done` is not."""
        with self._owned(owner) as statements:
            sql_holds.hold(statements, owner, jobs, self._clock())

    def unheld(self, owner: Owner, offsets: Sequence[int]) -> None:
        """Note that these have been run after all."""
        with self._owned(owner) as statements:
            sql_holds.unhold(statements, owner, offsets)

    def end_replay(self, owner: Owner, key: bytes, replay: int) -> bool:
        """Open a key behind its replay, unless a job is still held or has died in it."""
        with self._owned(owner) as statements:
            return sql_holds.end(statements, owner, key, replay)

    def prune(self, topic: str, before: float, count_max: int, *, with_letters: bool) -> int:
        """Forget at most so many rows of a topic's jobs: those that have not changed since a time.

        Returns how many. `with_letters`: of jobs that have a dead letter, or may have, too.
        """
        which = "TRUE" if with_letters else "(state = 'running' OR state = 'done' AND replay = 0)"
        with self._transaction() as statements:
            deleted: int = statements.execute(
                "DELETE FROM processor_ledger WHERE identity IN (SELECT identity FROM"  # noqa: S608
                f" processor_ledger WHERE at < ? AND origin_topic = ? AND {which}"
                " ORDER BY at LIMIT ?)",
                (before, topic, count_max),
            ).rowcount
            return deleted

    # What operators ask (engine/operations.py).

    def closed_keys(self, group: str, topic: str) -> list[ClosedKey]:
        """Read every closed key of a topic."""
        with self._reading() as statements:
            return sql_operations.closed_keys(statements, group, topic)

    def groups(self, topic: str) -> list[str]:
        """Read which groups have ever owned a partition of a topic."""
        with self._reading() as statements:
            return sql_operations.groups(statements, topic)

    def begin(
        self, action: Action, *, group: str, topic: str, who: str, filters: Mapping[str, str]
    ) -> int:
        """Add an operation to the audit trail."""
        with self._transaction() as statements:
            at = self._clock()
            return sql_operations.begin(
                statements, action, group=group, topic=topic, who=who, filters=filters, at=at
            )

    def end(self, number: int, state: State, *, jobs: int, keys: int) -> None:
        """Note how an operation ended."""
        with self._transaction() as statements:
            sql_operations.end(statements, number, state, jobs=jobs, keys=keys, at=self._clock())

    def operations(self, count_max: int) -> list[Operation]:
        """Read the audit trail, the newest first."""
        with self._reading() as statements:
            return sql_operations.operations(statements, count_max)

    def purge(self, group: str, jobs: Sequence[PurgedJob]) -> None:
        """Give these jobs up for good; `done` stays done."""
        with self._transaction() as statements:
            sql_operations.purge(statements, group, jobs, self._clock())

    @abstractmethod
    def close(self) -> None:
        """Close every thread's connection. Twice does no harm."""

    # Shared steps.

    def _make_tables(self) -> None:
        # Read first: where they are, a start waits for no writer, and needs no right to create any.
        with self._reading() as statements:
            if self._has_tables(statements):
                return
        with self._transaction() as statements:
            self._alone(statements)
            tables = _TABLES + sql_holds.TABLES + sql_operations.TABLES
            for statement in tables.format(**self._dialect._asdict()).split(";"):
                if statement.strip():
                    statements.execute(statement)

    @contextmanager
    def _owned(self, owner: Owner, *, alone: bool = False) -> Iterator[Statements]:
        """Open a transaction in which the owner's epoch is known to be the newest."""
        with self._transaction() as statements:
            if self._epoch(statements, owner, alone=alone) > owner.epoch:
                raise lost(owner)
            yield statements

    def _record(
        self,
        statements: Statements,
        owner: Owner,
        effects: Sequence[Effect],
        write: Callable[[Any, Sequence[Effect]], None] | None,
    ) -> set[str]:
        living = self._living(statements, effects)
        new = self._insert(statements, owner, living)
        for each in living:
            if each.identity in new and each.identities[1:]:
                own = "DELETE FROM processor_ledger WHERE identity=?"
                statements.execute(own, each.identities[1:])
        if write is not None and new:
            self._write(write, statements, firsts(living, new))
        return new

    @staticmethod
    def _living(statements: Statements, effects: Sequence[Effect]) -> Sequence[Effect]:
        """Leave out the effects of jobs whose death stands in a row of their own."""
        own = {each.identities[1]: each for each in effects if each.identities[1:]}
        dead = {
            row.identity
            for row in _rows(statements, list(own))
            if row.state != "running" and row.replay >= own[row.identity].replay
        }
        return [each for each in effects if dead.isdisjoint(each.identities)] if dead else effects

    def _insert(self, statements: Statements, owner: Owner, effects: Sequence[Effect]) -> set[str]:
        """Add `done` rows. Returns the identities that were new."""
        at = self._clock()
        new = set()
        for effect in effects:
            if statements.execute(INSERT, done_row(owner, effect, at)).rowcount == 1:
                new.add(effect.identity)
        return new

    @staticmethod
    def _done(statements: Statements, identities: Sequence[str]) -> set[str]:
        found: set[str] = set()
        for start in range(0, len(identities), LOOKUP_MAX):
            some = identities[start : start + LOOKUP_MAX]
            places = ",".join("?" * len(some))
            select = "SELECT identity FROM processor_ledger WHERE state='done' AND identity IN"
            found.update(row[0] for row in statements.execute(f"{select} ({places})", some))
        return found


def _rows(statements: Statements, identities: Sequence[str]) -> Iterator[LedgerRow]:
    for start in range(0, len(identities), LOOKUP_MAX):
        some = identities[start : start + LOOKUP_MAX]
        places = ",".join("?" * len(some))
        yield from map(row_of, statements.execute(f"{SELECT} WHERE identity IN ({places})", some))


def row_of(row: Sequence[Any]) -> LedgerRow:
    """Make a row of what `SELECT` gives."""
    identity, job_id, state, result, failure, *more = row
    kept = Failure(**json.loads(failure)) if failure else None
    return LedgerRow(identity, job_id, state, result, kept, *more)


def done_row(owner: Owner, effect: Effect, at: float) -> tuple[Any, ...]:
    """Lay an effect out as the columns of the ledger."""
    result = effect.result_text
    return (effect.identity, effect.job_id, effect.job_type, key_text(effect.key), "done",
            effect.replay, effect.attempt, *effect.origin, owner.epoch, effect.payload_hash,
            result, None, None, at)  # fmt: skip


def _dying(owner: Owner, death: Death, at: float) -> tuple[Any, ...]:
    failure = json.dumps({name: getattr(death.failure, name) for name in FAILURE_KEPT})
    own = own_identity(death.identity, death.job_id)
    return (own, death.job_id, death.job_type, key_text(death.key), "dying",
            death.replay, death.attempt, *death.origin, owner.epoch, None, None, failure, None,
            at)  # fmt: skip


def firsts(effects: Sequence[Effect], identities: set[str]) -> list[Effect]:
    """The first effect of each of these identities, in order."""
    left = set(identities)
    found = []
    for effect in effects:
        if effect.identity in left:
            left.remove(effect.identity)
            found.append(effect)
    return found


def lost(owner: Owner) -> OwnershipLost:
    """Tell that an owner is not the newest."""
    return OwnershipLost(
        f"{owner.topic}[{owner.partition}] has a newer owner than epoch {owner.epoch}"
    )
