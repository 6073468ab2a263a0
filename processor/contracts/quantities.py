"""Durations and sizes as people write them in topic files: `10m`, `7d`, `10KiB`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator

_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"B": 1, "KiB": 1024, "MiB": 1024 * 1024}


def duration_seconds(text: object) -> float:
    """Read `500ms`, `5s`, `1m`, `2h` or `7d`; a bare number is a ValueError like any other text."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)", text) if isinstance(text, str) else None
    if match is None:
        raise ValueError("is no duration; write e.g. 500ms, 5s, 1m, 2h or 7d")
    return float(match[1]) * _SECONDS[match[2]]


def size_bytes(text: object) -> int:
    """Read `512B`, `10KiB` or `1MiB`; a bare number is a ValueError like any other text."""
    match = re.fullmatch(r"(\d+)\s*(B|KiB|MiB)", text) if isinstance(text, str) else None
    if match is None:
        raise ValueError("is no size; write e.g. 512B, 10KiB or 1MiB")
    return int(match[1]) * _BYTES[match[2]]


Duration = Annotated[float, BeforeValidator(duration_seconds)]  # Seconds.
Size = Annotated[int, BeforeValidator(size_bytes)]  # Bytes.
