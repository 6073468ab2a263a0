"""Write what runs left behind: named sinks, then the ledger's rows with all that is transactional.

The order of one write, for a slice or for one job:

1. Each plain sink, in the order in which a job names its sinks, gets the effects that are its own.
   They are written under the job's own names, so twice does no harm.
2. One ledger transaction: the owner is checked, `done` rows are added, and each transactional sink
   gets the effects whose rows are new.

What a sink raises is told by `fault_of`: what it cannot take, what is away, or a failed run.

A crash before 2 repeats the job, and its plain sinks overwrite or keep what is there; a crash after
2 finds the row. So a reader of a plain sink may see a result whose row is not there yet.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Self

from processor.contracts.masking import NOTHING, Plaintexts, hiding
from processor.contracts.protected import Opened
from processor.core.lane import Entry
from processor.engine.job import JobSpec
from processor.engine.outcomes import failure_of, key_text, payload_hash, written_outcome
from processor.engine.ports import (
    HandlerTransaction,
    Ledger,
    Owner,
    OwnershipLost,
    Sink,
    TransactionalSink,
    row_among,
)
from processor.engine.slices import Outcome
from processor.engine.timed import name_of
from processor.engine.tracing import Tracing
from processor.errors import OutageError, PermanentError, Retry, SinkUnavailable
from processor.model import Effect, JobHeaders

WriteIn = Callable[[Any, Sequence[Effect]], None]


class SinkFailed(Exception):
    """A sink raised what says neither that the result is refused nor that anything is away.

    `error` is what it raised: the run has failed, as if its handler had raised it.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(type(error).__name__)  # Its own words may fail, too.
        self.error = error


class Unwritten(NamedTuple):
    """A run that succeeded and is not written down yet."""

    entry: Entry
    effect: Effect
    spec: JobSpec
    seconds: float  # How long it ran.
    opened: Opened | None = None  # Of a payload with tagged fields.


def write(
    ledger: Ledger,
    owner: Owner,
    unwritten: Sequence[Unwritten],
    tracing: Tracing | None = None,
) -> list[tuple[Entry, Outcome]]:
    """Write them all, and tell what became of each. PermanentError: a result is refused for good.

    OutageError: some may be written, and writing all again is safe. OwnershipLost: nothing was, but
    by plain sinks. SinkFailed: a sink raised something else.
    """
    with hiding(hidden_of(unwritten)):
        return _write(ledger, owner, unwritten, tracing)


def _write(
    ledger: Ledger, owner: Owner, unwritten: Sequence[Unwritten], tracing: Tracing | None
) -> list[tuple[Entry, Outcome]]:
    write_plain(unwritten, tracing)
    effects = [each.effect for each in unwritten]
    with _Sinks(unwritten, tracing) as sinks:
        given = sinks.write if sinks.any else None
        if tracing is None:
            new = ledger.record(owner, effects, given)
        else:
            with tracing.write("ledger", [each.entry.span for each in unwritten]):
                new = ledger.record(owner, effects, given)
    return outcomes(ledger, unwritten, new)


def write_in(
    transaction: HandlerTransaction,
    ledger: Ledger,
    owner: Owner,
    one: Unwritten,
    tracing: Tracing | None = None,
) -> Outcome:
    """Write one job's effect in the transaction that its handler has written in, and commit.

    Where the job has ended already, nothing is: the caller undoes what the handler wrote.
    """
    with hiding(hidden_of([one])):
        return _write_in(transaction, ledger, owner, one, tracing)


def hidden_of(unwritten: Iterable[Unwritten]) -> Plaintexts:
    """What of the payloads of some runs must not be told."""
    return sum((each.opened.plaintexts for each in unwritten if each.opened), NOTHING)


def _write_in(
    transaction: HandlerTransaction,
    ledger: Ledger,
    owner: Owner,
    one: Unwritten,
    tracing: Tracing | None,
) -> Outcome:
    write_plain([one], tracing)
    with _Sinks([one], tracing) as sinks:
        given = sinks.write if sinks.any else None
        if tracing is None:
            new = _commit(transaction, owner, one, given)
        else:
            with tracing.write("ledger", [one.entry.span]):
                new = _commit(transaction, owner, one, given)
    ((_, outcome),) = outcomes(ledger, [one], new)
    return outcome


def _commit(
    transaction: HandlerTransaction, owner: Owner, one: Unwritten, write: WriteIn | None
) -> set[str]:
    new = transaction.record(owner, [one.effect], write)
    if new:
        transaction.commit()
    return new


def write_plain(unwritten: Sequence[Unwritten], tracing: Tracing | None = None) -> None:
    """Give each plain sink its effects at once."""
    for sink, mine in _by_sink(unwritten):
        effects = [each.effect for each in mine]
        if not isinstance(sink, TransactionalSink):
            try:
                if tracing is None:
                    sink.write(effects)
                else:
                    with tracing.write(name_of(sink), [each.entry.span for each in mine]):
                        sink.write(effects)
            except Exception as error:
                raise fault_of(error) from error


class _Sinks:
    """The transactional sinks of some runs, and what one of them raised that the ledger let pass.

    What its database raises the ledger tells; whatever else a sink raises is told here.
    """

    def __init__(self, unwritten: Sequence[Unwritten], tracing: Tracing | None = None) -> None:
        self._chosen = [
            (sink, {each.effect.identity: each.entry for each in mine})
            for sink, mine in _by_sink(unwritten)
            if isinstance(sink, TransactionalSink)
        ]
        self._tracing = tracing
        self._raised: Exception | None = None

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return bool(self._chosen)

    def write(self, transaction: Any, effects: Sequence[Effect]) -> None:
        """Give each sink those of the effects that are its own."""
        for sink, entries in self._chosen:
            if mine := [effect for effect in effects if effect.identity in entries]:
                try:
                    if self._tracing is None:
                        sink.write_in(transaction, mine)
                    else:
                        spans = [entries[each.identity].span for each in mine]
                        with self._tracing.write(name_of(sink), spans):
                            sink.write_in(transaction, mine)
                except Exception as error:
                    self._raised = error
                    raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None and error is self._raised:
            raise fault_of(self._raised) from error


def fault_of(error: Exception) -> Exception:
    """Tell what a sink has raised, as far as it is no word of ours yet.

    PermanentError: the result is nothing that can be written so. SinkUnavailable: the other side
    does not answer. SinkFailed: anything else.
    """
    match error:
        case PermanentError() | Retry() | OutageError() | OwnershipLost():
            return error
        case TypeError() | ValueError():  # A UnicodeError is one.
            return PermanentError(f"the sink cannot take the result: {_said(error)}")
        case OSError():
            return SinkUnavailable(f"the sink does not answer: {_said(error)}")
        case _:
            return SinkFailed(error)


def _said(error: Exception) -> str:
    failure = failure_of(error)
    return f"{failure.error_class}: {failure.message}"


def outcomes(
    ledger: Ledger, unwritten: Sequence[Unwritten], new: set[str]
) -> list[tuple[Entry, Outcome]]:
    """Tell what became of each; of one that is not new the ledger's row decides."""
    others = [each.effect for each in unwritten if each.effect.identity not in new]
    rows = ledger.lookup([name for each in others for name in each.identities]) if others else {}
    return [
        (entry, written_outcome(row_among(rows, effect.identities), entry, effect, seconds, opened))
        for entry, effect, _, seconds, opened in unwritten
    ]


def _by_sink(
    unwritten: Iterable[Unwritten],
) -> list[tuple[Sink | TransactionalSink, list[Unwritten]]]:
    """Each sink with its own, in order; a sink comes where the first job that names it has it.

    Of two sinks of one job the first one comes first: where jobs of several types share sinks in
    contrary orders, the order of the first job counts.
    """
    found: dict[int, tuple[Sink | TransactionalSink, list[Unwritten]]] = {}
    for each in unwritten:
        for sink in each.spec.sinks:
            found.setdefault(id(sink), (sink, []))[1].append(each)
    return list(found.values())


def effect_of(entry: Entry, job: JobHeaders, result: Any, opened: Opened | None = None) -> Effect:
    """What a job leaves behind that has run well."""
    assert job.job_type is not None
    masked = None
    if opened is not None and result is not None:
        told = opened.plaintexts.mask_within(result)
        masked = None if told == result else json.dumps(told)
    return Effect(
        job_id=job.job_id,
        job_type=job.job_type,
        identity=job.identity(job.job_type),
        origin=entry.hop.origin,
        attempt=entry.attempt + 1,
        key=key_text(entry.record.key),
        result=result,
        replay=entry.hop.replay,
        payload_hash=payload_hash(job, entry.record.value, opened),
        masked=masked,
    )
