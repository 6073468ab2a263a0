"""Run a stretch: many jobs one after the other, of which nothing is kept but that they succeeded.

It does for the plain job what run.py does for every job, in as few steps as can be: decode, call
the handler, note the time. It stops where a job is not plain, and run.py goes on from there. Plain
is a job whose handler asks for its payload alone and whose result goes nowhere, and whose headers
ask for nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from processor.contracts import headers
from processor.contracts.avro import Decoded
from processor.contracts.own_subjects import any_subject
from processor.contracts.protected import PREFIX_SIZE
from processor.core.lane import Entry
from processor.core.stretch import Stretch
from processor.engine.batch import results_of
from processor.engine.call import Abandoned, Awaiting
from processor.engine.context import JobCancelled, JobContext
from processor.engine.job import JobSpec
from processor.engine.outcomes import failure_of
from processor.engine.ports import Clock
from processor.engine.slices import Done, Failed, Outcome, Report, Running, Slice
from processor.errors import ContractError, OutageError

KINDS_MAX = 1000
FLUSH_SECONDS = 0.1

Admit = Callable[[str, bytes | None, str], None]  # (main topic, value, job type); ContractError.
Outcomes = list[tuple[Entry, Outcome]]


class Decode(Protocol):
    """Bytes to a payload. Raises ContractError, RegistryUnavailable, KeysUnavailable."""

    def __call__(self, value: bytes | None, admit: Callable[[str], object]) -> Decoded:
        """Decode one value; `admit` is told its job type first, and what it raises is raised."""
        ...


class Reading(Protocol):
    """How values with one prefix are read."""

    @property
    def job_type(self) -> str:
        """The job type that the schema names."""

    @property
    def read(self) -> Callable[[bytes], Any]:
        """Value to payload. Raises ContractError."""

    @property
    def open(self) -> object:
        """Not None where values have tagged fields: run.py reads them."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """What the plain jobs whose values have one prefix need."""

    spec: JobSpec
    prefix: bytes
    read: Callable[[bytes], Any]
    call: Callable[[Any], Any]
    job_type: bytes
    timeout_seconds: float
    batch_max: int | None


class Quick:
    """Runs stretches on whatever thread calls it."""

    def __init__(
        self,
        *,
        jobs: Mapping[str, JobSpec],
        reading: Callable[[bytes | None], Reading],
        admit: Admit = any_subject,
        clock: Clock,
        timeout_seconds: float,
        bind_log: Callable[..., Any],
    ) -> None:
        self._jobs = jobs
        self._reading = reading
        self._admit = admit
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._bind_log = bind_log
        self._kinds: dict[tuple[str, bytes], _Kind] = {}

    def run(self, work: Slice, outcomes: Outcomes, report: Callable[[Report], None]) -> int:
        """Run plain jobs from the first on. Returns how many records it has come past.

        What succeeded is in `work.ran` or was reported; what failed is added to `outcomes`. Raises
        Abandoned.
        """
        assert work.stretch is not None
        at, count = 0, len(work.stretch)
        while at < count and not work.stop:
            kind = self._kind(work, work.stretch.messages[at].value())
            began = at
            if kind is not None and kind.batch_max is not None:
                at = self._run_batch(work, kind, at, outcomes)
            elif kind is not None and not kind.spec.is_async:
                at = self._run_kind(work, kind, at, outcomes, report)
                work.running = None  # The next kind's schema may have to be asked for.
            if at == began:
                break
        work.running = None
        return at

    def _run_kind(
        self,
        work: Slice,
        kind: _Kind,
        at: int,
        outcomes: Outcomes,
        report: Callable[[Report], None],
    ) -> int:
        """Run plain jobs of one kind; returns where it stopped. Every step here counts."""
        assert work.stretch is not None
        monotonic, says_only = self._clock.monotonic, headers.says_only_its_type
        read, call, timeout, failed = kind.read, kind.call, kind.timeout_seconds, work.failed
        now = monotonic()
        flush_at = now + FLUSH_SECONDS
        running = Running(-1, (), now, now + timeout)
        work.start(running)
        done = _begin(work, kind)
        ended, took = done.offsets.append, done.seconds.append
        rest = zip(work.stretch.offsets[at:], work.stretch.messages[at:], strict=True)
        for offset, message in rest:
            value, written = message.value(), message.headers()
            if work.stop or value is None or value[:PREFIX_SIZE] != kind.prefix:
                return at
            if written and not says_only(written, kind.job_type):
                return at
            if failed and message.key() in failed:  # One of its key has failed: it waits.
                at += 1
                continue
            try:
                payload = read(value)
            except ContractError:
                return at
            running.started = now
            running.timeout_at = now + timeout
            running.offset = offset
            failure: BaseException | None = None
            try:
                result = call(payload)
                if result is not None:
                    json.dumps(result, allow_nan=False)
            except BaseException as fault:  # noqa: BLE001 - it is user code.
                failure = fault
            running.offset = -1
            if work.abandoned:
                raise Abandoned
            before, now = now, monotonic()
            at += 1
            if failure is not None:
                entry = work.lane.entry_of(message)
                self._fail(work, entry, kind, failure, now - before, outcomes)
                if not work.passes_failures:
                    work.stop = True
            else:
                ended(offset)
                took(now - before)
            if now >= flush_at:
                report(Report(work, tuple(outcomes), finished=False, done=work.ran))
                outcomes.clear()
                work.ran, flush_at = [], now + FLUSH_SECONDS
                done = _begin(work, kind)
                ended, took = done.offsets.append, done.seconds.append
        return at

    def knows_coroutine(self, topic: str, prefix: bytes) -> bool:
        """Whether values on a topic that begin so were read before, and coroutines run them."""
        kind = self._kinds.get((topic, prefix))
        return kind is not None and kind.spec.is_async

    def steps(
        self, work: Slice, outcomes: Outcomes, report: Callable[[Report], None]
    ) -> Generator[Awaiting, Any, int]:
        """The same for entries whose handlers are coroutines: each is yielded, to be awaited."""
        monotonic = self._clock.monotonic
        began, done = monotonic(), None
        for at, entry in enumerate(work.entries):
            record = entry.record
            kind = self._kind(work, record.value)
            if work.stop or kind is None or not kind.spec.is_async or not _is_plain(entry, kind):
                return at
            if work.skips(record.key):
                continue
            try:
                payload = kind.read(record.value or b"")
            except ContractError:
                return at
            context = self._context(entry, kind)
            started = monotonic()
            work.start(Running(record.offset, (context,), started, started + kind.timeout_seconds))
            failure: BaseException | None = None
            cancelled = False
            try:
                result = yield Awaiting(kind.call(payload), context)
                if result is not None:
                    json.dumps(result, allow_nan=False)
            except GeneratorExit:
                raise
            except JobCancelled:  # Its handler obeyed: it comes again.
                work.stop = cancelled = True
            except BaseException as fault:  # noqa: BLE001 - it is user code.
                failure = fault
            if not work.finish():
                raise Abandoned
            if cancelled:
                return at
            now = monotonic()
            if failure is not None:
                self._fail(work, entry, kind, failure, now - started, outcomes)
                if not work.passes_failures:
                    work.stop = True
            else:
                if done is None or done.job_type != kind.spec.job_type:
                    done = _begin(work, kind)
                done.offsets.append(record.offset)
                done.seconds.append(now - started)
            if now - began >= FLUSH_SECONDS:
                report(Report(work, tuple(outcomes), finished=False, done=work.ran))
                outcomes.clear()
                work.ran, began, done = [], now, None
        return len(work)

    def _context(self, entry: Entry, kind: _Kind) -> JobContext:
        """What its job is told to stop by; the handler is not given it."""
        job = headers.job_of(entry.record, entry.hop)
        return JobContext(
            job_id=job.job_id,
            job_type=kind.spec.job_type,
            key=None,
            attempt=1,
            deadline=None,
            objects=None,  # type: ignore[arg-type]  # No handler is given this context.
            bind_log=lambda: self._bind_log(entry, job, 1),
        )

    def _run_batch(self, work: Slice, kind: _Kind, at: int, outcomes: Outcomes) -> int:
        """Run the next plain jobs of one kind as one batch; returns where it stopped."""
        began = self._clock.monotonic()
        taken, payloads, at = self._batch(work, kind, at)
        if not payloads:
            return at
        work.start(Running(taken.offsets[0], (), began, began + kind.timeout_seconds))
        results: Sequence[Any] | None
        try:
            returned = kind.call(payloads)
            results = None if returned is None else results_of(returned, len(payloads))
        except BaseException as fault:  # noqa: BLE001 - it is user code.
            results = [fault] * len(payloads)
        if not work.finish():
            raise Abandoned
        seconds = (self._clock.monotonic() - began) / len(payloads)
        done = _begin(work, kind)
        if results is None:
            done.offsets.extend(taken.offsets)
            done.seconds.extend([seconds] * len(payloads))
            return at
        for offset, message, result in zip(taken.offsets, taken.messages, results, strict=True):
            if work.failed and work.skips(message.key()):
                continue  # Its turn had not come: it comes again.
            if isinstance(result, BaseException):
                entry = work.lane.entry_of(message)
                self._fail(work, entry, kind, result, seconds, outcomes)
                if not work.passes_failures:
                    work.stop = True
                    break
                continue
            done.offsets.append(offset)
            done.seconds.append(seconds)
        return at

    @staticmethod
    def _batch(work: Slice, kind: _Kind, at: int) -> tuple[Stretch, list[Any], int]:
        """Decode plain jobs of one kind: which they are, their payloads, and where it ended."""
        assert work.stretch is not None
        assert kind.batch_max is not None
        rest = slice(at, at + kind.batch_max)
        offsets, messages = work.stretch.offsets[rest], work.stretch.messages[rest]
        read, prefix, payloads = kind.read, kind.prefix, []
        skipped: set[int] = set()
        seen = 0
        for message in messages:
            value, written = message.value(), message.headers()
            if value is None or value[:PREFIX_SIZE] != prefix:
                break
            if written and not headers.says_only_its_type(written, kind.job_type):
                break
            if work.failed and work.skips(message.key()):
                skipped.add(offsets[seen])
            else:
                try:
                    payloads.append(read(value))
                except ContractError:
                    break
            seen += 1
        taken = Stretch(messages[:seen], offsets[:seen])
        return taken.without(skipped) if skipped else taken, payloads, at + seen

    def _fail(
        self,
        work: Slice,
        entry: Entry,
        kind: _Kind,
        fault: BaseException,
        seconds: float,
        outcomes: Outcomes,
    ) -> None:
        """Note a failed run: the rest of its key waits."""
        entry.job = headers.job_of(entry.record, entry.hop)
        failure = failure_of(fault, permanent=kind.spec.permanent)
        outcomes.append((entry, Failed(failure, seconds)))
        if entry.record.key is not None:
            work.failed.add(entry.record.key)

    def _kind(self, work: Slice, value: bytes | None) -> _Kind | None:
        """What a value's job needs; None: run.py tells what is wrong with it, or not plain."""
        topic = work.owner.topic
        kind = self._kinds.get((topic, (value or b"")[:PREFIX_SIZE]))
        if kind is not None or value is None:
            return kind
        try:
            reading = self._reading(value)
            self._admit(topic, value, reading.job_type)
        except (ContractError, OutageError):
            return None
        spec = self._jobs.get(reading.job_type)
        if spec is None or spec.simple is None or spec.sinks or reading.open is not None:
            return None
        kind = _Kind(
            spec=spec,
            prefix=value[:PREFIX_SIZE],
            read=reading.read,
            call=spec.simple,
            job_type=spec.job_type.encode(),
            timeout_seconds=spec.timeout_seconds or self._timeout_seconds,
            batch_max=spec.batch_max,
        )
        if len(self._kinds) < KINDS_MAX:
            self._kinds[topic, kind.prefix] = kind
        return kind


def _is_plain(entry: Entry, kind: _Kind) -> bool:
    """Whether a job comes for the first time, and its headers ask for nothing."""
    if entry.attempt > 0 or entry.ran is not None or entry.hop.replay > 0:
        return False
    written = entry.record.headers
    return not written or headers.says_only_its_type(written, kind.job_type)


def _begin(work: Slice, kind: _Kind) -> Done:
    done = Done(kind.spec.job_type, [], [])
    work.ran.append(done)
    return done
