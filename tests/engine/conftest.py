from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from processor.sinks.sqlite import SqliteLedger, SqliteSink
from processor.testing import MemoryLedger, MemorySink, WatchedLedger
from tests.engine.bench import Bench


@pytest.fixture(params=["memory", "sqlite"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    if request.param == "memory":
        memory = MemoryLedger()
        yield Bench(
            WatchedLedger(memory),
            MemorySink(),
            lambda: [each.result["n"] for each in memory.written],
        )
        return
    path = tmp_path / "ledger.db"
    ledger = SqliteLedger(path)
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE effect (n INTEGER)")

    def effects() -> list[int]:
        return [row[0] for row in connection.execute("SELECT n FROM effect ORDER BY rowid")]

    yield Bench(WatchedLedger(ledger), SqliteSink("effect"), effects)
    connection.close()
    ledger.close()
