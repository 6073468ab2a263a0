"""Faults of a set of files, gathered, so that a person mends them in one go."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from processor.errors import UsageError


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong in one file: where, what (with the value), and what to do."""

    place: str
    what: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


class FaultyFiles(UsageError):
    """Every fault of a set of files at once; `faults` holds them in the order of the files."""

    def __init__(self, kind: str, faults: Sequence[Fault]) -> None:
        assert faults
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        lines = "".join(f"\n  {fault}" for fault in faults)
        super().__init__(f"{count} in the {kind} files:{lines}")
        self.faults = tuple(faults)


def close_match(name: str, known: Iterable[str]) -> str | None:
    """Find the known name that was probably meant, if one is near."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return matches[0] if matches else None


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Say which known name was probably meant, or list what there is."""
    match = close_match(name, known)
    if match is not None:
        return f"did you mean `{match}`?"
    if not known:
        return "there are none"
    return "known: " + ", ".join(f"`{each}`" for each in sorted(known))
