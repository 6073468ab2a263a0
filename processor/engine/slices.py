"""A slice: a run of records of one turn that a pool works through, and what it reports back.

The loop thread makes a slice and reads its reports; one pool thread runs it. What both touch is
here: a flag that asks it to stop, the run in progress, and who may decide that run's fate.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from processor.core.lane import Entry, Lane, Turn
from processor.core.stretch import Stretch
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
    """What has become of records of a slice. After a `finished` report none follows.

    `done` are jobs of a stretch that succeeded and of which nothing needs to be known. Records
    without an outcome in any report were not run. `lost` tells that a newer owner of the partition
    exists; `unroll`, that what was not run must be looked at record by record.
    """

    slice: Slice
    outcomes: Sequence[tuple[Entry, Outcome]]
    finished: bool
    lost: bool = False
    done: Sequence[Done] = ()
    unroll: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """Jobs of one type that succeeded, by their offsets, and how long each ran."""

    job_type: str
    offsets: list[int]
    seconds: list[float]


@dataclass(slots=True)
class Running:
    """The run in progress. `contexts` are its jobs', where its handler asks for any.

    Where one object serves many runs, `timeout_at` is written before `offset`, and the loop reads
    them in the contrary order: it never takes a new run for one that is out of time.
    """

    offset: int
    contexts: Sequence[JobContext]
    started: float  # Monotonic seconds.
    timeout_at: float  # Monotonic seconds.

    def tell(self, reason: type[TransientError]) -> None:
        """Ask it to stop (loop thread). The first reason counts."""
        for each in self.contexts:
            if not each.cancelled:
                each.cancel(reason)


class Slice:
    """Records of one turn, run in order, one after the other.

    A run that fails ends it, and the rest asks the fence again; where `passes_failures`, only the
    rest of its key does: the keys of what failed are in `failed`.
    """

    __slots__ = (
        "_abandoned", "_abandoning", "_entries", "_fate", "all_done", "assignment", "begun",
        "failed", "first_run_at", "is_async", "lane", "owner", "passes_failures",
        "plain_coroutines", "ran",
        "reported", "running", "stop", "stretch", "turn",
    )  # fmt: skip

    def __init__(
        self,
        owner: Owner,
        taken: Sequence[Entry] | Stretch,
        assignment: Any,
        *,
        lane: Lane,
        turn: Turn,
        passes_failures: bool = False,
    ) -> None:
        self.owner = owner
        self.assignment = assignment  # Late reports of a dropped one are dropped.
        self.lane = lane
        self.turn = turn
        self.passes_failures = passes_failures
        self.is_async = assignment.is_async
        # Of jobs that succeed nothing need be told, and of what a tier holds there is more to ask.
        self.plain_coroutines = self.is_async and not assignment.tells_each and lane.tier == 0
        self.stretch = taken if isinstance(taken, Stretch) else None
        self._entries = [] if isinstance(taken, Stretch) else list(taken)
        self.failed: set[bytes] = set()  # Keys, of records that have one.
        self.ran: list[Done] = []  # Of a stretch, and not reported yet.
        self.reported: set[int] = set()  # Offsets of what the loop has judged.
        self.all_done = False  # `reported` is not kept of a stretch that is done at once.
        self.first_run_at = math.inf  # Monotonic seconds; what lies before, none of its runs took.
        self.begun = False  # The pool may take it before it has room (pool thread).
        self.running: Running | None = None
        self.stop = False  # Asks it to end after the run in progress.
        self._fate = threading.Lock()
        self._abandoning = self._abandoned = False

    def __len__(self) -> int:
        return len(self._entries) if self.stretch is None else len(self.stretch)

    @property
    def entries(self) -> list[Entry]:
        """Its entries; those of a stretch are made on the first call."""
        if self.stretch is not None and not self._entries:
            self._entries = self.lane.entries_of(self.stretch)
        return self._entries

    def left(self) -> list[Entry]:
        """What has no outcome yet, in order."""
        return [each for each in self.entries if each.record.offset not in self.reported]

    def skips(self, key: bytes | None) -> bool:
        """Whether a record must wait since one of its key has failed in this slice."""
        return key is not None and key in self.failed

    def start(self, running: Running) -> None:
        """Begin a run (pool thread)."""
        self.running = running
        self.first_run_at = min(self.first_run_at, running.started)

    def finish(self) -> bool:
        """End the run in progress (pool thread). False: it was abandoned, write nothing."""
        self.running = None
        return not self.abandoned

    @property
    def abandoned(self) -> bool:
        """Whether the run that has just ended was abandoned (pool thread).

        No lock is taken where nobody has a mind to: the thread writes where it is and then reads
        `_abandoning`, the loop does it in the contrary order, so one of them sees the other.
        """
        if not self._abandoning:
            return False
        with self._fate:
            return self._abandoned

    def abandon(self, running: Running, offset: int) -> bool:
        """Give this run up (loop thread). False: it has just ended by itself."""
        with self._fate:
            self._abandoning = True
            self._abandoned = self.running is running and running.offset == offset
            self._abandoning = self._abandoned
            return self._abandoned


class Pool(Protocol):
    """Runs slices and errands beside the loop thread."""

    @property
    def free(self) -> int:
        """How many more slices can start at once."""
        ...

    @property
    def free_async(self) -> int:
        """The same for slices whose handlers are coroutines."""
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

    def replace(self, work: Slice) -> None:
        """Make room in place of what an abandoned slice holds."""
        ...

    def close(self) -> None:
        """Take no more work. Twice does no harm."""
        ...
