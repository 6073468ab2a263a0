"""What the ledger is told of entries on their way to being settled, and the errands that tell it.

One ledger call tells it of all entries of an assignment that need the same note. While one is under
way the next ones gather: a busy ledger is asked seldom, and then for many. An errand that met an
outage is done again, whole and in its order.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Set
from dataclasses import dataclass
from enum import Enum
from typing import assert_never

from processor.contracts import headers
from processor.core.assignment import Assignment
from processor.core.lane import Entry
from processor.engine.journey import Copy
from processor.engine.ports import Clock, Death, HeldJob, Ledger, Owner
from processor.engine.slices import Pool
from processor.engine.tracing import AppendSpan
from processor.model import Failure, Outgoing

AGAIN_SECONDS = 1.0


class Note(Enum):
    """What the ledger is told."""

    DYING = "dying"
    DEAD = "dead"
    HELD = "held"  # Behind a dead job of its key.
    UNHELD = "unheld"  # It was held, and an operator's replay has run it.
    END = "end"  # A replay of its key has come to its end.


class Barrier(Enum):
    """What must come to pass before the next step.

    `COMMIT`: a commit sent from now on is accepted. Then no newer owner has missed the letter.
    """

    COMMIT = "commit"


Step = Outgoing | Copy | Note | Barrier


@dataclass(eq=False, slots=True)
class Settling:
    """One entry on its way from its verdict to being settled."""

    entry: Entry
    assignment: Assignment
    owner: Owner
    steps: deque[Step]
    death: Death | None
    sent: Outgoing | Copy | None = None  # The append under way.
    append: AppendSpan | None = None  # Its span, where its run was traced.


@dataclass(eq=False, slots=True)
class Errand:
    """One ledger call."""

    note: Note
    settling: list[Settling]
    owner: Owner
    ledger: Ledger

    def __call__(self) -> Set[str | bytes]:
        """Make the call. The answer: identities that are `done` instead, or keys now open."""
        deaths = [each.death for each in self.settling if each.death is not None]
        entries = [each.entry for each in self.settling]
        match self.note:
            case Note.DYING:
                return self.ledger.dying(self.owner, deaths)
            case Note.DEAD:
                self.ledger.dead(self.owner, deaths)
            case Note.HELD:
                self.ledger.held(self.owner, [_held_job(entry) for entry in entries])
            case Note.UNHELD:
                self.ledger.unheld(self.owner, [entry.hop.origin.offset for entry in entries])
            case Note.END:
                ends = [(key_of(entry), entry.hop.replay) for entry in entries]
                return {key for key, r in ends if self.ledger.end_replay(self.owner, key, r)}
            case _:
                assert_never(self.note)
        return set()


class Notes:
    """The notes of all assignments on their way to the ledger."""

    def __init__(self, *, pool: Pool, ledger: Ledger, clock: Clock) -> None:
        self._pool = pool
        self._ledger = ledger
        self._clock = clock
        self._gathered: dict[tuple[Assignment, Note], list[Settling]] = {}
        self._again: list[tuple[float, int, Errand]] = []  # A heap: (when, order, errand).
        self._order = itertools.count()
        self._under_way: set[tuple[Assignment, Note]] = set()

    def add(self, note: Note, settling: Settling) -> None:
        """Tell the ledger this, with the next `flush`."""
        self._gathered.setdefault((settling.assignment, note), []).append(settling)

    def done(self, errand: Errand) -> None:
        """Note that an errand has ended: the next of its kind may start."""
        self._under_way.discard((errand.settling[0].assignment, errand.note))

    def again(self, errand: Errand) -> None:
        """Do an errand once more, later: the ledger is away."""
        self._under_way.add((errand.settling[0].assignment, errand.note))
        at = self._clock.monotonic() + AGAIN_SECONDS
        heapq.heappush(self._again, (at, next(self._order), errand))

    def flush(self) -> None:
        """Start the errands that the turn has gathered and those that are due again."""
        for key in [each for each in self._gathered if each not in self._under_way]:
            settling = self._gathered.pop(key)
            assignment, note = key
            if not assignment.dropped:
                self._under_way.add(key)
                errand = Errand(note, settling, settling[0].owner, self._ledger)
                self._pool.errand(errand, errand)
        now = self._clock.monotonic()
        while self._again and self._again[0][0] <= now:
            errand = heapq.heappop(self._again)[2]
            self._pool.errand(errand, errand)


def death_of(entry: Entry, failure: Failure, *, closes: bool) -> Death:
    """What the ledger is to know of a job that dies."""
    job, origin = entry.job or headers.nameless_job(entry.hop), entry.hop.origin
    return Death(
        identity=job.identity(job.job_type or ""),
        job_id=job.job_id,
        job_type=job_type_of(entry),
        origin=origin,
        attempt=entry.attempt,
        key=entry.record.key,
        failure=failure,
        replay=entry.hop.replay,
        closes=closes and entry.record.key is not None,
    )


def job_type_of(entry: Entry) -> str:
    """Name an entry's job type as far as its headers tell."""
    if entry.job is not None and entry.job.job_type is not None:
        return entry.job.job_type
    return "unknown"


def key_of(entry: Entry) -> bytes:
    """The key of an entry that has one: what has none is never held."""
    assert entry.record.key is not None
    return entry.record.key


def _held_job(entry: Entry) -> HeldJob:
    job, offset = entry.job, entry.hop.origin.offset
    assert job is not None
    return HeldJob(job.identity(job.job_type or ""), job.job_id, key_of(entry), offset)
