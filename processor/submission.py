"""`Submission`: a job on its way to the log, and whoever waits for its answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from confluent_kafka import KafkaError

from processor.engine.submit import Accepted, NewJob, Refused
from processor.errors import ProcessorError

if TYPE_CHECKING:
    from confluent_kafka import Message

    from processor.adapters.tracing import Send

UNASKED_MAX = 1000  # Failures kept for `close`, which raises the first.
_MAKING = threading.RLock()  # What is waited on is made once, whoever waits.


class Answering(Protocol):
    """A submission's client."""

    def waited(self, came: threading.Event, timeout: float | None) -> bool:
        """Wait for an answer; False: it did not come in time."""

    def failed(self, submission: Submission, error: KafkaError, topic: str) -> None:
        """Tell a submission what prevented it."""


class Submission:
    """A job on its way. `result()` waits for the acknowledgement.

    A lighter `concurrent.futures.Future`: there is one for each job, and hardly any is waited for
    by itself, so what waiting needs is made by whoever waits.
    """

    __slots__ = (
        "_answer",
        "_calls",
        "_came",
        "_client",
        "_topic",
        "_unasked",
        "asked",
        "job_id",
        "span",
    )

    def __init__(self, job_id: str, topic: str, client: Answering) -> None:
        self.job_id = job_id
        self.span: Send | None = None  # Where it is traced; the answer ends it.
        self.asked = False  # Whether somebody waits for the answer, or has had it.
        self._topic = topic
        self._client = client
        self._answer: tuple[int, int] | ProcessorError | None = None
        self._unasked: dict[Submission, None] | None = None
        self._came: threading.Event | None = None
        self._calls: Callable[[], object] | None = None

    def result(self, timeout: float | None = None) -> Accepted:
        """Wait until the job is on the log; raises what prevented it.

        After TimeoutError the outcome is unknown: submit again with the same job id or
        idempotency key, and the job still takes effect once.
        """
        self.asked = True
        if self._answer is None:
            # Written before `_answer` is read again; `answer` does it in the contrary order.
            with _MAKING:
                came = self._came = self._came or threading.Event()
            if self._answer is None and not self._client.waited(came, timeout):
                raise TimeoutError(f"job {self.job_id} was not acknowledged within {timeout} s")
        assert self._answer is not None
        if isinstance(self._answer, ProcessorError):
            if self._unasked is not None:
                self._unasked.pop(self, None)
            raise self._answer
        return Accepted(self.job_id, self._topic, *self._answer)

    @property
    def done(self) -> bool:
        """Whether the answer has come."""
        return self._answer is not None

    def when_answered(self, call: Callable[[], object]) -> None:
        """Have a call made when the answer has come: on any thread, perhaps twice."""
        self._calls = call  # Written before `_answer` is read, as in `result`.
        if self._answer is not None:
            call()

    def fail(self, fault: ProcessorError, unasked: dict[Submission, None]) -> None:
        """Take what prevented it; in `unasked` until it is asked for (the client's side)."""
        if not self.asked and len(unasked) < UNASKED_MAX:
            self._unasked = unasked
            unasked[self] = None
        self.take(fault)

    def answer(self, error: KafkaError | None, message: Message) -> None:
        """Take what the Kafka client tells of it (the client's side)."""
        if error is None:
            self.take((message.partition() or 0, message.offset() or 0))
        else:
            self._client.failed(self, error, self._topic)

    def take(self, answer: tuple[int, int] | ProcessorError) -> None:
        """Take the answer: partition and offset, or what prevented it (the client's side)."""
        self._answer = answer
        if self.span is not None:
            self.span.answered(answer)
        if self._came is not None:
            self._came.set()
        if self._calls is not None:
            self._calls()


def answer_of(job: NewJob, submission: Submission | Refused) -> Accepted | Refused:
    """Wait for a job's answer; a failure is one."""
    if isinstance(submission, Refused):
        return submission
    try:
        return submission.result()
    except ProcessorError as fault:
        return Refused(job, submission.job_id, fault.message, fault.hint)
