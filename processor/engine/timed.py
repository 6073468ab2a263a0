"""A ledger and sinks whose calls are timed, failed ones included: slowness is seen before failure.

They stand before the real ones, so that nothing else needs to know of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from processor.core.holds import Closed
from processor.engine.job import JobSpec
from processor.engine.ports import (
    Checkpoint,
    Clock,
    Death,
    HeldJob,
    Ledger,
    LedgerRow,
    Owner,
    Sink,
    TransactionalSink,
)
from processor.engine.telemetry import Telemetry
from processor.model import Effect


class TimedLedger:
    """Passes every call on to another ledger (port: `engine.ports.Ledger`), and times it."""

    def __init__(self, ledger: Ledger, *, clock: Clock, telemetry: Telemetry) -> None:
        self._ledger = ledger
        self._clock = clock
        self._telemetry = telemetry

    @property
    def remembers(self) -> bool:
        """As the other ledger does."""
        return self._ledger.remembers

    def raise_owner(self, owner: Owner) -> None:
        """Pass it on."""
        with self._timed("raise_owner"):
            self._ledger.raise_owner(owner)

    def lookup(self, identities: Sequence[str]) -> dict[str, LedgerRow]:
        """Pass it on."""
        with self._timed("lookup"):
            return self._ledger.lookup(identities)

    def record(
        self,
        owner: Owner,
        effects: Sequence[Effect],
        write: Callable[[Any, Sequence[Effect]], None] | None = None,
    ) -> set[str]:
        """Pass it on; what transactional sinks take is part of it."""
        with self._timed("record"):
            return self._ledger.record(owner, effects, write)

    def dying(self, owner: Owner, deaths: Sequence[Death]) -> set[str]:
        """Pass it on."""
        with self._timed("dying"):
            return self._ledger.dying(owner, deaths)

    def dead(self, owner: Owner, deaths: Sequence[Death]) -> None:
        """Pass it on."""
        with self._timed("dead"):
            self._ledger.dead(owner, deaths)

    def checkpoint(self, owner: Owner, checkpoint: Checkpoint) -> None:
        """Pass it on."""
        with self._timed("checkpoint"):
            self._ledger.checkpoint(owner, checkpoint)

    def holds(self, owner: Owner) -> dict[bytes, Closed]:
        """Pass it on."""
        with self._timed("holds"):
            return self._ledger.holds(owner)

    def held(self, owner: Owner, jobs: Sequence[HeldJob]) -> None:
        """Pass it on."""
        with self._timed("held"):
            self._ledger.held(owner, jobs)

    def unheld(self, owner: Owner, offsets: Sequence[int]) -> None:
        """Pass it on."""
        with self._timed("unheld"):
            self._ledger.unheld(owner, offsets)

    def end_replay(self, owner: Owner, key: bytes, replay: int) -> bool:
        """Pass it on."""
        with self._timed("end_replay"):
            return self._ledger.end_replay(owner, key, replay)

    def close(self) -> None:
        """Close the other."""
        self._ledger.close()

    @contextmanager
    def _timed(self, call: str) -> Iterator[None]:
        started = self._clock.monotonic()
        try:
            yield
        finally:
            self._telemetry.ledger_took(call, self._clock.monotonic() - started)


class _TimedWrites:
    """What tells how long a sink's writes take, under its class's name."""

    def __init__(self, sink: Any, clock: Clock, telemetry: Telemetry) -> None:
        self._sink = sink
        self._clock = clock
        self._telemetry = telemetry

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started = self._clock.monotonic()
        try:
            yield
        finally:
            seconds = self._clock.monotonic() - started
            self._telemetry.sink_took(type(self._sink).__name__, seconds)


class _TimedSink(_TimedWrites):
    def write(self, effects: Sequence[Effect]) -> Sequence[str]:
        with self._timed():
            written: Sequence[str] = self._sink.write(effects)
            return written


class _TimedTransactionalSink(_TimedWrites):
    def write_in(self, transaction: Any, effects: Sequence[Effect]) -> None:
        with self._timed():
            self._sink.write_in(transaction, effects)


def name_of(sink: Sink | TransactionalSink) -> str:
    """What a sink is called in metrics and traces: its class's name."""
    return type(sink._sink if isinstance(sink, _TimedWrites) else sink).__name__


def timed_jobs(
    jobs: Mapping[str, JobSpec], *, clock: Clock, telemetry: Telemetry
) -> dict[str, JobSpec]:
    """Have the sinks of all jobs timed. A sink that several jobs share stays one."""
    timed: dict[int, Sink | TransactionalSink] = {}

    def one(sink: Sink | TransactionalSink) -> Sink | TransactionalSink:
        if id(sink) not in timed:
            if isinstance(sink, TransactionalSink):
                timed[id(sink)] = _TimedTransactionalSink(sink, clock, telemetry)
            else:
                timed[id(sink)] = _TimedSink(sink, clock, telemetry)
        return timed[id(sink)]

    return {
        name: replace(spec, sinks=tuple(one(sink) for sink in spec.sinks))
        for name, spec in jobs.items()
    }
