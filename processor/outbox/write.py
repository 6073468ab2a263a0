"""`Outbox`: write jobs as rows, inside the caller's own transaction."""

from __future__ import annotations

import sqlite3
import threading
import time
from typing import Any

from processor.adapters.registry import Registry
from processor.contracts import headers
from processor.contracts.avro import Encoder, subject_for
from processor.contracts.builtin import schema_directories, topic_directories
from processor.contracts.claims import ClaimStore
from processor.contracts.schemas import SchemaSet
from processor.contracts.topics import Topic, TopicSet
from processor.engine.submit import NewJob, outgoing
from processor.errors import UsageError
from processor.outbox.table import WRITTEN, slot_of
from processor.reached import ReachedClaims
from processor.settings import Settings, load_settings

_COLUMNS = ", ".join(WRITTEN)


class Contracts:
    """What rows are checked and encoded by: topics, schemas, and their ids in the registry.

    Made once a process from its settings; the registry is asked once for each job type.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = load_settings() if settings is None else settings
        self._schemas = SchemaSet.load(schema_directories(self.settings))
        self._topics = TopicSet.load(topic_directories(self.settings), self._schemas)
        self._registry = Registry(self.settings.registry)
        self._ways: dict[str, tuple[Topic, Encoder]] = {}
        store = self.settings.claims.store
        self.claims: ClaimStore | None = None
        if store is not None:
            self.claims = ReachedClaims(self.settings, store)

    def way(self, job_type: str) -> tuple[Topic, Encoder]:
        """Find the topic and the encoder of a job type."""
        way = self._ways.get(job_type)
        if way is None:
            topic, schema = self._topics.for_job(job_type), self._schemas.get(job_type)
            schema_id = self._registry.id_of(subject_for(topic.name, job_type), schema.text)
            way = self._ways[job_type] = (topic, Encoder(schema, schema_id))
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
        from processor.client import new_job_id

        topic, encoder = self._contracts.way(job_type)
        job_id, record = outgoing(
            NewJob(job_type, payload, key, idempotency_key, job_id, not_before, deadline),
            topic=topic.name,
            encode=encoder.encode,
            message_bytes_max=topic.message_max,
            claims=self._contracts.claims,
            source=self._source,
            now=time.time(),
            new_id=new_job_id,
        )
        written = dict(record.headers)
        self._insert(
            {
                "id": job_id,
                "aggregatetype": topic.name,
                "aggregateid": key,
                "type": job_type,
                "payload": record.value,
                "idempotency_key": idempotency_key,
                "not_before": _whole(written.get(headers.NOT_BEFORE)),
                "deadline": _whole(written.get(headers.DEADLINE)),
                "claim": written.get(headers.CLAIM),
                "source": self._source,
                "slot": slot_of(topic.name, key, job_id),
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


def _inserting(connection: Any) -> Any:
    """Make the step that writes a row through a connection of whatever kind."""
    kind = type(connection).__module__.partition(".")[0]
    if isinstance(connection, sqlite3.Connection):
        return lambda row: _insert_sqlite(connection, row)
    if kind == "sqlalchemy":
        # A Session gives its connection; a Connection is one.
        opened = connection.connection() if hasattr(connection, "get_bind") else connection
        return lambda row: _insert_sqlalchemy(opened, row)
    if kind == "psycopg" and hasattr(connection, "info"):
        return lambda row: _insert_psycopg(connection, row)
    raise UsageError(
        f"an outbox cannot write through a {type(connection).__module__}."
        f"{type(connection).__qualname__}",
        hint="give a connection of psycopg or sqlite3, or a Connection or Session of SQLAlchemy",
    )


def _insert_sqlite(connection: sqlite3.Connection, row: dict[str, Any]) -> None:
    if connection.isolation_level is None and not connection.in_transaction:
        raise _no_transaction("BEGIN")
    places = ", ".join("?" * len(row))
    connection.execute(
        f"INSERT INTO processor_outbox ({_COLUMNS}) VALUES ({places})",  # noqa: S608 - our names.
        list(row.values()),
    )


def _insert_psycopg(connection: Any, row: dict[str, Any]) -> None:
    if connection.autocommit and connection.info.transaction_status.name == "IDLE":
        raise _no_transaction("`with connection.transaction():`")
    places = ", ".join(["%s"] * len(row))
    connection.execute(
        f"INSERT INTO processor_outbox ({_COLUMNS}) VALUES ({places})",  # noqa: S608 - our names.
        list(row.values()),
    )


def _insert_sqlalchemy(connection: Any, row: dict[str, Any]) -> None:
    from sqlalchemy import text

    places = ", ".join(f":{name}" for name in row)
    connection.execute(
        text(f"INSERT INTO processor_outbox ({_COLUMNS}) VALUES ({places})"),  # noqa: S608
        row,
    )


def _no_transaction(how: str) -> UsageError:
    return UsageError(
        "the connection is not inside a transaction: the job would be there before the rest is",
        hint=f"begin one first, with {how}",
    )
