"""The embedded ledger: SQLite, for workers on one machine. Effect and row commit as one.

Several processes may share the file. Every write is one `BEGIN IMMEDIATE` transaction with
`synchronous=FULL`: an offset is committed after it, so it must survive a power cut.
"""

from __future__ import annotations

import json
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from processor.core.holds import Closed
from processor.engine.operations import Action, ClosedKey, Operation, PurgedJob, State
from processor.engine.ports import Death, HeldJob, LedgerRow, Owner, OwnershipLost
from processor.errors import PermanentError, SinkUnavailable, UsageError
from processor.model import Effect, Failure
from processor.sinks import sqlite_holds, sqlite_operations

BUSY_SECONDS = 30.0
LOOKUP_MAX = 500  # Parameters of one SELECT.

_TABLES = """
CREATE TABLE IF NOT EXISTS processor_owner (
    consumer_group TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    PRIMARY KEY (consumer_group, topic, partition)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS processor_ledger (
    identity TEXT PRIMARY KEY,
    job_id TEXT NOT NULL,
    job_type TEXT NOT NULL,
    key TEXT,
    state TEXT NOT NULL CHECK (state IN ('done', 'dying', 'dead', 'purged')),
    replay INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    origin_topic TEXT NOT NULL,
    origin_partition INTEGER NOT NULL,
    origin_offset INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    result TEXT,
    failure TEXT,
    at REAL NOT NULL
) WITHOUT ROWID;
"""

_COLUMNS = (
    "(identity, job_id, job_type, key, state, replay, attempt, origin_topic, origin_partition,"
    " origin_offset, epoch, result, failure, at)"
)
_SELECT = "SELECT identity, job_id, state, result, failure, attempt, replay FROM processor_ledger"
# What a job leaves replaces the death of another job with the same idempotency key, and its own
# death before it was replayed.
_REPLACES = " WHERE state <> 'done' AND (job_id <> excluded.job_id OR replay < excluded.replay)"
_INSERT_DONE = (
    f"INSERT INTO processor_ledger {_COLUMNS} VALUES (?,?,?,?,'done',?,?,?,?,?,?,?,NULL,?)"  # noqa: S608 - names.
    " ON CONFLICT (identity) DO UPDATE SET job_id=excluded.job_id, state='done',"
    " replay=excluded.replay, attempt=excluded.attempt, origin_topic=excluded.origin_topic,"
    " origin_partition=excluded.origin_partition, origin_offset=excluded.origin_offset,"
    " epoch=excluded.epoch, result=excluded.result, failure=NULL, at=excluded.at" + _REPLACES
)
_INSERT_DYING = (
    f"INSERT INTO processor_ledger {_COLUMNS} VALUES (?,?,?,?,'dying',?,?,?,?,?,?,NULL,?,?)"  # noqa: S608 - names.
    " ON CONFLICT (identity) DO UPDATE SET job_id=excluded.job_id, state='dying',"
    " replay=excluded.replay, attempt=excluded.attempt, origin_topic=excluded.origin_topic,"
    " origin_partition=excluded.origin_partition, origin_offset=excluded.origin_offset,"
    " epoch=excluded.epoch, failure=excluded.failure, at=excluded.at" + _REPLACES
)


class SqliteLedger:
    """The durable memory of settled jobs in one SQLite file (port: `engine.ports.Ledger`)."""

    remembers = True

    def __init__(self, path: str | Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = str(path)
        self._clock = clock
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._connections_lock = threading.Lock()
        self._writing = threading.Lock()
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        except OSError as fault:
            raise UsageError(
                f"the ledger {path} cannot have its folder: {fault.strerror}",
                hint="name a file in a folder of your own with ledger.url",
            ) from None
        with self._transaction() as connection:
            for statement in (_TABLES + sqlite_holds.TABLES + sqlite_operations.TABLES).split(";"):
                connection.execute(statement)

    def raise_owner(self, owner: Owner) -> None:
        """Make this epoch the partition's newest; OwnershipLost when a newer one exists."""
        with self._transaction() as connection:
            if _epoch_of(connection, owner) > owner.epoch:
                raise _lost(owner)
            connection.execute(
                "INSERT INTO processor_owner VALUES (?,?,?,?) ON CONFLICT DO UPDATE"
                " SET epoch=excluded.epoch",
                owner,
            )

    def lookup(self, identities: Sequence[str]) -> dict[str, LedgerRow]:
        """Read the rows that exist."""
        found: dict[str, LedgerRow] = {}
        with _faults(self._path):
            connection = self._connection()
            for start in range(0, len(identities), LOOKUP_MAX):
                some = identities[start : start + LOOKUP_MAX]
                places = ",".join("?" * len(some))
                rows = connection.execute(_SELECT + f" WHERE identity IN ({places})", some)
                for identity, job_id, state, result, failure, *counts in rows:
                    kept = Failure(**json.loads(failure)) if failure else None
                    found[identity] = LedgerRow(identity, job_id, state, result, kept, *counts)
        return found

    def record(
        self,
        owner: Owner,
        effects: Sequence[Effect],
        write: Callable[[Any, Sequence[Effect]], None] | None = None,
    ) -> set[str]:
        """Add a `done` row for each effect and call `write` with the new ones, as one."""
        new: list[Effect] = []
        with self._owned(owner) as connection:
            at = self._clock()
            for effect in effects:
                result = None if effect.result is None else json.dumps(effect.result)
                values = (effect.identity, effect.job_id, effect.job_type, effect.key,
                          effect.replay, effect.attempt, *effect.origin, owner.epoch, result,
                          at)  # fmt: skip
                if connection.execute(_INSERT_DONE, values).rowcount == 1:
                    new.append(effect)
            if write is not None:
                write(connection, new)
        return {effect.identity for effect in new}

    def dying(self, owner: Owner, deaths: Sequence[Death]) -> set[str]:
        """Note deaths before their letters are appended; returns those that are `done` instead."""
        with self._owned(owner) as connection:
            at = self._clock()
            for death in deaths:
                failure = json.dumps(
                    {name: getattr(death.failure, name) for name in death.failure.__slots__}
                )
                values = (death.identity, death.job_id, death.job_type, _text(death.key),
                          death.replay, death.attempt, *death.origin, owner.epoch, failure,
                          at)  # fmt: skip
                connection.execute(_INSERT_DYING, values)
            states = _states(connection, [death.identity for death in deaths])
            done = {identity for identity, state in states.items() if state == "done"}
            for death in deaths:
                if death.closes and death.identity not in done:
                    sqlite_holds.close(connection, owner, death, at)
        return done

    def holds(self, owner: Owner) -> dict[bytes, Closed]:
        """Read the closed keys of the owner's partition."""
        with _faults(self._path):
            return sqlite_holds.closed(self._connection(), owner)

    def held(self, owner: Owner, jobs: Sequence[HeldJob]) -> None:
        """Note that these jobs are held behind a dead one; what is `done` is not."""
        with self._owned(owner) as connection:
            sqlite_holds.hold(connection, owner, jobs, self._clock())

    def unheld(self, owner: Owner, offsets: Sequence[int]) -> None:
        """Note that these have been run after all."""
        with self._owned(owner) as connection:
            sqlite_holds.unhold(connection, owner, offsets)

    def end_replay(self, owner: Owner, key: bytes, replay: int) -> bool:
        """Open a key behind its replay, unless a job is still held or has died in it."""
        with self._owned(owner) as connection:
            return sqlite_holds.end(connection, owner, key, replay)

    def dead(self, owner: Owner, identities: Sequence[str]) -> None:
        """Note that the letters of these were acknowledged."""
        with self._owned(owner) as connection:
            connection.executemany(
                "UPDATE processor_ledger SET state='dead' WHERE identity=? AND state='dying'",
                [(identity,) for identity in identities],
            )

    # What operators ask (engine/operations.py).

    def closed_keys(self, group: str, topic: str) -> list[ClosedKey]:
        """Read every closed key of a topic."""
        with _faults(self._path):
            return sqlite_operations.closed_keys(self._connection(), group, topic)

    def begin(
        self, action: Action, *, group: str, topic: str, who: str, filters: Mapping[str, str]
    ) -> int:
        """Add an operation to the audit trail."""
        with self._transaction() as connection:
            return sqlite_operations.begin(
                connection,
                action,
                group=group,
                topic=topic,
                who=who,
                filters=filters,
                at=self._clock(),
            )

    def end(self, number: int, state: State, *, jobs: int, keys: int) -> None:
        """Note how an operation ended."""
        with self._transaction() as connection:
            sqlite_operations.end(connection, number, state, jobs=jobs, keys=keys, at=self._clock())

    def operations(self, count_max: int) -> list[Operation]:
        """Read the audit trail, the newest first."""
        with _faults(self._path):
            return sqlite_operations.operations(self._connection(), count_max)

    def purge(self, group: str, jobs: Sequence[PurgedJob]) -> None:
        """Give these jobs up for good; `done` stays done."""
        with self._transaction() as connection:
            sqlite_operations.purge(connection, group, jobs, self._clock())

    def close(self) -> None:
        """Close every thread's connection. Twice does no harm."""
        with self._connections_lock:
            for connection in self._connections:
                connection.close()
            self._connections.clear()
        self._local = threading.local()

    @contextmanager
    def _owned(self, owner: Owner) -> Iterator[sqlite3.Connection]:
        """Open a transaction in which the owner's epoch is known to be the newest."""
        with self._transaction() as connection:
            if _epoch_of(connection, owner) > owner.epoch:
                raise _lost(owner)
            yield connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        # One thread of a process at a time: SQLite lets only one write, and makes the rest sleep.
        with self._writing, _faults(self._path):
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.commit()  # One that fails leaves its transaction open.
            except BaseException:
                connection.rollback()
                raise

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(
                self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            self._local.connection = connection
            with self._connections_lock:
                self._connections.append(connection)
        return connection


class SqliteSink:
    """Writes results as rows of a table of the ledger's own file, in the ledger's transaction.

    A handler returns a mapping (one row) or a list of them. The table must exist; `create` may
    hold the statement that makes it.
    """

    def __init__(self, table: str, *, create: str | None = None) -> None:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", table):
            raise UsageError(f"`{table}` is no table name", hint="letters, digits and _ only")
        self._table = table
        self._create = create

    def write_in(self, transaction: sqlite3.Connection, effects: Sequence[Effect]) -> None:
        """Insert each effect's rows through the transaction."""
        if self._create is not None:
            transaction.execute(self._create)  # Each time: it is undone with its transaction.
        for effect in effects:
            rows = effect.result if isinstance(effect.result, list) else [effect.result]
            for row in rows:
                self._insert(transaction, row)

    def _insert(self, transaction: sqlite3.Connection, row: Any) -> None:
        if not isinstance(row, Mapping) or not row:
            raise PermanentError(
                f"a result for table `{self._table}` must be a mapping of columns, or a list of "
                f"them; it is {'empty' if row == {} else f'a {type(row).__name__}'}"
            )
        for name in row:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", str(name)):
                raise PermanentError(f"`{name}` is no column name of `{self._table}`")
        names = ", ".join(row)
        places = ", ".join("?" * len(row))
        transaction.execute(
            f"INSERT INTO {self._table} ({names}) VALUES ({places})",  # noqa: S608 - names checked.
            list(row.values()),
        )


def _epoch_of(connection: sqlite3.Connection, owner: Owner) -> int:
    row = connection.execute(
        "SELECT epoch FROM processor_owner WHERE consumer_group=? AND topic=? AND partition=?",
        owner[:3],
    ).fetchone()
    return int(row[0]) if row else 0


def _states(connection: sqlite3.Connection, identities: Sequence[str]) -> dict[str, str]:
    found = {}
    for identity in identities:
        row = connection.execute(
            "SELECT state FROM processor_ledger WHERE identity=?", (identity,)
        ).fetchone()
        if row is not None:
            found[identity] = str(row[0])
    return found


def _text(key: bytes | None) -> str | None:
    return None if key is None else key.decode(errors="replace")


def _lost(owner: Owner) -> OwnershipLost:
    return OwnershipLost(
        f"{owner.topic}[{owner.partition}] has a newer owner than epoch {owner.epoch}"
    )


@contextmanager
def _faults(path: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as fault:
        if fault.sqlite_errorcode & 0xFF == sqlite3.SQLITE_ERROR:  # The statement, not the file.
            raise PermanentError(f"the sink refuses the result: {fault}") from fault
        raise SinkUnavailable(
            f"the ledger {path} does not answer: {fault}",
            hint="check the disk, and that nothing holds a lock on the file",
        ) from fault
    except (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError) as fault:
        raise PermanentError(f"the sink refuses the result: {fault}") from fault
    except (sqlite3.ProgrammingError, OverflowError) as fault:
        raise PermanentError(f"the sink cannot store the result: {fault}") from fault
    except sqlite3.DatabaseError as fault:
        raise SinkUnavailable(
            f"the ledger {path} cannot be used: {fault}",
            hint="is it another program's file? a damaged ledger must be restored, not replaced",
        ) from fault
