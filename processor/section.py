"""What every table of processor.toml is made of: its model, and how quantities are written."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict

from processor.contracts.quantities import size_bytes

_UNIT_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d)\s*)+", re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)


class Section(BaseModel):
    """A table of processor.toml. Unknown names are faults, not surprises."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )


class EntryFault(ValueError):
    """What is wrong with one entry of a list. `fact` leaves the entry out: it may be a secret."""

    def __init__(self, entry: str, fact: str, detail: object = "") -> None:
        super().__init__(f"`{entry}` {fact}" + (f": {detail}" if detail else ""))
        self.fact = fact


def parse_duration(value: object) -> float:
    """Turn 90, "90", "90s", "1m30s", "500ms", "2h" or "7d" into seconds.

    Raises ValueError for anything else. Negative numbers pass: the field's own bound refuses them.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        text = value.strip()
        if re.fullmatch(r"-?\d+(\.\d+)?", text, re.ASCII):
            return float(text)
        if _DURATION.fullmatch(text):
            parts = _DURATION_PART.findall(text)
            return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts)
    raise ValueError("is no duration: write seconds, or like 500ms, 90s, 5m, 1h30m")


def parse_bytes(value: object) -> int:
    """Turn 1048576, "1048576", "1MiB" or "512KiB" into bytes. Raises ValueError for all else."""
    text = str(value).strip() if isinstance(value, str | int) and value is not True else ""
    if re.fullmatch(r"\d+", text, re.ASCII):
        return int(text)
    return size_bytes(text)


def parse_list(value: object) -> object:
    """Turn "a, b" into ("a", "b"), for a variable can hold no list; anything else stays as it is.

    >>> parse_list("*.example.com, files.internal")
    ('*.example.com', 'files.internal')
    """
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


Seconds = Annotated[float, BeforeValidator(parse_duration)]
Bytes = Annotated[int, BeforeValidator(parse_bytes)]
Texts = Annotated[tuple[str, ...], BeforeValidator(parse_list)]
