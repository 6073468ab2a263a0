"""What a handler is given beside its payload."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from processor.contracts.claims import verified
from processor.contracts.uris import shown
from processor.errors import JobTimeout, TransientError, UsageError
from processor.model import ObjectRef

if TYPE_CHECKING:
    from processor.contracts.claims import ObjectStore, Stream


_MAKING = threading.Lock()  # Of an event for a job's cancellation.


class JobCancelled(TransientError):
    """The worker wants the job's thread back: it is stopping, or its partition moves on.

    A job is told only when `worker.drain_seconds` are over, or at once where its partition is lost.
    When the worker is stopping, the process may end at once.
    """


class JobContext:
    """One run of one job, as its handler sees it.

    `job_id`, `job_type`, `key` (the ordering key), `attempt` (1 for the first run), `deadline`
    (seconds since the epoch: when its timeout ends, or the job's own deadline where that is
    earlier), `log` (bound to the job; never log the payload), `objects`
    (file, S3 and HTTP by URI).
    """

    __slots__ = (
        "_bind_log",
        "_cancel_reason",
        "_cancellation",
        "_cancelled",
        "_checkpoint",
        "_log",
        "_on_cancel",
        "_on_checkpoint",
        "_on_progress",
        "_on_transaction",
        "attempt",
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
        progress: str | None = None,
    ) -> None:
        self.job_id = job_id
        self.job_type = job_type
        self.key = key
        self.attempt = attempt
        self.deadline = deadline
        self.objects = objects
        self._cancelled = False
        self._cancellation: threading.Event | None = None
        self._cancel_reason: type[TransientError] = JobCancelled
        self._on_cancel: Callable[[], object] | None = None
        self._on_progress: Callable[[float, float | None], None] | None = None
        self._checkpoint = progress
        self._on_checkpoint: Callable[[str], bool] | None = None
        self._on_transaction: Callable[[], Any] | None = None
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
        return self._cancelled

    @property
    def cancellation(self) -> threading.Event:
        """The same as an event to wait for."""
        with _MAKING:  # Most handlers never ask for it, and it takes longer to make than the rest.
            if self._cancellation is None:
                self._cancellation = threading.Event()
                if self._cancelled:
                    self._cancellation.set()
        return self._cancellation

    def raise_if_cancelled(self) -> None:
        """Leave the handler when it was told to stop. Call it between the steps of a long job."""
        if self._cancelled:
            if self._cancel_reason is JobTimeout:
                raise JobTimeout(f"job {self.job_id} ran out of time")
            raise self._cancel_reason(f"job {self.job_id} was told to stop")

    @contextmanager
    def open(self, ref: ObjectRef) -> Iterator[Stream]:
        """Stream a large input; what the reference says of size and sha256 is verified at its end.

        with ctx.open(payload.source) as stream: ...
        """
        with self.objects.open(ref.uri) as stream:
            yield verified(stream, size=ref.size, sha256=ref.sha256, name=shown(ref.uri))

    def progress(self, done: float, total: float | None = None) -> None:
        """Say how far the job is; cheap enough to call for every chunk."""
        if self._on_progress is not None:
            self._on_progress(done, total)

    @property
    def last_checkpoint(self) -> Any:
        """What this job kept last with `checkpoint`, in this run or an earlier one; else None."""
        return None if self._checkpoint is None else json.loads(self._checkpoint)

    def checkpoint(self, state: Any) -> bool:
        """Keep how far the job is, as JSON, for its next run here or on another worker.

        It is durable when this returns True. False: the ledger is away, and what was kept before
        stays. Raises OwnershipLost where the job is another worker's by now: let it pass.
        """
        progress = json.dumps(state, allow_nan=False)
        if self._on_checkpoint is None or not self._on_checkpoint(progress):
            return False
        self._checkpoint = progress
        return True

    @property
    def transaction(self) -> Any:
        """A psycopg connection inside a transaction: what is written there commits with the job.

        It is opened when it is first asked for, and rolled back when the handler fails or the job
        has become another worker's. For handlers that are functions, with a PostgreSQL ledger.
        """
        if self._on_transaction is None:
            raise UsageError("this context belongs to no worker", hint="run the job on a worker")
        return self._on_transaction()

    def on_checkpoint(self, keep: Callable[[str], bool]) -> None:
        """Say where `checkpoint` keeps its JSON (the engine's side)."""
        self._on_checkpoint = keep

    def on_transaction(self, begin: Callable[[], Any]) -> None:
        """Say what opens `transaction` (the engine's side)."""
        self._on_transaction = begin

    def cancel(self, reason: type[TransientError]) -> None:
        """Tell the handler to stop (the engine's side)."""
        self._cancel_reason = reason
        self._cancelled = True
        with _MAKING:
            if self._cancellation is not None:
                self._cancellation.set()
        if self._on_cancel is not None:
            self._on_cancel()

    def on_cancel(self, call: Callable[[], object]) -> None:
        """Have `call` made when the job is told to stop; at once if it was told already."""
        self._on_cancel = call
        if self._cancelled:
            call()
