"""The shared ledger: PostgreSQL, for workers on many machines. Effect and row commit as one.

An owner's row is locked (`FOR SHARE`) until the effect has committed, so a takeover, which raises
the epoch, waits for writes under way and refuses all later ones. A worker that is stopped in the
middle of a transaction must not hold that lock for ever: the server ends what is idle inside one.

What has no effect of its own to write is one statement and one round trip for a whole slice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from processor.engine.ports import HandlerTransaction, LedgerRow, Owner, Prepared
from processor.errors import PermanentError, ProcessorError, SinkUnavailable, UsageError
from processor.model import Effect
from processor.sinks.connections import Connections
from processor.sinks.sql import (
    COLUMNS,
    EPOCH,
    SELECT,
    UPSERT,
    Dialect,
    SqlLedger,
    Statements,
    done_row,
    firsts,
    lost,
    row_of,
)

try:
    import psycopg
    from psycopg import errors
    from psycopg.conninfo import conninfo_to_dict, make_conninfo
    from psycopg.pq import TransactionStatus
except ImportError as fault:
    raise UsageError(
        "a PostgreSQL ledger needs the package psycopg",
        hint="in a checkout: pip install '.[postgres]'",
    ) from fault

# What libpq is told where the URL does not say it.
_CONNECTION = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
    "application_name": "processor",
}
IDLE_SECONDS_MAX = 15  # In a transaction, between two statements of this process.
LOCK_SECONDS_MAX = 20
TABLES_LOCK = 0x70726F636573  # Any number, as long as it is the same for all.
CONFLICTS_MAX = 5  # Deadlocks and serialization failures of one transaction before it is an outage.

# What a table, a role or a server is to blame for, and no job's result.
_SETUP_FAULTS = (
    errors.InsufficientPrivilege,
    errors.UndefinedTable,
    errors.InvalidSchemaName,
    errors.ReadOnlySqlTransaction,
    errors.FeatureNotSupported,
    errors.InvalidColumnReference,  # A unique index that rows are replaced by is gone.
)
_CONFLICTS = (errors.DeadlockDetected, errors.SerializationFailure)
# The server, an operator or another transaction ended a statement: connection (08), conflict (40),
# resources (53), intervention (57), system (58); idle too long, read-only, a lock not had in time.
_AWAY = ("08", "40", "53", "57", "58", "25P03", "25006", "55P03", "55006")

_DIALECT = Dialect(
    whole="BIGINT",
    real="DOUBLE PRECISION",
    bytes="BYTEA",
    number="BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    without_rowid="",
)

_TYPES = (
    "text text text text text bigint bigint text bigint bigint bigint text text text text float8"
)
_ARRAYS = ", ".join(f"%s::{each}[]" for each in _TYPES.split())
Write = Callable[[Any, Sequence[Effect]], None]

_EPOCH = EPOCH.replace("?", "%s")
_INSERT_SLICE = f"""
WITH owner AS (
    {_EPOCH} FOR SHARE
), told AS (
    INSERT INTO processor_ledger ({COLUMNS})
    SELECT * FROM unnest({_ARRAYS}) AS done ({COLUMNS})
    WHERE coalesce((SELECT epoch FROM owner), 0) <= %s
    {UPSERT}
    RETURNING identity
)
SELECT coalesce((SELECT epoch FROM owner), 0), array(SELECT identity FROM told)
"""  # noqa: S608 - names and placeholders alone.


class _Open:
    """An open transaction, for statements written with `?` (sinks/sql.py)."""

    __slots__ = ("connection",)

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection

    def execute(self, statement: str, parameters: Any = (), /) -> Any:
        return self.connection.execute(statement.replace("?", "%s"), parameters)

    def executemany(self, statement: str, rows: Any, /) -> Any:
        # One by one: psycopg's own is a pipeline, behind which the server ends no idle transaction.
        for row in rows:
            self.execute(statement, row)


class PostgresLedger(SqlLedger):
    """The durable memory of settled jobs in a PostgreSQL database (port: `engine.ports.Ledger`).

    One connection for each thread that asks; a broken one is replaced at the next call.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(_DIALECT, clock)
        self._conninfo = conninfo(url)
        self._connections: Connections[psycopg.Connection[Any]] = Connections()
        self._make_tables()

    def lookup(self, identities: Sequence[str]) -> dict[str, LedgerRow]:
        """Read the rows that exist, in one round trip."""
        if not identities:
            return {}
        with self._reading() as statements:
            rows = statements.execute(f"{SELECT} WHERE identity = ANY(?)", [list(identities)])
            return {row[0]: row_of(row) for row in rows}

    def record(
        self,
        owner: Owner,
        effects: Sequence[Effect],
        write: Write | None = None,
    ) -> set[str]:
        """Add a `done` row for each effect and call `write` with the new ones, as one."""
        for left in reversed(range(CONFLICTS_MAX)):
            try:
                if write is None and not any(each.identities[1:] for each in effects):
                    with self._reading() as statements:  # One statement is a transaction.
                        return self._insert(statements, owner, effects)
                return super().record(owner, effects, write)
            except _Conflict:
                if left == 0:
                    raise
        raise AssertionError

    def prepare(self, sinks: Iterable[Prepared]) -> None:
        """Have sinks create or check their tables. UsageError: a result could not be written."""
        with self._transaction() as statements:
            assert isinstance(statements, _Open)
            statements.execute("SELECT pg_advisory_xact_lock(?)", [TABLES_LOCK])
            for each in sinks:
                each.prepare(statements.connection)

    def begin_handler(self, idle_seconds_max: float) -> HandlerTransaction:
        """Open a transaction on this thread's second connection."""
        with self.faults():
            idle = self._connections.mine("for_handlers")
            try:
                return self._opened(idle_seconds_max)
            except psycopg.OperationalError:
                if idle is None or not idle.closed:
                    raise
                return self._opened(idle_seconds_max)  # It was closed while nobody used it.

    def _opened(self, idle_seconds_max: float) -> HandlerTransaction:
        transaction = _ForHandler(self, self._connection("for_handlers"))
        _limit_idle(transaction.connection, idle_seconds_max)
        return transaction

    def close(self) -> None:
        """Close every thread's connection. Twice does no harm."""
        self._connections.close()

    def _insert(self, statements: Statements, owner: Owner, effects: Sequence[Effect]) -> set[str]:
        at = self._clock()
        # A statement may touch a row once; in one order, two slices cannot wait for each other.
        chosen = firsts(effects, {each.identity for each in effects})
        rows = sorted(done_row(owner, each, at) for each in chosen)
        columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(16)]
        found = statements.execute(_INSERT_SLICE, [*owner[:3], *columns, owner.epoch]).fetchone()
        epoch, new = found
        if epoch > owner.epoch:
            raise lost(owner)
        return set(new)

    def _has_tables(self, statements: Statements) -> bool:
        found = statements.execute("SELECT to_regclass('processor_operation')").fetchone()
        return found[0] is not None

    def _alone(self, statements: Statements) -> None:
        statements.execute("SELECT pg_advisory_xact_lock(?)", [TABLES_LOCK])

    def _epoch(self, statements: Statements, owner: Owner, *, alone: bool = False) -> int:
        lock = "FOR UPDATE" if alone else "FOR SHARE"
        row = statements.execute(f"{EPOCH} {lock}", owner[:3]).fetchone()
        return int(row[0]) if row else 0

    def _write(
        self,
        write: Write,
        statements: Statements,
        effects: Sequence[Effect],
    ) -> None:
        assert isinstance(statements, _Open)
        with result_faults():
            write(statements.connection, effects)

    @contextmanager
    def _reading(self) -> Iterator[Statements]:
        with self.faults():
            yield _Open(self._connection())

    @contextmanager
    def _transaction(self) -> Iterator[Statements]:
        with self.faults():
            connection = self._connection()
            with connection.transaction():
                yield _Open(connection)

    def record_in(
        self,
        connection: psycopg.Connection[Any],
        owner: Owner,
        effects: Sequence[Effect],
        write: Write | None,
    ) -> set[str]:
        """Check the owner and add `done` rows in a transaction that is open."""
        with self.faults():
            statements = _Open(connection)
            # The job's timeout is the handler's; from here on the owner's row is locked.
            _limit_idle(connection, IDLE_SECONDS_MAX)
            if self._epoch(statements, owner) > owner.epoch:
                raise lost(owner)
            return self._record(statements, owner, effects, write)

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Tell a fault of the database as an outage, or as a conflict that may be repeated."""
        try:
            yield
        except _CONFLICTS as fault:
            raise _Conflict(f"the ledger's transaction met another one: {_line(fault)}") from fault
        except psycopg.DataError as fault:
            raise PermanentError(f"the ledger cannot hold this: {_line(fault)}") from fault
        except psycopg.Error as fault:
            self._connections.drop_mine()  # They may be broken: the next call makes others.
            raise SinkUnavailable(
                f"the ledger in PostgreSQL does not answer: {_line(fault)}",
                hint="check that the server runs and that ledger.url names it and may write to it",
            ) from fault

    def _connection(self, name: str = "for_ledger") -> psycopg.Connection[Any]:
        connection = self._connections.mine(name)
        if connection is None or connection.closed:
            connection = connect(self._conninfo, idle_seconds_max=IDLE_SECONDS_MAX)
            self._connections.keep(connection, name)
        return connection


class _ForHandler:
    """A handler's transaction (port: `engine.ports.HandlerTransaction`)."""

    def __init__(self, ledger: PostgresLedger, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        self._ledger = ledger
        self._block = ExitStack()
        self._block.enter_context(connection.transaction())
        self._ended = False

    @property
    def failed(self) -> bool:
        """Whether the server takes no more statements in it."""
        return self.connection.info.transaction_status is TransactionStatus.INERROR

    def broken_by(self, error: BaseException) -> bool:
        """Whether the server has gone or broke a statement off, or a lock was not had in time."""
        return self.connection.closed or _told_away(error)

    def record(
        self, owner: Owner, effects: Sequence[Effect], write: Write | None = None
    ) -> set[str]:
        """Check the owner and add `done` rows, inside the transaction."""
        return self._ledger.record_in(self.connection, owner, effects, write)

    def commit(self) -> None:
        """Make it durable."""
        self._ended = True
        with self._ledger.faults():
            self._block.close()

    def rollback(self) -> None:
        """Undo it, unless it has ended."""
        if self._ended:
            return
        self._ended = True
        undo = psycopg.Rollback()
        with suppress(psycopg.Error):  # The server undoes what a broken connection leaves.
            self._block.__exit__(type(undo), undo, None)


class _Conflict(SinkUnavailable):
    """Another transaction was in the way: this one was undone and may be repeated at once."""


def conninfo(url: str) -> str:
    """Make libpq's words of a URL, with timeouts where it has none. UsageError: it is no URL."""
    try:
        given = conninfo_to_dict(url)
    except psycopg.Error:
        raise UsageError(  # Without libpq's words: they quote what may be a password.
            "ledger.url is no PostgreSQL URL",
            hint="it looks like postgresql://user:password@host:5432/database; % is written as %25",
        ) from None
    return make_conninfo("", **{**_CONNECTION, **given})


def connect(info: str, *, idle_seconds_max: float) -> psycopg.Connection[Any]:
    """Open a connection in which every statement is a transaction until one is begun.

    `synchronous_commit` is as the server has it, but never `off`: an offset is committed after it.
    """
    connection = psycopg.connect(info, autocommit=True)
    limits: Mapping[str, float] = {
        "idle_in_transaction_session_timeout": idle_seconds_max,
        "lock_timeout": LOCK_SECONDS_MAX,
    }
    told = "; ".join(f"SET {name} = {int(limit * 1000)}" for name, limit in limits.items())
    connection.execute(
        f"{told}; SELECT set_config('synchronous_commit', 'on', false)"
        " WHERE current_setting('synchronous_commit') = 'off'"
    )
    return connection


def _limit_idle(connection: psycopg.Connection[Any], seconds: float) -> None:
    """Have the server end the transaction that is open when it is idle for so long."""
    connection.execute(
        "SELECT set_config('idle_in_transaction_session_timeout', %s, true)",
        [str(int(seconds * 1000))],
    )


def _told_away(error: BaseException) -> bool:
    """Whether a handler's exception is, or came from, a fault that no statement is to blame for.

    What a handler raises on purpose (`Reject`, `Retry`) is its own word.
    """
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, ProcessorError):
        if isinstance(seen, psycopg.OperationalError) and seen.sqlstate is None:
            return True  # The connection's.
        if isinstance(seen, psycopg.Error) and (seen.sqlstate or "").startswith(_AWAY):
            return True
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return False


@contextmanager
def result_faults() -> Iterator[None]:
    """Tell a result that the database refuses for good from a database that has a fault."""
    try:
        yield
    except _SETUP_FAULTS as fault:
        raise SinkUnavailable(
            f"the database is not ready for results: {_line(fault)}",
            hint="create the table, or grant the worker's role what it needs",
        ) from fault
    except (psycopg.IntegrityError, psycopg.DataError, psycopg.ProgrammingError) as fault:
        raise PermanentError(f"the database refuses the result: {_line(fault)}") from fault


def _line(fault: Exception) -> str:
    """The first line of a fault: the second may hold values of the job."""
    return (str(fault).splitlines() or [type(fault).__name__])[0]
