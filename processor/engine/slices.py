"""A slice: a run of entries of one turn that a pool works through, and what it reports back.

The loop thread makes a slice and reads its reports; one pool thread runs it. What both touch is
here: a flag that asks it to stop, the run in progress, and who may decide that run's fate.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from processor.core.lane import Entry
from processor.engine.telemetry import Outage
from processor.errors import TransientError
from processor.model import Failure

if TYPE_CHECKING:
    from processor.engine.context import JobContext
    from processor.engine.ports import Owner


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The effect is written and the ledger remembers it."""

    result: str | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The ledger already knows this job: `state` is `done` or `dead`; nothing was run.

    `conflict`: another job with the same idempotency key is done, and its payload was another.
    """

    of_job_id: str
    state: str
    result: str | None
    attempt: int = 0  # Runs that led to it.
    conflict: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """The run failed."""

    failure: Failure
    seconds: float


@dataclass(frozen=True, slots=True)
class Dying:
    """An earlier owner noted the death and may not have appended the letter: append it again."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Something the engine itself needs is away. Nothing was attempted."""

    what: Outage
    message: str


Outcome = Succeeded | Duplicate | Failed | Dying | Unavailable


@dataclass(frozen=True, slots=True)
class Report:
    """What has become of entries of a slice. After a `finished` report none follows.

    Entries without an outcome in any report were not run. `lost` tells that a newer owner of the
    partition exists.
    """

    slice: Slice
    outcomes: Sequence[tuple[Entry, Outcome]]
    finished: bool
    lost: bool = False


@dataclass(slots=True)
class Running:
    """The run in progress."""

    entry: Entry
    context: JobContext
    started: float  # Monotonic seconds.
    timeout_at: float  # Monotonic seconds.

    def tell(self, reason: type[TransientError]) -> None:
        """Ask it to stop (loop thread). The first reason counts."""
        if not self.context.cancelled:
            self.context.cancel(reason)


@dataclass(eq=False, slots=True)
class Slice:
    """Entries of one turn, run in order; a failure ends it, and the rest asks the fence again."""

    owner: Owner
    entries: Sequence[Entry]
    assignment: Any  # The assignment it was taken from; late reports of a dropped one are dropped.
    reported: int = 0  # Entries whose outcome the loop has judged; they come in order.
    running: Running | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    _fate: threading.Lock = field(default_factory=threading.Lock)
    _abandoned: bool = False

    def start(self, running: Running) -> None:
        """Begin a run (pool thread)."""
        self.running = running

    def finish(self) -> bool:
        """End the run in progress (pool thread). False: it was abandoned, write nothing."""
        with self._fate:
            self.running = None
            return not self._abandoned

    def abandon(self, running: Running) -> bool:
        """Give this run up (loop thread). False: it has just ended by itself."""
        with self._fate:
            if self.running is not running:
                return False
            self._abandoned = True
            return True


class Pool(Protocol):
    """Runs slices and errands beside the loop thread."""

    @property
    def free(self) -> int:
        """How many more slices can start at once."""
        ...

    def submit(self, work: Slice) -> None:
        """Run a slice."""
        ...

    def errand(self, call: Any, token: Any) -> None:
        """Run `call()` beside the loop; its end comes through `errands_done` with the token."""
        ...

    def reports(self) -> list[Report]:
        """What slices reported since the last call. Does not wait."""
        ...

    def errands_done(self) -> list[tuple[Any, Any]]:
        """(token, result or exception) of errands that ended. Does not wait.

        A token of None comes with a bug that ended a thread: the worker must end with it.
        """
        ...

    def wait(self, timeout_seconds: float) -> None:
        """Wait until a slice or an errand reports, or for so long."""
        ...

    def replace(self) -> None:
        """Start a thread in place of the one that an abandoned slice holds."""
        ...

    def close(self) -> None:
        """Take no more work. Twice does no harm."""
        ...
