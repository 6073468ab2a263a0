"""`AsyncClient`: submit jobs from a coroutine, without holding its event loop."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Any, Self

from processor.client import PIPELINE_MAX, ROOM_SECONDS, Client
from processor.engine.submit import Accepted, NewJob
from processor.errors import ProcessorError
from processor.settings import Settings
from processor.submission import Submission


class AsyncClient:
    """Submits jobs from one event loop; make one a process, after a fork, and close it.

    async with AsyncClient() as client:
        await client.submit("object.copy", {"source": ..., "target": ...}, key="folder")

    Submissions that are awaited one after the other, or begun in order with `asyncio.gather`, reach
    the log in that order. At most `PIPELINE_MAX` await their acknowledgement at once.
    """

    def __init__(self, settings: Settings | None = None, *, source: str = "processor") -> None:
        self._client = Client(settings, source=source)
        self._client.tell_at_once()
        self._prepared: set[str] = set()
        self._slots = asyncio.Semaphore(PIPELINE_MAX)
        self._in_order = asyncio.Lock()  # Fair: those who wait go on in the order they came.

    async def submit(
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

        As `Client.submit`. When it is cancelled the job may be on the log all the same: submit
        again with the same job id or idempotency key, and it still takes effect once.
        """
        job = NewJob(job_type, payload, key, idempotency_key, job_id, not_before, deadline)
        await self._slots.acquire()
        # A task of its own: its slot is free when the answer comes, whoever still waits for it.
        sending = asyncio.get_running_loop().create_task(self._send(job))
        sending.add_done_callback(lambda _: self._slots.release())
        return (await asyncio.shield(sending)).result()

    async def close(self) -> None:
        """Wait until everything submitted is acknowledged or has failed. Twice does no harm."""
        await asyncio.to_thread(self._client.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            await self.close()
            return
        with contextlib.suppress(ProcessorError):  # The first error is the one to be seen.
            await self.close()

    async def _send(self, job: NewJob) -> Submission:
        """Submit a job and wait for the answer."""
        async with self._in_order:
            submission = await self._begun(job)
        loop, answered = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # The loop has ended.
                loop.call_soon_threadsafe(answered.set)

        submission.when_answered(wake)
        await answered.wait()
        return submission

    async def _begun(self, job: NewJob) -> Submission:
        """Begin a submission; on a thread where it may wait: for registry, claim, or key."""
        if job.job_type in self._prepared and self._client.settings.claims.store is None:
            submission, record = self._client.encoded(job)
            while not self._client.handed_over(submission, record):
                await asyncio.sleep(ROOM_SECONDS)
            return submission
        submission = await asyncio.to_thread(self._client.submit_soon, job)
        if not self._client.protects(job.job_type):
            self._prepared.add(job.job_type)
        return submission
