"""`Client`: submit jobs from Python. `submit` returns after the broker's acknowledgement."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from confluent_kafka import KafkaError, KafkaException, Producer

from processor.adapters.broker import (
    Heard,
    fault_of,
    kafka_error,
    made,
    produce,
    servers_of,
    telling,
    to_write,
    topics_found,
    why_ended,
)
from processor.adapters.kafka_settings import client_id, producer_settings
from processor.adapters.keys import registered_encoder
from processor.adapters.registry import Registry
from processor.contracts.avro import subject_for
from processor.contracts.builtin import schema_directories, topic_directories
from processor.contracts.claims import ClaimStore
from processor.contracts.schemas import Schema, SchemaSet
from processor.contracts.topics import Topic, TopicSet
from processor.engine.submit import Accepted, NewJob, Refused, Way, outgoing, way_of
from processor.errors import BrokerUnavailable, ProcessorError, UsageError
from processor.model import ObjectRef, Outgoing
from processor.reached import ReachedClaims, RecentOutage
from processor.settings import Settings, load_settings
from processor.submission import Submission, answer_of
from processor.tracing import flush, tracing_of

if TYPE_CHECKING:
    from processor.adapters.tracing import Send

DELIVERY_SECONDS = 30.0
CLOSE_SECONDS = DELIVERY_SECONDS + 5  # `close` waits no longer for acknowledgements.
TAKE_BACK_SECONDS = 5.0
ROOM_SECONDS = 0.005  # Between two looks at a full buffer.
POLL_EVERY = 256  # So many jobs are handed over until their answers are asked for,
POLL_SECONDS = 0.05  # or for so long, where nobody waits for them.
WAIT_SECONDS = 1.0  # Between two looks whether an answer can still come.
PIPELINE_MAX = 10_000  # Jobs of one `submit_many` that await their acknowledgement at once.

# Why a job has no answer, and how that is told.
_UNANSWERED = {
    KafkaError._MSG_TIMED_OUT: f"within {DELIVERY_SECONDS:.0f} s",
    KafkaError._PURGE_QUEUE: "before the Client was closed",
    KafkaError._PURGE_INFLIGHT: "before the Client was closed",
}
_uuid7: Callable[[], object] | None = None
_FORKS = [0]  # How many forks lie between this process and the one that imported this module.


def _forked() -> None:
    _FORKS[0] += 1


os.register_at_fork(after_in_child=_forked)


class Client:
    """Submits jobs. Thread-safe; make one a process, after a fork, and close it.

    with Client() as client:
        client.submit("object.copy", {"source": ..., "target": ...}, key="folder")
    """

    def __init__(self, settings: Settings | None = None, *, source: str = "processor") -> None:
        self.settings = load_settings() if settings is None else settings
        self._source = source
        self._schemas = SchemaSet.load(schema_directories(self.settings))
        self._topics = TopicSet.load(topic_directories(self.settings), self._schemas)
        self._registry = Registry(self.settings.registry)
        self._ways: dict[str, Way] = {}
        self._outage = RecentOutage()
        self._claims: ClaimStore | None = None
        self._lock = threading.RLock()
        self._producer: Producer | None = None
        self._forks = _FORKS[0]
        self._handing_over = threading.RLock()  # A signal's handler may submit too.
        self._closed = threading.Event()  # Nothing more is handed over.
        self._ended = threading.Event()  # And everything is answered.
        self._poller: threading.Thread | None = None
        self._waiting = 0  # Threads that wait for an answer.
        self._wanted = threading.Event()  # Answers are waited for: they are told at once.
        self._unpolled = 0  # Jobs handed over since answers were last asked for.
        self._polled_at = 0.0
        self._heard = Heard()
        self._tracing = tracing_of(self.settings, service=source)
        self._failed: dict[Submission, None] = {}  # Whose result nobody has asked for, in order.

    def topic_of(self, job_type: str) -> Topic:
        """Find the declared topic that takes this job type; UsageError with the nearest name."""
        return self._topics.for_job(job_type)

    def schema_of(self, job_type: str) -> Schema:
        """Find the job type's contract; UsageError with the nearest name."""
        return self._schemas.get(job_type)

    def prepare(self, job_type: str) -> None:
        """Reach the brokers and the registry for a job type now, not at its first submit.

        Raises BrokerUnavailable, RegistryUnavailable, or UsageError where the topic or the schema
        is missing there or the credentials are refused.
        """
        self._way(job_type)

    def protects(self, job_type: str) -> bool:
        """Whether a job type's payloads are encrypted in part, so that a key may be waited for."""
        return self._way(job_type).plaintexts is not None

    def submit(
        self,
        job_type: str,
        payload: Any,
        *,
        key: str | None = None,
        idempotency_key: str | None = None,
        job_id: str | None = None,
        not_before: float | None = None,
        deadline: float | None = None,
    ) -> Accepted:
        """Submit a job and wait until all in-sync replicas have it. Raises what prevented it.

        Jobs with the same `key` run in the order in which they were submitted. `not_before` and
        `deadline` are seconds since the epoch.
        """
        job = NewJob(job_type, payload, key, idempotency_key, job_id, not_before, deadline)
        return self.submit_soon(job).result()

    def submit_soon(self, job: NewJob) -> Submission:
        """Start to submit a job and return at once; its fate is the submission's `result()`.

        The payload is checked now. While the client's buffer is full this waits for room. Leaving
        the `with` block raises the first failure that nobody has asked for.
        """
        submission, record = self.encoded(job)
        while not self.handed_over(submission, record):
            self._poll(ROOM_SECONDS)  # Acknowledgements make room as they come.
        if self._unpolled >= POLL_EVERY:
            self._poll(0)
        return submission

    def encoded(self, job: NewJob, *, inside_span: bool = False) -> tuple[Submission, Outgoing]:
        """Check a job and make its record (the side of `AsyncClient`)."""
        self._check_open()
        self._started()
        way = self._way(job.job_type)
        if self._tracing is not None and not inside_span:
            return self._encoded_in_span(job, self._tracing.send(way.topic))
        job_id, record = outgoing(
            job,
            way,
            claims=self._claim_store(),
            source=self._source,
            now=time.time(),
            new_id=new_job_id,
        )
        return Submission(job_id, way.topic, self), record

    def _encoded_in_span(self, job: NewJob, span: Send) -> tuple[Submission, Outgoing]:
        """Make the record of a job whose submission is traced: it carries the span's context."""
        with span.failing(), span.current():
            submission, record = self.encoded(job, inside_span=True)
        submission.span = span
        return submission, span.carried_by(record, job_id=submission.job_id, job_type=job.job_type)

    def handed_over(self, submission: Submission, record: Outgoing) -> bool:
        """Give a record to the Kafka client, without a wait. False: its buffer is full."""
        with self._handing_over:
            self._check_open()
            try:
                produce(self._started(), record, submission.answer)
            except BufferError:
                return False
            except KafkaException as fault:
                error = why_ended(self._started(), kafka_error(fault))
                refused = self._fault(error, record.topic)
                submission.take(refused)
                raise refused from None
        self._unpolled += 1
        return True

    def tell_at_once(self) -> None:
        """Have answers told as soon as they come, whoever waits (the side of `AsyncClient`)."""
        self._waiting += 1
        self._wanted.set()

    def failed(self, submission: Submission, error: KafkaError, topic: str) -> None:
        """Tell a submission what prevented it (the side of `Submission`)."""
        submission.fail(self._fault(error, topic), self._failed)

    def waited(self, came: threading.Event, timeout: float | None) -> bool:
        """Wait for an answer, and have answers told at once meanwhile (the side of `Submission`).

        Returns whether it came in time.
        """
        until = math.inf if timeout is None else time.monotonic() + timeout
        with self._lock:
            self._waiting += 1
            self._wanted.set()
        try:
            while not came.wait(min(WAIT_SECONDS, max(0.0, until - time.monotonic()))):
                if time.monotonic() >= until:
                    return False
                if self._ended.is_set() and not came.is_set():
                    # A signal's handler broke off the call that told the answer.
                    raise BrokerUnavailable(
                        "an interrupt came while the job's answer was told: it is not known",
                        hint="submit it again with the same job id or idempotency key",
                    )
            return True
        finally:
            with self._lock:
                self._waiting -= 1
                if self._waiting == 0:
                    self._wanted.clear()

    def submit_many(self, jobs: Iterable[NewJob]) -> Iterator[Accepted | Refused]:
        """Submit jobs in a pipeline; gives one answer for each, in order. Nothing is raised.

        Answers that have come are given before the next job is taken: the input may be endless.
        """
        waiting: deque[tuple[NewJob, Submission | Refused]] = deque()
        for job in jobs:
            try:
                waiting.append((job, self.submit_soon(job)))
            except ProcessorError as fault:
                waiting.append((job, Refused(job, job.job_id, fault.message, fault.hint)))
            while waiting and (waiting[0][1].done or len(waiting) >= PIPELINE_MAX):
                yield answer_of(*waiting.popleft())
        yield from (answer_of(*each) for each in waiting)

    def upload(self, path: Path) -> ObjectRef:
        """Put a file into the claim store and refer to it: a large input of a job."""
        claims = self._claim_store()
        if claims is None:
            raise UsageError("there is no claim store to upload to", hint="set [claims] store")
        with path.open("rb") as stream:
            claim = claims.put(stream)
        return ObjectRef(uri=claim.uri, size=claim.size, sha256=claim.sha256)

    def close(self) -> None:
        """Wait until everything submitted is acknowledged or has failed. Twice does no harm.

        Jobs submitted meanwhile are refused. What has no answer after `CLOSE_SECONDS` has failed.
        Raises the first failure whose `result()` nobody has asked for.
        """
        with self._handing_over:
            self._closed.set()
        producer = self._producer
        with telling():
            if producer is not None and not self._ended.is_set() and producer.flush(CLOSE_SECONDS):
                producer.purge()  # Each is answered by that, whoever waits for it.
                producer.flush(TAKE_BACK_SECONDS)
        self._ended.set()
        if self._tracing is not None:
            flush()
        unasked = [each for each in list(self._failed) if not each.asked]
        self._failed.clear()
        if unasked:
            unasked[0].result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
            return
        with contextlib.suppress(ProcessorError):  # The first error is the one to be seen.
            self.close()

    def _started(self) -> Producer:
        if self._forks != _FORKS[0]:
            raise UsageError(
                "this Client was made before a fork and cannot work after it",
                hint="make the Client in the child process",
            )
        if self._producer is not None:
            return self._producer
        with self._lock:
            if self._producer is None:
                mine = producer_settings(self.settings.kafka, client_id("client"))
                if "delivery.timeout.ms" not in mine:
                    mine.setdefault("message.timeout.ms", int(DELIVERY_SECONDS * 1000))
                mine["error_cb"] = self._heard
                mine.setdefault("queue.buffering.max.messages", 100_000)
                self._producer = made(Producer, mine)
                self._poller = threading.Thread(
                    target=self._poll_on, name="processor-client", daemon=True
                )
                self._poller.start()
        return self._producer

    def _poll(self, seconds: float) -> None:
        """Have answers told on this thread: those that have come, or the first within a time."""
        self._unpolled = 0
        self._polled_at = time.monotonic()
        self._serve(seconds)

    def _poll_on(self) -> None:
        """Have answers told where somebody waits for them, or nobody else has them told.

        Whoever submits without a wait polls now and then: two threads that both run Python take
        turns at it for each answer, which costs more than the answer does.
        """
        while not self._ended.is_set():
            if self._wanted.wait(POLL_SECONDS):
                self._serve(0.1)
            elif time.monotonic() >= self._polled_at + POLL_SECONDS:
                self._serve(0)

    def _serve(self, seconds: float) -> None:
        assert self._producer is not None
        try:
            with telling():
                self._producer.poll(seconds)
        except KafkaException as fault:  # It has ended for good; what it was given is answered.
            self._heard.fatal = kafka_error(fault)

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise UsageError("this Client is closed, or about to be: it takes no more jobs")

    def _fault(self, error: KafkaError, topic: str) -> ProcessorError:
        error = self._heard.fatal or error
        if error.code() not in _UNANSWERED:
            what, need = f"submitting to `{topic}`", to_write(topic)
            return fault_of(error, self.settings.kafka, what, need=need)
        if self._heard.refusal is not None:
            return fault_of(self._heard.refusal, self.settings.kafka, "submit")
        behind = self._heard.latest
        why = f": {behind.str()}" if behind is not None else ""
        return BrokerUnavailable(
            f"Kafka at {servers_of(self.settings.kafka)} did not acknowledge the job "
            f"{_UNANSWERED[error.code()]}{why}",
            hint="it may still be on the log: submit it again with the same job id or "
            "idempotency key",
        )

    def _way(self, job_type: str) -> Way:
        """Find how a job type's jobs are sent; asked for once, in an outage every 10 seconds."""
        way = self._ways.get(job_type)
        if way is not None:
            return way
        producer = self._started()
        with self._outage.remembered():
            topic, schema = self.topic_of(job_type), self.schema_of(job_type)
            subject = subject_for(topic.name, job_type)
            encoder = registered_encoder(self._registry, subject, schema, self.settings.encryption)
            topics_found(producer, self.settings.kafka, self._heard, topic=topic.name)
            way = self._ways[job_type] = way_of(topic, encoder)
        return way

    def _claim_store(self) -> ClaimStore | None:
        if self._claims is None and self.settings.claims.store is not None:
            self._claims = ReachedClaims(
                self.settings, self.settings.claims.store, tracing=self._tracing
            )
        return self._claims


def new_job_id() -> str:
    """Make a job id: a UUID of version 7, so ids sort by time."""
    global _uuid7
    if _uuid7 is None:  # A hundredth of a second: not for those who only import this module.
        from uuid_utils import uuid7

        _uuid7 = uuid7
    return str(_uuid7())
