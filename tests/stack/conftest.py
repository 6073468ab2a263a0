"""What the tests of the stack share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that stays open to PostgreSQL's user: pytest closes its own at each start."""
    with tempfile.TemporaryDirectory(prefix="processor-stack-") as folder:
        yield Path(folder)
