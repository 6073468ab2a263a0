"""What a handler is given beside its payload."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from processor.contracts.claims import verified
from processor.errors import JobTimeout, TransientError
from processor.model import ObjectRef

if TYPE_CHECKING:
    from processor.contracts.claims import ObjectStore, Stream


class JobCancelled(TransientError):
    """The worker wants the job's thread back: it is stopping, or its partition moves on."""


class JobContext:
    """One run of one job, as its handler sees it.

    `job_id`, `job_type`, `key` (the ordering key), `attempt` (1 for the first run), `deadline`
    (seconds since the epoch, or None), `log` (bound to the job; never log the payload), `objects`
    (file, S3 and HTTP by URI).
    """

    __slots__ = (
        "_bind_log",
        "_cancel_reason",
        "_log",
        "_on_cancel",
        "_on_progress",
        "attempt",
        "cancellation",
        "deadline",
        "job_id",
        "job_type",
        "key",
        "objects",
    )

    def __init__(
        self,
        *,
        job_id: str,
        job_type: str,
        key: str | None,
        attempt: int,
        deadline: float | None,
        objects: ObjectStore,
        bind_log: Callable[[], Any],
    ) -> None:
        self.job_id = job_id
        self.job_type = job_type
        self.key = key
        self.attempt = attempt
        self.deadline = deadline
        self.objects = objects
        self.cancellation = threading.Event()
        self._cancel_reason: type[TransientError] = JobCancelled
        self._on_cancel: Callable[[], object] | None = None
        self._on_progress: Callable[[float, float | None], None] | None = None
        self._bind_log = bind_log
        self._log: Any = None

    @property
    def log(self) -> Any:
        """A structured logger that already knows the job, its place and its attempt."""
        if self._log is None:
            self._log = self._bind_log()
        return self._log

    @property
    def cancelled(self) -> bool:
        """Whether the handler should stop: its time is over, or the worker must let go."""
        return self.cancellation.is_set()

    def raise_if_cancelled(self) -> None:
        """Leave the handler when it was told to stop. Call it between the steps of a long job."""
        if self.cancellation.is_set():
            if self._cancel_reason is JobTimeout:
                raise JobTimeout(f"job {self.job_id} ran out of time")
            raise self._cancel_reason(f"job {self.job_id} was told to stop")

    @contextmanager
    def open(self, ref: ObjectRef) -> Iterator[Stream]:
        """Stream a large input; what the reference says of size and sha256 is verified at its end.

        with ctx.open(payload.source) as stream: ...
        """
        with self.objects.open(ref.uri) as stream:
            yield verified(stream, size=ref.size, sha256=ref.sha256, name=ref.uri)

    def progress(self, done: float, total: float | None = None) -> None:
        """Say how far the job is; cheap enough to call for every chunk."""
        if self._on_progress is not None:
            self._on_progress(done, total)

    def cancel(self, reason: type[TransientError]) -> None:
        """Tell the handler to stop (the engine's side)."""
        self._cancel_reason = reason
        self.cancellation.set()
        if self._on_cancel is not None:
            self._on_cancel()

    def on_cancel(self, call: Callable[[], object]) -> None:
        """Have `call` made when the job is told to stop; at once if it was told already."""
        self._on_cancel = call
        if self.cancellation.is_set():
            call()
