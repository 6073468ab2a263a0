from __future__ import annotations

import signal
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from processor.stack.postgres import Postgres


def pytest_configure() -> None:
    """Take SIGINT as usual where the tests were started in the background.

    A shell without job control starts background commands with SIGINT ignored, and the processes
    that tests start would inherit that: Ctrl-C could not be tried.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files of slow tests: begun last, one of them would keep one process alone."""
    slow = {each.path for each in items if each.get_closest_marker("slow") is not None}
    items.sort(key=lambda each: each.path not in slow)


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    """A PostgreSQL schema of its own: the URL leads to it."""
    import psycopg

    schema = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
        yield f"{postgres.url}?options=-csearch_path%3D{schema}"
        connection.execute(f"DROP SCHEMA {schema} CASCADE")
