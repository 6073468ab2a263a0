"""The part of a job's context that the built-in jobs use, as plain fields."""

from __future__ import annotations

from dataclasses import dataclass, field

from processor.contracts.claims import ObjectStore
from processor.errors import JobTimeout


@dataclass
class JobContext:
    """`cancel_after`: how many times the job may ask before it is told to stop."""

    objects: ObjectStore
    cancel_after: int = 1_000_000
    seen: list[tuple[float, float | None]] = field(default_factory=list)

    def raise_if_cancelled(self) -> None:
        if self.cancel_after == 0:
            raise JobTimeout("the job is out of time")
        self.cancel_after -= 1

    def progress(self, done: float, total: float | None, /) -> None:
        self.seen.append((done, total))
