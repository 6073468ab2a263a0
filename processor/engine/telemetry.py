"""What the engine tells about itself while it runs, and what it answers when asked for its health.

The engine calls a `Telemetry`; this one keeps quiet, an adapter counts. Calls are cheap, never
block and never raise, and carry counts and lists: one call for a slice, not one for each job.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["done", "retried", "parked", "held", "dead", "repeated"]
Change = Literal["assigned", "revoked", "lost"]
CommitResult = Literal["done", "refused", "failed"]
Outage = Literal["broker", "registry", "store", "keys", "sink"]


class Telemetry:
    """Hears what happens and does nothing. Override what is to be counted."""

    def consumed(self, topic: str, count: int) -> None:
        """Records came in from a partition of the topic."""

    def settled(self, topic: str, job_type: str, outcome: Outcome, count: int = 1) -> None:
        """Records reached a final or parked state. `repeated`: the ledger knew the job already."""

    def attempts_failed(self, topic: str, error_class: str, count: int = 1) -> None:
        """Attempts ended in a failure of this class, whatever became of the job."""

    def idempotency_conflict(self, job_type: str) -> None:
        """A job was not run: another one of its idempotency key, with another payload, was."""

    def ended(self, topic: str, attempts: int, count: int = 1) -> None:
        """Jobs were done, or died, after so many attempts."""

    def ran(self, topic: str, job_type: str, seconds: Sequence[float]) -> None:
        """Handlers ran for so long, one number for each attempt."""

    def waited(self, topic: str, seconds: float) -> None:
        """The first record of a slice waited so long between being due and being started."""

    def in_flight(self, topic: str, count: int) -> None:
        """So many jobs of the main topic are with a handler now."""

    def lane_records(self, topic: str, count: int) -> None:
        """So many records of this main topic or tier are in lanes now, running ones included."""

    def lane_bytes(self, topic: str, count: int) -> None:
        """Records of this main topic or tier in lanes take about so many bytes."""

    def lag(self, topic: str, records: int) -> None:
        """So many records of this main topic or tier are not settled, fetched or not."""

    def runnable_lag(self, topic: str, records: int) -> None:
        """So many records of the main topic and its tiers could run (engine/backlog.py)."""

    def oldest(self, topic: str, seconds: float) -> None:
        """The oldest job on the main topic that is not settled came so long ago; 0: none."""

    def in_outage(self, topic: str, partitions: int) -> None:
        """So many partitions of the main topic are paused, since what they need is away."""

    def partitions_owned(self, topic: str, count: int) -> None:
        """So many partitions of the main topic are ours now."""

    def partitions_paused(self, topic: str, count: int) -> None:
        """So many partitions of this main topic or tier are paused now."""

    def parked(self, topic: str, *, records: int, keys: int, oldest_seconds: float) -> None:
        """So many copies, of so many keys, wait in the main topic's tiers, fetched or not.

        `oldest_seconds`: how long ago the oldest of their jobs came to the main topic; 0: none.
        """

    def held_keys(self, topic: str, count: int) -> None:
        """So many keys of the main topic are closed since a job of theirs died."""

    def partition_stalled(self, topic: str, seconds: float) -> None:
        """The topic's slowest partition has had work and made no progress for so long; 0: none."""

    def committed(self, result: CommitResult, count: int = 1) -> None:
        """The group's coordinator answered a commit, or did not."""

    def commit_age(self, seconds: float | None) -> None:
        """The oldest settled record that is not committed yet has waited about so long by now.

        None: all is committed.
        """

    def rebalanced(self, change: Change) -> None:
        """Partitions came or went."""

    def drained(self, seconds: float) -> None:
        """A revoke or a stop waited so long for running jobs."""

    def outage(self, what: Outage) -> None:
        """Something the engine needs was found away: what needs it waits."""

    def ledger_took(self, call: str, seconds: float) -> None:
        """A call of the ledger took so long, one that failed included. From any thread."""

    def sink_took(self, sink: str, seconds: float) -> None:
        """A sink took so long to write a slice's results. From any thread."""

    def produce_failed(self, topic: str, count: int = 1) -> None:
        """An append failed: the partition is given up and taken again."""

    def late_results(self, topic: str, count: int = 1) -> None:
        """Results came after their assignment had ended, and were dropped."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold for the worker to be healthy, and what was seen of it."""

    name: str
    ok: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """What a probe is told.

    A failed check asks for a restart, so an outage of something else is not one: it only makes
    the worker not `ready`. With no check at all there is nothing to doubt.
    """

    checks: tuple[Check, ...] = ()
    ready: bool = True

    @property
    def ok(self) -> bool:
        """Whether every check holds."""
        return all(check.ok for check in self.checks)
