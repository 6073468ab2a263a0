"""`Outbox`: write jobs as rows, inside the caller's own transaction."""

from __future__ import annotations

import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from processor.adapters.keys import registered_encoder
from processor.adapters.registry import Registry
from processor.contracts import headers
from processor.contracts.avro import subject_for
from processor.contracts.builtin import schema_directories, topic_directories
from processor.contracts.claims import ClaimStore
from processor.contracts.schemas import SchemaSet
from processor.contracts.topics import TopicSet
from processor.engine.submit import NewJob, Way, outgoing, way_of
from processor.errors import UsageError
from processor.outbox.table import slot_of
from processor.reached import ReachedClaims
from processor.settings import Settings, load_settings
from processor.tracing import tracing_of

if TYPE_CHECKING:
    from processor.adapters.tracing import Send


class Contracts:
    """What rows are checked and encoded by: topics, schemas, and their ids in the registry.

    Made once a process from its settings; the registry is asked once for each job type.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = load_settings() if settings is None else settings
        self._schemas = SchemaSet.load(schema_directories(self.settings))
        self._topics = TopicSet.load(topic_directories(self.settings), self._schemas)
        self._registry = Registry(self.settings.registry)
        self._ways: dict[str, Way] = {}
        self.tracing = tracing_of(self.settings, service="processor")
        store = self.settings.claims.store
        self.claims: ClaimStore | None = None
        if store is not None:
            self.claims = ReachedClaims(self.settings, store, tracing=self.tracing)

    def way(self, job_type: str) -> Way:
        """Find how jobs of a type are written."""
        way = self._ways.get(job_type)
        if way is None:
            topic, schema = self._topics.for_job(job_type), self._schemas.get(job_type)
            subject = subject_for(topic.name, job_type)
            encoder = registered_encoder(self._registry, subject, schema, self.settings.encryption)
            way = self._ways[job_type] = way_of(topic, encoder)
        return way


_default: Contracts | None = None
_default_lock = threading.Lock()


class Outbox:
    """Submits jobs with the transaction that is open on a connection.

    `connection`: psycopg's, sqlite3's, or SQLAlchemy's Connection or Session. The caller begins and
    commits; the table is there (`processor outbox create`).

        with psycopg.connect(url) as connection:
            connection.execute("INSERT INTO orders …")
            Outbox(connection).submit("mail.send", {"to": …}, key="order-7")
    """

    def __init__(
        self, connection: Any, *, contracts: Contracts | None = None, source: str = "processor"
    ) -> None:
        self._insert = _inserting(connection)
        self._contracts = _shared() if contracts is None else contracts
        self._source = source

    def submit(
        self,
        job_type: str,
        payload: Any,
        *,
        key: str | None = None,
        idempotency_key: str | None = None,
        job_id: str | None = None,
        not_before: float | None = None,
        deadline: float | None = None,
    ) -> str:
        """Write a job and return its id. It is submitted when the transaction commits.

        The payload is checked now: ContractError, UsageError, RegistryUnavailable and
        StoreUnavailable leave nothing in the outbox. `not_before` and `deadline` are seconds since
        the epoch.
        """
        job = NewJob(job_type, payload, key, idempotency_key, job_id, not_before, deadline)
        way = self._contracts.way(job_type)
        tracing = self._contracts.tracing
        if tracing is None:
            return self._write(job, way)
        with tracing.send(way.topic, operation="create").making() as span:
            return self._write(job, way, span)

    def _write(self, job: NewJob, way: Way, span: Send | None = None) -> str:
        from processor.client import new_job_id

        job_id, record = outgoing(
            job,
            way,
            claims=self._contracts.claims,
            source=self._source,
            now=time.time(),
            new_id=new_job_id,
        )
        traced: dict[str, Any] = {}  # A table of an earlier version has no such column.
        if span is not None:
            record = span.carried_by(record, job_id=job_id, job_type=job.job_type)
            traced["traceparent"] = span.traceparent
        written = dict(record.headers)
        self._insert(
            {
                "id": job_id,
                "aggregatetype": way.topic,
                "aggregateid": job.key,
                "type": job.job_type,
                "payload": record.value,
                "idempotency_key": job.idempotency_key,
                "not_before": _whole(written.get(headers.NOT_BEFORE)),
                "deadline": _whole(written.get(headers.DEADLINE)),
                "claim": written.get(headers.CLAIM),
                "source": self._source,
                "slot": slot_of(way.topic, job.key, job_id),
                **traced,
            }
        )
        return job_id


def _whole(text: bytes | None) -> int | None:
    return None if text is None else int(text)


def _shared() -> Contracts:
    global _default
    with _default_lock:
        if _default is None:
            _default = Contracts()
        return _default


def _inserting(connection: Any) -> Callable[[dict[str, Any]], None]:
    """Make the step that writes a row through a connection of whatever kind."""
    if isinstance(connection, sqlite3.Connection):
        return lambda row: _insert_sqlite(connection, row)
    if _is(connection, "sqlalchemy", "Connection"):
        return lambda row: _insert_sqlalchemy(connection, row)
    if _is(connection, "sqlalchemy.orm", "Session", "scoped_session"):
        return lambda row: _insert_sqlalchemy(connection.connection(), row)
    if _is(connection, "psycopg", "Connection"):
        return lambda row: _insert_psycopg(connection, row)
    hint = "give a connection of psycopg or sqlite3, or a Connection or Session of SQLAlchemy"
    if hasattr(connection, "run_sync"):
        hint = "`await connection.run_sync(lambda each: Outbox(each).submit(…))`"
    elif _is(connection, "psycopg", "AsyncConnection"):
        hint = "give a psycopg.Connection, on a thread of its own (`asyncio.to_thread`)"
    raise UsageError(
        f"an outbox cannot write through a {type(connection).__module__}."
        f"{type(connection).__qualname__}",
        hint=hint,
    )


def _is(connection: Any, module: str, *names: str) -> bool:
    """Whether it is of one of these classes; a module that is not loaded has no objects."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(connection, tuple(getattr(loaded, n) for n in names))


def _insert_sqlite(connection: sqlite3.Connection, row: dict[str, Any]) -> None:
    by_itself = connection.isolation_level is None or getattr(connection, "autocommit", -1) is True
    if by_itself and not connection.in_transaction:
        raise _no_transaction("begin one first, with BEGIN")
    places = ", ".join("?" * len(row))
    connection.execute(
        f"INSERT INTO processor_outbox ({', '.join(row)}) VALUES ({places})",  # noqa: S608 - our names.
        list(row.values()),
    )


def _insert_psycopg(connection: Any, row: dict[str, Any]) -> None:
    if connection.autocommit and connection.info.transaction_status.name == "IDLE":
        raise _no_transaction("begin one first, with `with connection.transaction():`")
    places = ", ".join(["%s"] * len(row))
    connection.execute(
        f"INSERT INTO processor_outbox ({', '.join(row)}) VALUES ({places})",  # noqa: S608 - our names.
        list(row.values()),
    )


def _insert_sqlalchemy(connection: Any, row: dict[str, Any]) -> None:
    from sqlalchemy import text

    if _autocommits(connection):
        raise _no_transaction("give one whose isolation level is not AUTOCOMMIT")
    places = ", ".join(f":{name}" for name in row)
    connection.execute(
        text(f"INSERT INTO processor_outbox ({', '.join(row)}) VALUES ({places})"),  # noqa: S608
        row,
    )


def _autocommits(connection: Any) -> bool:
    """Whether each statement of a SQLAlchemy connection commits: its driver's connection knows."""
    pooled = connection.connection
    drivers = (pooled.dbapi_connection, pooled.driver_connection)  # Two, behind a coroutine's.
    if any(getattr(driver, "autocommit", -1) is True for driver in drivers):
        return True
    if not hasattr(drivers[1], "in_transaction") or drivers[1].isolation_level is not None:
        return False  # Only sqlite3's may do so without a word.
    connection.exec_driver_sql("SELECT 1")  # Where an event's listener begins, it has by now.
    return not drivers[1].in_transaction


def _no_transaction(what_to_do: str) -> UsageError:
    return UsageError(
        "the connection is not inside a transaction: the job would be there before the rest is",
        hint=what_to_do,
    )
