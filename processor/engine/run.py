"""Run: the only step of a job's way that touches the world. Claim in, handler, sink, ledger.

A slice's effects are written together: the named sinks first, then one ledger transaction. They
are flushed at the slice's end, when a job failed, and when the oldest has waited for
`FLUSH_SECONDS`, so that jobs of 30 minutes and of 30 microseconds are both well served.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from processor.contracts import headers
from processor.contracts.avro import Decoded
from processor.contracts.claims import CLAIM_BYTES_MAX, ClaimStore, claim_from_header
from processor.contracts.masking import NOTHING, hiding, masked
from processor.contracts.own_subjects import any_subject
from processor.contracts.protected import PREFIX_SIZE, Opened
from processor.core.lane import Entry
from processor.engine import effects
from processor.engine.batch import Ready
from processor.engine.call import Abandoned, Awaiting, Called, Caller
from processor.engine.context import JobCancelled
from processor.engine.effects import SinkFailed, Unwritten
from processor.engine.job import JobSpec
from processor.engine.journey import asks_admission
from processor.engine.outcomes import (
    away,
    failure_of,
    known_outcome,
    past_deadline,
)
from processor.engine.ports import Clock, Ledger, LedgerRow, OwnershipLost, row_among
from processor.engine.quick import Admit, Decode, Quick
from processor.engine.slice_progress import SliceProgress, read_jobs
from processor.engine.slices import (
    Duplicate,
    Failed,
    Outcome,
    Report,
    Slice,
    Succeeded,
    Unavailable,
)
from processor.engine.tracing import Tracing
from processor.errors import ContractError, OutageError, PermanentError, Retry, StoreUnavailable
from processor.model import Failure, JobHeaders

FLUSH_SECONDS = 0.1
SEEN_MAX = 1000

Steps = Generator[Awaiting, Any, None]


class _Told(Exception):
    """The slice ends early, and the present job comes again."""


class Runner:
    """Runs slices on whatever thread calls it. Holds no state of a slice between calls."""

    _tracing: Tracing | None = None

    def __init__(
        self,
        *,
        jobs: Mapping[str, JobSpec],
        decode: Decode,
        admit: Admit = any_subject,
        ledger: Ledger,
        claims: ClaimStore | None,
        clock: Clock,
        caller: Caller,
        quick: Quick | None = None,
        claim_bytes_max: int = CLAIM_BYTES_MAX,
    ) -> None:
        self._quick = quick
        self._has_sinks = any(spec.sinks for spec in jobs.values())
        # Beginnings of values that were decoded before: whether all their handlers are coroutines.
        self._seen: dict[tuple[str, bytes], bool] = {}  # With their main topics.
        self._jobs = jobs
        self._decode = decode
        self._admit = admit
        self._ledger = ledger
        self._claims = claims
        self._clock = clock
        self._caller = caller
        self._claim_bytes_max = claim_bytes_max

    def run(self, work: Slice, report: Callable[[Report], None]) -> None:
        """Run a slice to its end, on this thread. Its handlers are functions."""
        for awaiting in self.steps(work, report):
            raise AssertionError(f"{awaiting} cannot be awaited on a thread")

    def blocks(self, work: Slice) -> bool:
        """Whether a step of this slice may wait for anything but its handlers' coroutines."""
        if self._ledger.remembers or self._has_sinks or self._claims is not None:
            return True
        topic = work.owner.topic
        prefixes = {(entry.record.value or b"")[:PREFIX_SIZE] for entry in work.entries}
        return not all(
            self._seen.get((topic, each)) or self._knows(topic, each) for each in prefixes
        )

    def _knows(self, topic: str, prefix: bytes) -> bool:
        """Whether values that begin so are read without a wait, and run by coroutines."""
        return self._quick is not None and self._quick.knows_coroutine(topic, prefix)

    def steps(self, work: Slice, report: Callable[[Report], None]) -> Steps:
        """Run a slice's records in order until one fails, it is asked to stop, or none is left.

        Each coroutine is yielded; its result is to be sent, or what it raised thrown. Steps may be
        taken on any thread, one after the other.
        """
        work.begun = True
        progress = SliceProgress(work)
        lost = False
        try:
            first = 0
            if work.stretch is not None and self._quick is not None:
                first = self._quick.run(work, progress.outcomes, report)
            elif work.plain_coroutines and self._quick is not None:
                first = yield from self._quick.steps(work, progress.outcomes, report)
            if first < len(work) and not work.stop:  # Stopped: what is left stays fresh.
                yield from self._run_all(progress, first, report)
                self._flush(progress)
        except OwnershipLost:
            lost = True
        except Abandoned:
            return
        done, outcomes = work.ran, progress.outcomes
        report(Report(work, outcomes, True, lost=lost, done=done, unroll=progress.unroll))

    def _run_all(
        self, progress: SliceProgress, first: int, report: Callable[[Report], None]
    ) -> Steps:
        work = progress.work
        entries = work.entries[first:]
        entry = entries[0]
        progress.since = self._clock.monotonic()
        try:
            known = self._ledger.lookup(read_jobs(entries))  # Once for the whole slice.
            for entry in entries:
                if work.stop:
                    return
                if work.skips(entry.record.key):
                    continue
                if work.stretch is not None and asks_admission(entry):
                    progress.unroll = True
                    return
                ready = self._prepare(entry, known, progress)
                if not self._batched(ready, progress):
                    return
                if work.skips(entry.record.key):
                    continue
                outcome: Outcome | None = None
                if not isinstance(ready, Ready):
                    outcome = ready
                elif ready.spec.batch_max is None:
                    outcome = yield from self._run_one(ready, progress)
                if outcome is not None:
                    if not self._flush(progress):
                        return
                    progress.outcomes.append((entry, outcome))
                    if isinstance(outcome, Failed) and work.passes_failures:
                        if entry.record.key is not None:
                            work.failed.add(entry.record.key)
                    elif not isinstance(outcome, Duplicate | Succeeded):
                        return  # The rest asks the fence again.
                if self._clock.monotonic() - progress.since >= FLUSH_SECONDS:
                    if not self._flush(progress):
                        return
                    report(Report(work, progress.outcomes, finished=False))
                    progress.outcomes = []
                    progress.since = self._clock.monotonic()
            self._run_batch(progress)
        except OutageError as outage:
            if self._flush(progress):
                progress.outcomes.append((entry, Unavailable(away(outage), outage.message)))
        except (_Told, JobCancelled):
            return

    def _prepare(
        self, entry: Entry, known: dict[str, LedgerRow], progress: SliceProgress
    ) -> Ready | Outcome | None:
        """Decode one job, unless its outcome is known. None: it ran and waits to be written."""
        started, hidden = self._clock.monotonic(), NOTHING
        try:
            job = entry.job or headers.nameless_job(entry.hop)
            row = self._row(job.identities(job.job_type or ""), known, progress)
            if (outcome := self._known_outcome(row, job, entry, progress.work)) is not None:
                return outcome
            if isinstance(entry.ran, Unwritten):
                progress.ran(entry.ran)
                entry.ran = None
                return None
            if entry.job is None:
                headers.read_job(entry.record, entry.hop)  # Tells what is malformed.
            if past_deadline(job, self._clock.now()):
                raise PermanentError("the job's deadline has passed")
            value = self._value(entry, job)
            job_type, payload, opened = self._decoded(value, progress.work)
            if job.job_type is None and job.idempotency_key is not None:
                row = self._row(job.identities(job_type), {}, progress, ask=True)
                if (outcome := known_outcome(row, job, entry, lambda: opened)) is not None:
                    return outcome
            spec = self._spec(job, job_type, progress.work)
            if opened is None:  # A key may have to be waited for.
                self._note(progress.work, value, spec)
            if job.job_type is None:  # A stranger's headers name none.
                job = job._replace(job_type=job_type)
            entry.job = job
            hidden = NOTHING if opened is None else opened.plaintexts
            return Ready(entry, job, spec, spec.convert(payload), row, opened)
        except PermanentError as fault:
            with hiding(hidden):
                return Failed(failure_of(fault), self._clock.monotonic() - started)

    def _known_outcome(
        self, row: LedgerRow | None, job: JobHeaders, entry: Entry, work: Slice
    ) -> Outcome | None:
        """What the ledger says of a job before it is decoded; its keyed digest needs that."""

        def opened() -> Opened | None:
            try:
                return self._decoded(self._value(entry, job), work).opened
            except PermanentError:
                return None  # No payload that ran.

        return known_outcome(row, job, entry, opened)

    def _batched(self, ready: Ready | Outcome | None, progress: SliceProgress) -> bool:
        """Put a job into its batch, and run the batch that is full or ends here. False: stop."""
        batch = progress.batch
        spec = ready.spec if isinstance(ready, Ready) else None
        if batch and batch[0].spec is not spec and not self._run_batch(progress):
            return False
        if spec is None or spec.batch_max is None:
            return True
        assert isinstance(ready, Ready)
        if not progress.work.skips(ready.entry.record.key):
            progress.batch.append(ready)
            progress.identities.add(ready.job.identity(spec.job_type))
        return len(progress.batch) < spec.batch_max or self._run_batch(progress)

    def _run_batch(self, progress: SliceProgress) -> bool:
        """Run the jobs that wait for their batch. False: one failed, and nothing may pass it."""
        work, batch = progress.work, progress.batch
        if not batch:
            return True
        progress.batch = []  # Its jobs' identities stay known until the next flush.
        started = self._clock.monotonic()
        results = self._caller.call_batch(work, batch)
        seconds = (self._clock.monotonic() - started) / len(batch)
        for (entry, job, spec, *_, opened), result in zip(batch, results, strict=True):
            key = entry.record.key
            if work.skips(key):
                continue  # One of its key has failed: it comes again.
            if not isinstance(result, Failure):
                effect = effects.effect_of(entry, job, result, opened)
                progress.ran(Unwritten(entry, effect, spec, seconds, opened))
                continue
            if not self._flush(progress):
                return False
            progress.outcomes.append((entry, Failed(result, seconds)))
            if not work.passes_failures:
                return False
            if key is not None:
                work.failed.add(key)
        return True

    def _run_one(
        self, ready: Ready, progress: SliceProgress
    ) -> Generator[Awaiting, Any, Outcome | None]:
        """Run one job. None: it succeeded and waits to be written."""
        entry, job, spec, *_, opened = ready
        started = self._clock.monotonic()
        called = yield from self._caller.call(
            ready, progress.work, write_before=lambda: self._flush(progress)
        )
        seconds = self._clock.monotonic() - started
        if isinstance(called, Failure):
            return Failed(called, seconds)
        effect = effects.effect_of(entry, job, called.result, opened)
        one = Unwritten(entry, effect, spec, seconds, opened)
        if called.transaction is not None:
            return self._commit(called, one, progress)
        progress.ran(one)
        return None

    def _commit(self, called: Called, one: Unwritten, progress: SliceProgress) -> Outcome:
        """Write an effect in the transaction that the handler has written in."""
        assert called.transaction is not None
        try:
            owner = progress.work.owner
            return effects.write_in(called.transaction, self._ledger, owner, one, self._tracing)
        except (PermanentError, Retry, SinkFailed) as fault:
            return Failed(self._failure(fault, one), one.seconds)
        finally:
            called.transaction.rollback()  # Nothing is left of one that was committed.

    def _row(
        self,
        identities: Sequence[str],
        known: dict[str, LedgerRow],
        progress: SliceProgress,
        ask: bool = False,
    ) -> LedgerRow | None:
        """The ledger's row; asked for again where this very slice may have made it."""
        if identities[0] in progress.identities:
            if not self._run_batch(progress):
                raise _Told
            if not self._flush(progress):
                raise _Told
            ask = True
        if ask:
            known = self._ledger.lookup(identities)
        return row_among(known, identities)

    def _spec(self, job: JobHeaders, job_type: str, work: Slice) -> JobSpec:
        if job.job_type is not None and job.job_type != job_type:
            raise ContractError(f"header says `{job.job_type}`, the value is a `{job_type}`")
        spec = self._jobs.get(job_type)
        if spec is None:
            raise ContractError(f"no handler for job type `{job_type}`")
        if spec.is_async and not work.is_async:
            raise ContractError(
                f"the handler of `{job_type}` is a coroutine, and no job of this topic has one",
                hint="list the job type among the topic's `jobs`, or submit it to its own topic",
            )
        return spec

    def _note(self, work: Slice, value: bytes | None, spec: JobSpec) -> None:
        """Note that values that begin so can be decoded without a wait, and what runs them."""
        known = (work.owner.topic, (value or b"")[:PREFIX_SIZE])
        if known in self._seen or len(self._seen) < SEEN_MAX:
            self._seen[known] = spec.is_async and self._seen.get(known, True)

    def _decoded(self, value: bytes | None, work: Slice) -> Decoded:
        """Decode a value of the topic's own: of no other schema is a body worth a look."""
        return self._decode(value, lambda job_type: self._admit(work.owner.topic, value, job_type))

    def _value(self, entry: Entry, job: JobHeaders) -> bytes | None:
        if job.claim is None:
            return entry.record.value
        claim = claim_from_header(job.claim)
        if self._claims is None:
            raise StoreUnavailable(
                "the record carries a claim and no claim store is configured",
                hint="set claims.store",
            )
        return self._claims.get(claim, self._claim_bytes_max)

    def _flush(self, progress: SliceProgress) -> bool:
        """Write what succeeded. False: the slice ends here, and what has no outcome comes again.

        While a sink or the ledger is away what the runs left stays with their entries: they need
        not be run again, and the thread is free for jobs that need something else.
        """
        if not progress.unwritten:
            return True
        unwritten, progress.unwritten = progress.unwritten, []
        progress.identities = {each.job.identity(each.spec.job_type) for each in progress.batch}
        try:
            owner = progress.work.owner
            progress.outcomes += effects.write(self._ledger, owner, unwritten, self._tracing)
        except OutageError as outage:
            for each in unwritten:
                each.entry.ran = each
            with hiding(effects.hidden_of(unwritten)):
                away_now = Unavailable(away(outage), masked(outage.message))
            progress.outcomes.append((unwritten[0].entry, away_now))
            return False
        except (PermanentError, Retry, SinkFailed) as fault:
            return self._write_one_by_one(progress, unwritten, fault)
        return True

    def _failure(self, fault: Exception, one: Unwritten) -> Failure:
        """Describe what a sink made of a run that its handler had ended well."""
        with hiding(effects.hidden_of([one])):
            if not isinstance(fault, SinkFailed):
                return failure_of(fault)
            return failure_of(fault.error, permanent=one.spec.permanent)

    def _write_one_by_one(
        self, progress: SliceProgress, whole: list[Unwritten], fault: Exception
    ) -> bool:
        """Find the result that a sink does not take: its job fails, those before are written."""
        if len(whole) == 1:
            failure = self._failure(fault, whole[0])
            progress.outcomes.append((whole[0].entry, Failed(failure, whole[0].seconds)))
            return False
        for each in whole:
            progress.ran(each)
            if not self._flush(progress):
                return False
        return True
