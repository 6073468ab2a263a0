"""How far one slice has come while it runs (run.py)."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from processor.contracts import headers
from processor.core.lane import Entry
from processor.engine.batch import Ready
from processor.engine.effects import Unwritten
from processor.engine.slices import Outcome, Slice
from processor.errors import ContractError


@dataclass(slots=True)
class SliceProgress:
    """What is settled, what ran but is not written down yet, and what waits for its batch."""

    work: Slice
    outcomes: list[tuple[Entry, Outcome]] = field(default_factory=list)
    unwritten: list[Unwritten] = field(default_factory=list)
    since: float = 0.0  # Monotonic seconds: when it began, or reported last.
    batch: list[Ready] = field(default_factory=list)  # Decoded, and not run yet.
    identities: set[str] = field(default_factory=set)  # Of what is in `batch` or `unwritten`.
    unroll: bool = False  # What is left must be admitted record by record.

    def ran(self, one: Unwritten) -> None:
        """Note a run that is to be written."""
        self.unwritten.append(one)
        self.identities.add(one.effect.identity)


def read_jobs(entries: Sequence[Entry]) -> list[str]:
    """Read the jobs' own headers; gives what the ledger may know them by.

    Malformed headers leave a job its place.
    """
    identities: list[str] = []
    for entry in entries:
        with contextlib.suppress(ContractError):
            entry.job = headers.read_job(entry.record, entry.hop)
        job = entry.job or headers.nameless_job(entry.hop)
        identities += job.identities(job.job_type or "")
    return identities
