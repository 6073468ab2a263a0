from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from processor.sinks.postgres import PostgresLedger
from processor.sinks.postgres_sink import PostgresSink
from processor.sinks.sqlite import SqliteLedger, SqliteSink
from processor.stack.postgres import Postgres
from processor.testing import MemoryLedger, MemorySink, WatchedLedger
from tests.engine.bench import Bench


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    if request.param == "memory":
        memory = MemoryLedger()
        yield Bench(
            WatchedLedger(memory),
            MemorySink(),
            lambda: [each.result["n"] for each in memory.written],
        )
    elif request.param == "sqlite":
        yield from on_sqlite(tmp_path / "ledger.db")
    else:
        yield from on_postgres(request.getfixturevalue("tables"))


def on_sqlite(path: Path) -> Iterator[Bench]:
    ledger = SqliteLedger(path)
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE effect (n INTEGER)")

    def effects() -> list[int]:
        return [row[0] for row in connection.execute("SELECT n FROM effect ORDER BY rowid")]

    yield Bench(WatchedLedger(ledger), SqliteSink("effect"), effects)
    connection.close()
    ledger.close()


def on_postgres(url: str) -> Iterator[Bench]:
    ledger = PostgresLedger(url)
    with psycopg.connect(url, autocommit=True) as connection:

        def effects() -> list[int]:
            return [row[0] for row in connection.execute("SELECT n FROM effect ORDER BY number")]

        yield Bench(WatchedLedger(ledger), PostgresSink("effect"), effects)
        ledger.close()
        connection.execute(
            "TRUNCATE effect, processor_owner, processor_ledger, processor_closed_key,"
            " processor_held_job, processor_operation RESTART IDENTITY"
        )


@pytest.fixture(scope="session")
def tables(postgres: Postgres) -> Iterator[str]:
    """One PostgreSQL schema with the ledger's tables, empty at the beginning of each test."""
    schema = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
        connection.execute(f"CREATE TABLE {schema}.effect (number bigserial, n bigint)")
    url = f"{postgres.url}?options=-csearch_path%3D{schema}"
    PostgresLedger(url).close()
    yield url
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA {schema} CASCADE")
