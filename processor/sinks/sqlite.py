"""The embedded ledger: SQLite, for workers on one machine. Effect and row commit as one.

Several processes may share the file. Every write is one `BEGIN IMMEDIATE` transaction with
`synchronous=FULL`: an offset is committed after it, so it must survive a power cut.
"""

from __future__ import annotations

import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from processor.engine.ports import Prepared
from processor.errors import PermanentError, SinkUnavailable, UsageError
from processor.model import Effect
from processor.sinks.connections import Connections
from processor.sinks.sql import Dialect, SqlLedger, Statements

BUSY_SECONDS = 30.0

_DIALECT = Dialect(
    whole="INTEGER",
    real="REAL",
    bytes="BLOB",
    number="INTEGER PRIMARY KEY AUTOINCREMENT",
    without_rowid=" WITHOUT ROWID",
)


class SqliteLedger(SqlLedger):
    """The durable memory of settled jobs in one SQLite file (port: `engine.ports.Ledger`)."""

    def __init__(self, path: str | Path, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(_DIALECT, clock)
        self._path = str(path)
        self._connections: Connections[sqlite3.Connection] = Connections()
        self._writing = threading.Lock()
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        except OSError as fault:
            raise UsageError(
                f"the ledger {path} cannot have its folder: {fault.strerror}",
                hint="name a file in a folder of your own with ledger.url",
            ) from None
        self._make_tables()

    def prepare(self, sinks: Iterable[Prepared]) -> None:
        """Have sinks create or check their tables. UsageError: a result could not be written."""
        with self._transaction() as connection:
            for each in sinks:
                each.prepare(connection)

    def close(self) -> None:
        """Close every thread's connection. Twice does no harm."""
        self._connections.close()

    def _write(
        self,
        write: Callable[[Any, Sequence[Effect]], None],
        statements: Statements,
        effects: Sequence[Effect],
    ) -> None:
        write(statements, effects)

    def _has_tables(self, statements: Statements) -> bool:
        found = statements.execute(
            "SELECT 1 FROM sqlite_master WHERE type='table' AND name='processor_operation'"
        )
        return found.fetchone() is not None

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with _faults(self._path):
            yield self._connection()

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
        connection = self._connections.mine()
        if connection is None:
            connection = sqlite3.connect(
                self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            _log_ahead(connection)
            connection.execute("PRAGMA synchronous=FULL")
            self._connections.keep(connection)
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

    def prepare(self, transaction: Any) -> None:
        """Create the table, or check that it is there. UsageError: it is not."""
        if not isinstance(transaction, sqlite3.Connection):
            raise UsageError(
                f"SqliteSink(`{self._table}`) writes to the ledger's file, and the ledger is a "
                "database of another kind",
                hint="set ledger.url to sqlite:///…, or use PostgresSink",
            )
        if self._create is not None:
            transaction.execute(self._create)
        found = transaction.execute(f"PRAGMA table_info({self._table})").fetchall()
        if not found:
            raise UsageError(
                f"there is no table `{self._table}` to write results to",
                hint="create it, or use SqliteSink(…, create='CREATE TABLE IF NOT EXISTS …')",
            )

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


def _log_ahead(connection: sqlite3.Connection) -> None:
    """Turn the write-ahead log on. Of several that do so at once SQLite refuses some unasked."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as fault:
            busy = fault.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() >= until:
                raise
            time.sleep(0.01)


@contextmanager
def _faults(path: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as fault:
        if str(fault).startswith("no such table"):  # No code of its own tells it.
            raise SinkUnavailable(
                f"the ledger {path} is not ready for results: {fault}", hint="create the table"
            ) from fault
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
