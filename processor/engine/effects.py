"""Write what runs left behind: named sinks, then the ledger's rows with all that is transactional.

The order of one write, for a slice or for one job:

1. Each plain sink, in the order in which a job names its sinks, gets the effects that are its own.
   They are written under the job's own names, so twice does no harm.
2. One ledger transaction: the owner is checked, `done` rows are added, and each transactional sink
   gets the effects whose rows are new.

A crash before 2 repeats the job, and its plain sinks overwrite or keep what is there; a crash after
2 finds the row. So a reader of a plain sink may see a result whose row is not there yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from processor.core.lane import Entry
from processor.engine.job import JobSpec
from processor.engine.outcomes import written_outcome
from processor.engine.ports import (
    HandlerTransaction,
    Ledger,
    Owner,
    Sink,
    TransactionalSink,
    row_among,
)
from processor.engine.slices import Outcome
from processor.model import Effect

Write = Callable[[Any, Sequence[Effect]], None]


class Unwritten(NamedTuple):
    """A run that succeeded and is not written down yet."""

    entry: Entry
    effect: Effect
    spec: JobSpec
    seconds: float  # How long it ran.


def write(
    ledger: Ledger, owner: Owner, unwritten: Sequence[Unwritten]
) -> list[tuple[Entry, Outcome]]:
    """Write them all, and tell what became of each. PermanentError: a result is refused for good.

    OutageError: some may be written, and writing all again is safe. OwnershipLost: nothing was, but
    by plain sinks.
    """
    write_plain(unwritten)
    effects = [each.effect for each in unwritten]
    new = ledger.record(owner, effects, transactional(unwritten))
    return outcomes(ledger, unwritten, new)


def write_in(
    transaction: HandlerTransaction, ledger: Ledger, owner: Owner, one: Unwritten
) -> Outcome:
    """Write one job's effect in the transaction that its handler has written in, and commit.

    Where the job has ended already, nothing is: the caller undoes what the handler wrote.
    """
    write_plain([one])
    new = transaction.record(owner, [one.effect], transactional([one]))
    if new:
        transaction.commit()
    ((_, outcome),) = outcomes(ledger, [one], new)
    return outcome


def write_plain(unwritten: Sequence[Unwritten]) -> None:
    """Give each plain sink its effects at once."""
    for sink, effects in _by_sink(unwritten):
        if not isinstance(sink, TransactionalSink):
            sink.write(effects)


def transactional(unwritten: Sequence[Unwritten]) -> Write | None:
    """What is to be called with the ledger's transaction and the effects that are new."""
    chosen = [
        (sink, {effect.identity for effect in effects})
        for sink, effects in _by_sink(unwritten)
        if isinstance(sink, TransactionalSink)
    ]
    if not chosen:
        return None

    def write_all(transaction: Any, effects: Sequence[Effect]) -> None:
        for sink, identities in chosen:
            if mine := [effect for effect in effects if effect.identity in identities]:
                sink.write_in(transaction, mine)

    return write_all


def outcomes(
    ledger: Ledger, unwritten: Sequence[Unwritten], new: set[str]
) -> list[tuple[Entry, Outcome]]:
    """Tell what became of each; of one that is not new the ledger's row decides."""
    others = [each.effect for each in unwritten if each.effect.identity not in new]
    rows = ledger.lookup([name for each in others for name in each.identities]) if others else {}
    return [
        (entry, written_outcome(row_among(rows, effect.identities), entry, effect, seconds))
        for entry, effect, _, seconds in unwritten
    ]


def _by_sink(
    unwritten: Iterable[Unwritten],
) -> list[tuple[Sink | TransactionalSink, list[Effect]]]:
    """Each sink with its effects, in order; a sink comes where the first job that names it has it.

    Of two sinks of one job the first one comes first: where jobs of several types share sinks in
    contrary orders, the order of the first job counts.
    """
    found: dict[int, tuple[Sink | TransactionalSink, list[Effect]]] = {}
    for each in unwritten:
        for sink in each.spec.sinks:
            found.setdefault(id(sink), (sink, []))[1].append(each.effect)
    return list(found.values())
