from __future__ import annotations

import uuid

import pytest


@pytest.fixture
def name() -> str:
    """A name that no other test has, for what outlives it on the servers."""
    return f"t{uuid.uuid4().hex[:12]}"
