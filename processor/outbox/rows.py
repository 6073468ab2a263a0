"""Where a relay finds rows: PostgreSQL or SQLite. Committed rows alone, by number.

PostgreSQL, rule 1: a row is taken only when every transaction that began to write before the row's
own has ended (`xid` below the snapshot's horizon).
Rule 2: no row of its slot is taken before one that is committed and has a lower number. So whoever
submits after another's commit comes after it, whatever their transactions wrote first.
Rule 3: a slot belongs to the relay that holds its advisory lock, which ends with its connection.
"""

from __future__ import annotations

import fcntl
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from processor.errors import SinkUnavailable, UsageError
from processor.outbox.table import CHANNEL, POSTGRES, SQLITE, Name, Row

LOCK_CLASS = 0x6F7574  # The first half of the advisory locks' names.
COUNT_MAX = 100_000  # More rows than this are counted as this many.
# A relay that was stopped holds its slots until the server ends its session. A relay that runs asks
# for the backlog while it waits for Kafka, and for rows at least once a minute.
IDLE_SECONDS_MAX = 90.0

_FIELDS = ", ".join(Row._fields[:-1])

# A transaction that has ended has an id below the snapshot's xmax: a row that is seen and has one
# at or above it was not written under that id here: it came with a dump, from a cluster that had
# counted further, and is final. It would wait until this cluster has counted so far too.
_ENDED = (
    "(xid < pg_snapshot_xmin(pg_current_snapshot())"
    " OR xid >= pg_snapshot_xmax(pg_current_snapshot()))"
)


class Backlog(NamedTuple):
    """What waits in the outbox. `oldest_seconds` is 0 where nothing does."""

    rows: int
    oldest_seconds: float


class Rows(Protocol):
    """An outbox table, as one relay reads it. Calls raise SinkUnavailable."""

    def create(self) -> None:
        """Make the table where there is none."""
        ...

    def slots(self) -> list[int]:
        """The slots in which rows wait."""
        ...

    def take(self, slot: int) -> bool:
        """Own a slot, unless another relay does."""
        ...

    def give_back(self, slot: int) -> None:
        """Own it no more."""
        ...

    def read(self, slot: int, count_max: int, held: Sequence[Name] = ()) -> list[Row]:
        """The first rows of a slot, in the order in which they are to be sent.

        Without those of what `held` names, which cannot be sent now: they may be many.
        """
        ...

    def delete(self, numbers: Sequence[int]) -> None:
        """Forget rows whose jobs are on the log."""
        ...

    def backlog(self) -> Backlog:
        """Count what waits."""
        ...

    def wait(self, seconds: float) -> bool:
        """Wait until rows may have come, or for so long. Returns whether somebody told."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


def open_rows(url: str, *, existing: bool = False) -> Rows:
    """Open the outbox of the database that `postgresql://…` or `sqlite:///path` names.

    `existing`: UsageError where there is no such file, instead of an empty one that has no rows.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite":
        path = rest.removeprefix("/")
        if existing and not Path(path).is_file():
            raise UsageError(
                f"there is no database at {Path(path).absolute()}",
                hint="check the outbox's URL; `processor outbox create` makes one",
            )
        return SqliteRows(path)
    if scheme in ("postgresql", "postgres"):
        return PostgresRows(url)
    raise UsageError(
        f"there is no outbox in `{scheme}`", hint="use postgresql://… or sqlite:///path"
    )


class PostgresRows:
    """An outbox in PostgreSQL (port: `Rows`). One connection, made again when it breaks."""

    def __init__(self, url: str, *, idle_seconds_max: float = IDLE_SECONDS_MAX) -> None:
        from processor.sinks.postgres import conninfo

        self._conninfo = conninfo(url)
        self._idle_seconds_max = idle_seconds_max
        self._made: Any = None

    @property
    def pid(self) -> int | None:
        """The server process of the connection, where there is one."""
        return None if self._made is None else int(self._made.info.backend_pid)

    def create(self) -> None:
        """Make the table, its trigger and its index."""
        with self._connected() as connection:
            connection.execute(POSTGRES)

    def slots(self) -> list[int]:
        """Name the slots with rows that may be sent."""
        with self._connected() as connection:
            found = connection.execute(
                f"SELECT DISTINCT slot FROM processor_outbox WHERE {_ENDED}"  # noqa: S608
            )
            return [row[0] for row in found]

    def take(self, slot: int) -> bool:
        """Try the slot's lock."""
        with self._connected() as connection:
            found = connection.execute("SELECT pg_try_advisory_lock(%s, %s)", [LOCK_CLASS, slot])
            return bool(found.fetchone()[0])

    def give_back(self, slot: int) -> None:
        """Open the slot's lock."""
        with self._connected() as connection:
            connection.execute("SELECT pg_advisory_unlock(%s, %s)", [LOCK_CLASS, slot])

    def read(self, slot: int, count_max: int, held: Sequence[Name] = ()) -> list[Row]:
        """Read up to the first row whose transaction may have older ones beside it."""
        others, values = _others(held, "%s")
        with self._connected() as connection:
            found = connection.execute(
                f"SELECT {_ENDED}, {_FIELDS}, to_char(created_at AT TIME ZONE 'UTC',"  # noqa: S608
                " 'YYYY-MM-DD\"T\"HH24:MI:SS.MSZ') FROM processor_outbox WHERE slot=%s"
                f"{others} ORDER BY number LIMIT %s",
                [slot, *values, count_max],
            )
            return [Row(*row) for ended, *row in takewhile(lambda each: each[0], found)]

    def delete(self, numbers: Sequence[int]) -> None:
        """Delete rows."""
        with self._connected() as connection:
            connection.execute(
                "DELETE FROM processor_outbox WHERE number = ANY(%s)", [list(numbers)]
            )

    def backlog(self) -> Backlog:
        """Count rows, committed and not sent."""
        with self._connected() as connection:
            found = connection.execute(
                "SELECT"
                " (SELECT count(*) FROM (SELECT 1 FROM processor_outbox LIMIT %s) AS waiting),"
                " (SELECT extract(epoch FROM clock_timestamp() - created_at) FROM processor_outbox"
                " ORDER BY number LIMIT 1)",
                [COUNT_MAX],
            )
            rows, oldest = found.fetchone()
            return Backlog(rows, max(0.0, float(oldest or 0.0)))

    def wait(self, seconds: float) -> bool:
        """Wait for the trigger's word."""
        with self._connected() as connection:
            return any(True for _ in connection.notifies(timeout=seconds, stop_after=1))

    def close(self) -> None:
        """Close the connection, and with it open every lock."""
        if self._made is not None:
            self._made.close()
            self._made = None

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        import psycopg

        from processor.sinks.postgres import connect

        try:
            if self._made is None:
                self._made = connect(self._conninfo, idle_seconds_max=0)
                idle_ms = int(self._idle_seconds_max * 1000)
                self._made.execute(f"SET idle_session_timeout = {idle_ms}; LISTEN {CHANNEL}")
            yield self._made
        except psycopg.errors.UndefinedTable:
            raise _no_table() from None
        except psycopg.errors.UndefinedColumn as fault:
            raise _old_table(str(fault)) from None
        except psycopg.Error as fault:
            self.close()
            raise SinkUnavailable(
                f"the outbox in PostgreSQL does not answer: {str(fault).splitlines()[0]}",
                hint="check that the server runs and that the outbox's URL names it",
            ) from fault


class SqliteRows:
    """An outbox in a SQLite file (port: `Rows`). It takes one writer, so rows are in order."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection = sqlite3.connect(path, timeout=30.0, isolation_level=None)
        self._lock: IO[bytes] | None = None

    def create(self) -> None:
        """Make the table and its index."""
        with self._faults():
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.executescript(SQLITE)
            columns = self._connection.execute("PRAGMA table_info(processor_outbox)")
            if "traceparent" not in {column[1] for column in columns}:  # Made earlier.
                self._connection.execute("ALTER TABLE processor_outbox ADD COLUMN traceparent TEXT")

    def slots(self) -> list[int]:
        """Name the slots with rows."""
        with self._faults():
            return [row[0] for row in self._connection.execute(
                "SELECT DISTINCT slot FROM processor_outbox")]  # fmt: skip

    def take(self, slot: int) -> bool:  # noqa: ARG002 - one relay has them all.
        """Lock the file beside the database, for as long as this relay runs."""
        if self._lock is None:
            lock = Path(f"{self._path}.outbox-lock").open("ab")  # noqa: SIM115 - kept open.
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                return False
            self._lock = lock
        return True

    def give_back(self, slot: int) -> None:
        """The lock is kept."""

    def read(self, slot: int, count_max: int, held: Sequence[Name] = ()) -> list[Row]:
        """Read the first rows."""
        others, values = _others(held, "?")
        with self._faults():
            found = self._connection.execute(
                f"SELECT {_FIELDS}, created_at FROM processor_outbox"  # noqa: S608
                f" WHERE slot=?{others} ORDER BY number LIMIT ?",
                [slot, *values, count_max],
            )
            return [Row(*row) for row in found]

    def delete(self, numbers: Sequence[int]) -> None:
        """Delete rows."""
        with self._faults():
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(
                "DELETE FROM processor_outbox WHERE number=?", [[each] for each in numbers]
            )
            self._connection.execute("COMMIT")

    def backlog(self) -> Backlog:
        """Count rows."""
        with self._faults():
            found = self._connection.execute(
                "SELECT count(*), (julianday('now') - julianday(min(created_at))) * 86400"
                " FROM processor_outbox"
            )
            rows, oldest = found.fetchone()
            return Backlog(rows, max(0.0, oldest or 0.0))

    def wait(self, seconds: float) -> bool:
        """Nobody tells: look again after a moment."""
        time.sleep(min(seconds, 0.2))
        return True

    def close(self) -> None:
        """Close the file and its lock."""
        self._connection.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as fault:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if "no such table" in str(fault):
                raise _no_table() from None
            if "no such column" in str(fault):
                raise _old_table(str(fault)) from None
            raise SinkUnavailable(f"the outbox {self._path} does not answer: {fault}") from fault


def _others(held: Sequence[Name], place: str) -> tuple[str, list[Any]]:
    """Make the condition that leaves these out, and its values."""
    topics = [topic for topic, name in held if name is None]
    keys = [(topic, name) for topic, name in held if isinstance(name, str)]
    lone = [name for _, name in held if isinstance(name, int)]
    condition = ""
    if topics:
        condition += f" AND aggregatetype NOT IN ({', '.join([place] * len(topics))})"
    if keys:
        pairs = ", ".join([f"({place}, {place})"] * len(keys))
        condition += (
            f" AND (aggregateid IS NULL OR (aggregatetype, aggregateid) NOT IN (VALUES {pairs}))"
        )
    if lone:
        condition += f" AND number NOT IN ({', '.join([place] * len(lone))})"
    return condition, [*topics, *(value for pair in keys for value in pair), *lone]


def _no_table() -> UsageError:
    return UsageError(
        "there is no table processor_outbox in this database",
        hint="run `processor outbox create`, or `processor outbox sql` for your migrations",
    )


def _old_table(why: str) -> UsageError:
    return UsageError(
        f"the table processor_outbox is of an earlier version: {why.splitlines()[0]}",
        hint="run `processor outbox create`, or `processor outbox sql` for your migrations",
    )
