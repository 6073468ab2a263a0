"""pytest fixtures: real servers for tests, each started by the first test that asks for it.

`processor_stack` is the whole; `kafka`, `registry`, `s3` and `postgres` are its parts. All live as
long as the test session, on free ports, in a temporary folder. At the end, also after Ctrl-C, they
are stopped and their data deleted; their logs go to pytest's temporary folder. A fixture of the
same name in your own conftest.py takes the place of ours.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # Every pytest run with processor installed reads this module: it must be cheap.
    from processor.stack import Stack
    from processor.stack.kafka import Kafka
    from processor.stack.postgres import Postgres
    from processor.stack.registry import Registry
    from processor.stack.s3 import S3


@pytest.fixture(scope="session")
def processor_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of which nothing runs until a part is asked for."""
    from processor.errors import UsageError
    from processor.stack import Stack

    # Not below pytest's own folder: each pytest that starts closes that to other users, and
    # PostgreSQL is another user when the tests run as root.
    folder = Path(tempfile.mkdtemp(prefix="processor-stack-"))
    try:
        stack = Stack(folder)
    except UsageError as fault:
        folder.rmdir()
        pytest.fail(f"{fault.message}; hint: {fault.hint}", pytrace=False)
    try:
        yield stack
    finally:
        stack.stop(kill=True)
        if (folder / "logs").exists():
            shutil.copytree(folder / "logs", tmp_path_factory.mktemp("processor-stack") / "logs")
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def kafka(processor_stack: Stack) -> Kafka:
    """A broker that serves clients: `kafka.bootstrap_servers`."""
    processor_stack.start("kafka")
    return processor_stack.kafka


@pytest.fixture(scope="session")
def registry(processor_stack: Stack) -> Registry:
    """A schema registry that answers: `registry.url`."""
    processor_stack.start("registry")
    return processor_stack.registry


@pytest.fixture(scope="session")
def s3(processor_stack: Stack) -> S3:
    """An object store with the bucket `processor-claims`: `s3.endpoint_url` and credentials."""
    processor_stack.start("s3")
    return processor_stack.s3


@pytest.fixture(scope="session")
def postgres(processor_stack: Stack) -> Postgres:
    """A database server: `postgres.url`."""
    processor_stack.start("postgres")
    return processor_stack.postgres
