"""What a command has told, when it was called inside the test's own process."""

from __future__ import annotations

from typing import Any, NamedTuple


class Told(NamedTuple):
    code: int
    rows: list[dict[str, Any]]
    stderr: str
