"""What operators do to dead letters, as the ledger keeps it: an audit trail, and closed keys.

An operation's number is larger than every earlier one: it is the number of its replay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from processor.engine.ports import LedgerRow
from processor.model import Position

Action = Literal["replay", "release", "purge"]
State = Literal["begun", "ended", "broken off"]

PURGED_REPLAY = 2**62  # No replay is newer than a purge.


@dataclass(frozen=True, slots=True)
class ClosedKey:
    """A key that is held since the job with this origin offset died. `at` is seconds since epoch.

    `held`: how many jobs are held behind it. `replay`: the newest replay that must not pass.
    """

    partition: int
    key: bytes
    offset: int
    replay: int
    at: float
    held: int


@dataclass(frozen=True, slots=True)
class Operation:
    """One entry of the audit trail. Times are seconds since the epoch; `ended_at` 0: it has not."""

    number: int
    action: str
    group: str
    topic: str
    who: str
    filters: Mapping[str, str]
    state: str
    jobs: int
    keys: int
    at: float
    ended_at: float


@dataclass(frozen=True, slots=True)
class PurgedJob:
    """A job that is given up for good."""

    identity: str
    job_id: str
    job_type: str
    key: bytes | None
    attempt: int
    origin: Position


class OperatorLedger(Protocol):
    """The ledger as operators use it: no partition's owner, so it never writes an effect."""

    def lookup(self, identities: Sequence[str]) -> dict[str, LedgerRow]:
        """The rows that exist."""
        ...

    def closed_keys(self, group: str, topic: str) -> list[ClosedKey]:
        """Every closed key of a topic."""
        ...

    def begin(
        self, action: Action, *, group: str, topic: str, who: str, filters: Mapping[str, str]
    ) -> int:
        """Add an operation to the audit trail. Returns its number."""
        ...

    def end(self, number: int, state: State, *, jobs: int, keys: int) -> None:
        """Note how an operation ended and how much it did."""
        ...

    def operations(self, count_max: int) -> list[Operation]:
        """The audit trail, the newest first."""
        ...

    def purge(self, group: str, jobs: Sequence[PurgedJob]) -> None:
        """Give these jobs up for good: none runs again, whoever replays it. `done` stays done."""
        ...

    def close(self) -> None:
        """Release what is held. Twice does no harm."""
        ...
