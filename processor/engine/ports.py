"""What the engine needs of the world. Adapters and sinks implement it; the simulator fakes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from processor.core.holds import Closed
from processor.errors import ProcessorError
from processor.model import Batch, Effect, Failure, Outgoing, Partition, Position, Record


class Clock(Protocol):
    """Time, as an argument of the engine."""

    def now(self) -> float:
        """Seconds since the epoch: what not-before and deadlines are compared with."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back: timers and timeouts."""
        ...


class Committed(NamedTuple):
    """A group's committed position of one partition: the next offset to read, and a note."""

    offset: int | None
    metadata: str


class CommitRefused(ProcessorError):
    """The group's coordinator refused a commit: this member may no longer own the partition."""


class Delivery(NamedTuple):
    """The answer to one `send`: the offset it landed at, or why it failed (outcome unknown)."""

    token: Any
    offset: int
    error: str | None


class Rebalance(Protocol):
    """What a log tells of its ownership, from inside `poll` or `close`."""

    def assigned(self, partitions: Sequence[Partition]) -> None:
        """These main partitions are ours from now on. Nothing of them has been read."""
        ...

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """These are about to be another's. They are still ours: commits are accepted."""
        ...

    def lost(self, partitions: Sequence[Partition]) -> None:
        """These may already be another's. Commit nothing."""
        ...


class Log(Protocol):
    """One member of a consumer group, and its producer. One thread owns it."""

    def subscribe(self, topics: Sequence[str], rebalance: Rebalance) -> None:
        """Join the group for these main topics."""
        ...

    def poll(self, records_max: int, timeout_seconds: float) -> list[Batch]:
        """Messages in offset order for each partition; waits for the first one only.

        Tells of ownership meanwhile; none of the records was read before its partition was
        unassigned.
        """
        ...

    def committed(self, partitions: Sequence[Partition]) -> dict[Partition, Committed]:
        """What the group has committed of each partition."""
        ...

    def bounds(
        self, partitions: Sequence[Partition], timeout_seconds: float = 15.0
    ) -> dict[Partition, tuple[int, int]]:
        """For each: the first offset that can still be read, and the end.

        Raises BrokerUnavailable: one of them was not told in time.
        """
        ...

    def ends(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """The ends of these as they were a moment ago, as far as they are known. Does not wait."""
        ...

    def assign(self, starts: Mapping[Partition, int]) -> None:
        """Begin to read these partitions at these offsets."""
        ...

    def unassign(self, partitions: Sequence[Partition]) -> None:
        """Stop reading these partitions."""
        ...

    def pause(self, partitions: Sequence[Partition]) -> None:
        """Stop fetching for now."""
        ...

    def resume(self, partitions: Sequence[Partition]) -> None:
        """Fetch again."""
        ...

    def commit(self, offsets: Mapping[Partition, Committed]) -> None:
        """Commit and wait for the answer. Raises CommitRefused, BrokerUnavailable."""
        ...

    def send(self, outgoing: Outgoing, token: Any) -> None:
        """Append bytes; the answer comes through `deliveries` with the token."""
        ...

    def append(self, outgoing: Sequence[Outgoing]) -> list[int]:
        """Append and wait for all answers: the offsets. BrokerUnavailable: the outcome is unknown.

        Answers to `send` that come meanwhile are kept for `deliveries`.
        """
        ...

    def scan(self, ranges: Mapping[Partition, tuple[int, int]]) -> Iterator[Record]:
        """Read each partition from an offset to before another, beside what `poll` reads.

        Raises BrokerUnavailable.
        """
        ...

    def deliveries(self) -> list[Delivery]:
        """The answers that have come since the last call. Does not wait."""
        ...

    def close(self) -> None:
        """Leave the group. Tells of `revoked`, but commit before: the group may be left by then."""
        ...


class Owner(NamedTuple):
    """Who writes: one ownership of one main partition by one group."""

    group: str
    topic: str
    partition: int
    epoch: int


class OwnershipLost(ProcessorError):
    """A newer owner of the partition exists: nothing was written, and nothing may be."""


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """What the ledger remembers of one identity: an effect's, or a job's own (`own_identity`).

    `state`: `running` (it has told how far it is), `done`, `dying`, `dead` or `purged`.
    """

    identity: str
    job_id: str
    state: str
    result: str | None
    failure: Failure | None
    attempt: int = 0  # Runs that led to it.
    replay: int = 0  # The operator's replay that it was run for.
    payload_hash: str | None = None
    progress: str | None = None  # JSON: what the job said with `ctx.checkpoint`.


def row_among(rows: Mapping[str, LedgerRow], identities: Iterable[str]) -> LedgerRow | None:
    """The row that counts of those that tell of one job: its effect's, else its own."""
    return next((rows[each] for each in identities if each in rows), None)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a job has come: what its next run is given. `progress` is JSON."""

    identity: str
    job_id: str
    job_type: str
    origin: Position
    attempt: int
    progress: str
    replay: int = 0


@dataclass(frozen=True, slots=True)
class Death:
    """A job about to go to the dead-letter topic. `closes`: the rest of its key is held for it."""

    identity: str
    job_id: str
    job_type: str
    origin: Position
    attempt: int
    key: bytes | None
    failure: Failure
    replay: int = 0
    closes: bool = False


@dataclass(frozen=True, slots=True)
class HeldJob:
    """A job about to go to the dead-letter topic unattempted, behind a dead one of its key."""

    identity: str
    job_id: str
    key: bytes
    offset: int  # Of its origin.


class Ledger(Protocol):
    """The durable memory of settled jobs. Calls raise SinkUnavailable, OwnershipLost."""

    @property
    def remembers(self) -> bool:
        """Whether it is one at all. Where not, the dead-letter topic alone tells the dead."""
        ...

    def raise_owner(self, owner: Owner) -> None:
        """Make this epoch the partition's newest; refused when a newer one exists."""
        ...

    def lookup(self, identities: Sequence[str]) -> dict[str, LedgerRow]:
        """The rows that exist."""
        ...

    def record(
        self,
        owner: Owner,
        effects: Sequence[Effect],
        write: Callable[[Any, Sequence[Effect]], None] | None = None,
    ) -> set[str]:
        """Add a `done` row for each effect, atomically, and return the identities that were new.

        `write` is called with the transaction and the new effects: what it writes through the
        transaction commits with the rows, or not at all.
        """
        ...

    def dying(self, owner: Owner, deaths: Sequence[Death]) -> set[str]:
        """Note that these jobs are about to die; returns those that are already `done` instead.

        Each has a row of its own: a job with the same idempotency key may die beside it.
        A death that `closes` its key does so in the same transaction (core/holds.py).
        """
        ...

    def checkpoint(self, owner: Owner, checkpoint: Checkpoint) -> None:
        """Note how far a job has come, as a row that is `running`; one that has ended is left."""
        ...

    def holds(self, owner: Owner) -> dict[bytes, Closed]:
        """The closed keys of the owner's partition."""
        ...

    def held(self, owner: Owner, jobs: Sequence[HeldJob]) -> None:
        """Note that these jobs are held behind a dead one. Those that are `done` are not."""
        ...

    def unheld(self, owner: Owner, offsets: Sequence[int]) -> None:
        """Note that the jobs with these origin offsets have been run after all."""
        ...

    def end_replay(self, owner: Owner, key: bytes, replay: int) -> bool:
        """Open a key behind its replay, unless a job is still held or has died in it.

        Returns whether the key is open now.
        """
        ...

    def dead(self, owner: Owner, deaths: Sequence[Death]) -> None:
        """Note that the dead letters of these jobs were acknowledged."""
        ...

    def close(self) -> None:
        """Release what is held. Twice does no harm."""
        ...


class Sink(Protocol):
    """Writes results under deterministic names before the ledger row; twice does no harm."""

    def write(self, effects: Sequence[Effect]) -> Sequence[str]:
        """Write each effect's result once; returns where each one is."""
        ...


@runtime_checkable
class TransactionalSink(Protocol):
    """Writes results inside the ledger's own transaction."""

    def write_in(self, transaction: Any, effects: Sequence[Effect]) -> None:
        """Write each effect's result through the transaction."""
        ...


@runtime_checkable
class Prepared(Protocol):
    """A transactional sink that has a table."""

    def prepare(self, transaction: Any) -> None:
        """Create the table, or check that it takes the results. UsageError: it does not.

        It may be the transaction of a database of another kind.
        """
        ...


@runtime_checkable
class PreparingLedger(Protocol):
    """A ledger with tables of sinks beside its own."""

    def prepare(self, sinks: Iterable[Prepared]) -> None:
        """Have each prepare its table."""
        ...


class HandlerTransaction(Protocol):
    """A transaction of the ledger's database that a handler writes in."""

    @property
    def connection(self) -> Any:
        """What the handler is given. It may neither commit nor roll back."""
        ...

    @property
    def failed(self) -> bool:
        """Whether a statement in it has failed, so that it can only be undone."""
        ...

    def broken_by(self, error: BaseException) -> bool:
        """Whether what a handler met is the database's fault: then no attempt counts."""
        ...

    def record(
        self,
        owner: Owner,
        effects: Sequence[Effect],
        write: Callable[[Any, Sequence[Effect]], None] | None = None,
    ) -> set[str]:
        """Do as `Ledger.record`, inside this transaction."""
        ...

    def commit(self) -> None:
        """Make all of it durable. SinkUnavailable: it may or may not be."""
        ...

    def rollback(self) -> None:
        """Undo it. Does nothing after a commit."""
        ...


@runtime_checkable
class HandlerTransactions(Protocol):
    """A ledger whose database handlers may write in."""

    def begin_handler(self, idle_seconds_max: float) -> HandlerTransaction:
        """Open a transaction for one run, which may think for so long between statements."""
        ...
