"""Call a handler: give it its context, and tell what it returned or why it failed."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from processor.contracts.claims import ObjectStore
from processor.contracts.masking import NOTHING, Plaintexts, hiding
from processor.core.lane import Entry
from processor.engine.batch import Ready, results_of
from processor.engine.context import JobCancelled, JobContext
from processor.engine.job import JobSpec
from processor.engine.outcomes import failure_of, key_text, past_deadline, too_late
from processor.engine.ports import (
    Checkpoint,
    Clock,
    HandlerTransaction,
    HandlerTransactions,
    Ledger,
    OwnershipLost,
)
from processor.engine.slices import Running, Slice
from processor.engine.tracing import Tracing
from processor.errors import OutageError, SinkUnavailable, UsageError
from processor.model import Failure, JobHeaders


class Abandoned(Exception):
    """The loop gave this run up: the thread must write nothing more."""


@dataclass(frozen=True, slots=True)
class Called:
    """What a handler returned, and the transaction that it has written in, if it asked for one."""

    result: Any
    transaction: HandlerTransaction | None


@dataclass(frozen=True, slots=True)
class Awaiting:
    """A handler's coroutine, and the context by which its job may be told to stop."""

    coroutine: Coroutine[Any, Any, Any]
    context: JobContext


class Caller:
    """Calls handlers on whatever thread asks. Holds no state of a run between calls."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        objects: ObjectStore,
        clock: Clock,
        timeout_seconds: float,
        bind_log: Callable[[Entry, JobHeaders, int], Any],
        tracing: Tracing | None = None,
    ) -> None:
        self._ledger = ledger
        self._objects = objects
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._bind_log = bind_log
        self._tracing = tracing

    def call(
        self, ready: Ready, work: Slice, *, write_before: Callable[[], bool]
    ) -> Generator[Awaiting, Any, Called | Failure]:
        """Call the handler: what it returned, or why it failed. The only place that catches all.

        The coroutine of an async handler is yielded, to be awaited by whoever runs the slice.
        `write_before` writes what ran before in the slice, which must not come after what the
        handler commits. JobCancelled: the job comes again, since its handler obeyed or what ran
        before could not be written. SinkUnavailable: its transaction could not be opened, or was
        broken off; no attempt counts.
        """
        spec = ready.spec
        run = _Run(self._ledger, ready, work, write_before, self._timeout(spec))
        context, seconds = self._context(run), self._seconds(ready)
        started = self._clock.monotonic()
        work.start(Running(run.offset, [context], started, started + seconds))
        kept = False
        try:
            with hiding(ready.plaintexts):
                if ready.entry.span is None:
                    result = spec.call(ready.payload, context)
                else:
                    result = _called_in_span(ready, context)
            if spec.is_async:
                if ready.plaintexts:
                    result = _hidden_while(result, ready.plaintexts)
                result = yield Awaiting(result, context)
            if run.barred_by is not None:
                raise run.barred_by
            # One that cannot be kept is the handler's fault: find it now.
            json.dumps(result, allow_nan=False)
            if run.transaction is not None and run.transaction.failed:
                raise UsageError(
                    "a statement of ctx.transaction failed, and the handler went on",
                    hint="let its exception out, or make a savepoint around the statement",
                )
            kept = True
        except BaseException as error:
            if run.barred_by is not None:  # Whatever the handler made of it.
                raise run.barred_by from None
            if isinstance(error, JobCancelled | OwnershipLost):
                raise
            if run.transaction is not None and run.transaction.broken_by(error):
                with hiding(ready.plaintexts):
                    why = failure_of(error).message
                raise SinkUnavailable(
                    f"the transaction of job {context.job_id} was broken off: {why}"
                ) from error
            return self._failure(error, ready, ready.plaintexts)
        finally:
            finished = work.finish()
            if not (kept and finished):
                run.rollback()
            if not finished:
                raise Abandoned
        return Called(result, run.transaction)

    def call_batch(self, work: Slice, batch: Sequence[Ready]) -> list[Any]:
        """Call a batch handler: for each job its result, or the Failure of its run.

        The timeout is the whole batch's: no job's deadline ends it earlier. JobCancelled: the
        handler obeyed, and all come again.
        """
        spec = batch[0].spec
        timeout = self._timeout(spec)
        runs = [_Run(self._ledger, each, work, _no_transaction, timeout) for each in batch]
        contexts = [self._context(run) for run in runs]
        hidden = sum((each.plaintexts for each in batch), NOTHING)
        started = self._clock.monotonic()
        work.start(Running(runs[0].offset, contexts, started, started + timeout))
        results: list[Any]
        try:
            payloads = [each.payload for each in batch]
            with hiding(hidden):
                if self._tracing is None:
                    returned = spec.call(payloads, contexts)
                else:
                    with self._tracing.batch([each.entry.span for each in batch]):
                        returned = spec.call(payloads, contexts)
            results = list(results_of(returned, len(batch)))
        except (JobCancelled, OwnershipLost):
            raise
        except BaseException as error:  # noqa: BLE001 - it is user code.
            with hiding(hidden):
                failure = failure_of(error, permanent=spec.permanent)
            results = [self._in_time(failure, each) for each in batch]
        finally:
            if not work.finish():
                raise Abandoned
        return [
            self._failure(result, each, hidden) if isinstance(result, BaseException) else result
            for result, each in zip(results, batch, strict=True)
        ]

    def _failure(self, error: BaseException, ready: Ready, hidden: Plaintexts) -> Failure:
        with hiding(hidden):
            failure = failure_of(error, permanent=ready.spec.permanent)
        return self._in_time(failure, ready)

    def _in_time(self, failure: Failure, ready: Ready) -> Failure:
        """A failure as it is, unless the job's deadline has passed."""
        return too_late(failure) if past_deadline(ready.job, self._clock.now()) else failure

    def _timeout(self, spec: JobSpec) -> float:
        return spec.timeout_seconds or self._timeout_seconds

    def _seconds(self, ready: Ready) -> float:
        """How long a job may run: its timeout, or until its deadline where that is earlier."""
        timeout, deadline_ms = self._timeout(ready.spec), ready.job.deadline_ms
        if deadline_ms is None:
            return timeout
        return min(timeout, deadline_ms / 1000 - self._clock.now())

    def _context(self, run: _Run) -> JobContext:
        entry, job, spec, _, row, _ = run.ready
        attempt = entry.attempt + 1
        if row is not None and (row.job_id, row.replay) != (job.job_id, entry.hop.replay):
            row = None  # Another job's, or an earlier replay's.
        context = JobContext(
            job_id=job.job_id,
            job_type=spec.job_type,
            key=key_text(entry.record.key),
            attempt=attempt,
            deadline=self._clock.now() + self._seconds(run.ready),
            objects=self._objects,
            bind_log=lambda: self._bind_log(entry, job, attempt),
            progress=row.progress if row is not None else None,
        )
        context.on_checkpoint(run.checkpoint)
        context.on_transaction(run.open_transaction)
        return context


def _called_in_span(ready: Ready, context: JobContext) -> Any:
    """Call a handler whose run is traced: what it traces itself is a part of that."""
    span, spec = ready.entry.span, ready.spec
    with span.current():
        result = spec.call(ready.payload, context)
    return span.awaited(result) if spec.is_async else result


async def _hidden_while(coroutine: Coroutine[Any, Any, Any], hidden: Plaintexts) -> Any:
    """Await a coroutine; what its task tells meanwhile is masked."""
    with hiding(hidden):
        return await coroutine


def _no_transaction() -> bool:
    raise UsageError("ctx.transaction is not for batch handlers", hint="write with a sink")


class _Run:
    """What one run asks of the ledger."""

    def __init__(
        self,
        ledger: Ledger,
        ready: Ready,
        work: Slice,
        write_before: Callable[[], bool],
        timeout_seconds: float,
    ) -> None:
        self.ready = ready
        self.transaction: HandlerTransaction | None = None
        # Why the job may not be written now: nothing that its handler does can change it.
        self.barred_by: OutageError | JobCancelled | OwnershipLost | None = None
        self._ledger = ledger
        self._work = work
        self._write_before = write_before
        self._timeout_seconds = timeout_seconds

    @property
    def offset(self) -> int:
        return self.ready.entry.record.offset

    def open_transaction(self) -> Any:
        if self.transaction is None:
            spec = self.ready.spec
            if not isinstance(self._ledger, HandlerTransactions) or spec.is_async:
                raise UsageError(
                    f"the handler of `{spec.job_type}` asks for ctx.transaction, which needs "
                    "a ledger in PostgreSQL and a handler that is no coroutine",
                    hint="set ledger.url to postgresql://…, and define the handler with `def`",
                )
            if self.barred_by is not None:
                raise self.barred_by
            try:
                if not self._write_before():
                    raise JobCancelled("the slice ends before this job")
                self.transaction = self._ledger.begin_handler(self._timeout_seconds)
            except (OutageError, JobCancelled, OwnershipLost) as fault:
                self.barred_by = fault
                raise
        return self.transaction.connection

    def rollback(self) -> None:
        if self.transaction is not None:
            self.transaction.rollback()

    def checkpoint(self, progress: str) -> bool:
        entry, job, spec, *_ = self.ready
        if not self._ledger.remembers:
            raise UsageError("ctx.checkpoint needs a ledger", hint="set ledger.url")
        try:
            self._ledger.checkpoint(
                self._work.owner,
                Checkpoint(
                    identity=job.identity(spec.job_type),
                    job_id=job.job_id,
                    job_type=spec.job_type,
                    origin=entry.hop.origin,
                    attempt=entry.attempt + 1,
                    progress=progress,
                    replay=entry.hop.replay,
                ),
            )
        except OutageError:
            return False
        return True
