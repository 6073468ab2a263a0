"""Threads that run slices, and one asyncio loop for handlers that are coroutines."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from queue import Empty, SimpleQueue
from typing import Any

from processor.engine.context import JobContext
from processor.engine.slices import Report, Slice

ERRAND_THREADS = 2


class ThreadPool:
    """Runs slices on daemon threads (port: `engine.slices.Pool`).

    Daemons, since a handler that never returns must not keep a stopped worker alive. Errands have
    threads of their own: they must not wait behind jobs.
    """

    def __init__(
        self, run: Callable[[Slice, Callable[[Report], None]], None], threads: int
    ) -> None:
        self._run = run
        self._threads = threads
        self._work: SimpleQueue[Slice | None] = SimpleQueue()
        self._errands: SimpleQueue[tuple[Callable[[], Any], Any] | None] = SimpleQueue()
        self._reports: SimpleQueue[Report] = SimpleQueue()
        self._ended: SimpleQueue[tuple[Any, Any]] = SimpleQueue()
        self._bell = threading.Event()
        self._started = 0
        self._unfinished = 0
        self._closed = False
        for _ in range(threads):
            self._start_thread()
        for number in range(ERRAND_THREADS):
            name = f"processor-errand-{number}"
            threading.Thread(target=self._serve_errands, name=name, daemon=True).start()

    @property
    def free(self) -> int:
        """How many more slices can start at once."""
        return self._threads - self._unfinished

    def submit(self, work: Slice) -> None:
        """Run a slice on the next free thread."""
        self._unfinished += 1
        self._work.put(work)

    def errand(self, call: Callable[[], Any], token: Any) -> None:
        """Run a short call beside the loop."""
        self._errands.put((call, token))

    def reports(self) -> list[Report]:
        """Take what slices reported."""
        taken = _all(self._reports)
        self._unfinished -= sum(report.finished for report in taken)
        return taken

    def errands_done(self) -> list[tuple[Any, Any]]:
        """Take the errands that ended."""
        return _all(self._ended)

    def wait(self, timeout_seconds: float) -> None:
        """Wait for the next report or errand, or for so long."""
        self._bell.wait(timeout_seconds)
        self._bell.clear()

    def replace(self) -> None:
        """Start a thread for the one that an abandoned slice holds."""
        self._unfinished -= 1
        self._start_thread()

    def close(self) -> None:
        """Let idle threads end."""
        if self._closed:
            return
        self._closed = True
        for _ in range(self._started):
            self._work.put(None)
        for _ in range(ERRAND_THREADS):
            self._errands.put(None)

    def _start_thread(self) -> None:
        name = f"processor-job-{self._started}"
        self._started += 1
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            finished = False

            def report(each: Report) -> None:
                nonlocal finished
                finished = finished or each.finished
                self._reports.put(each)
                self._bell.set()

            try:
                self._run(work, report)
            except BaseException as bug:  # noqa: BLE001 - the loop ends the worker with it.
                self._ended.put((None, bug))
                self._bell.set()
                return
            if not finished:
                return  # Abandoned: another thread has taken this one's place.

    def _serve_errands(self) -> None:
        while (errand := self._errands.get()) is not None:
            call, token = errand
            answer: Any
            try:
                answer = call()
            except Exception as error:  # noqa: BLE001 - handed to the loop, which knows what to do.
                answer = error
            self._ended.put((token, answer))
            self._bell.set()


class CoroutineThread:
    """One asyncio loop on a thread of its own, for handlers written with `async def`."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def await_result(self, coroutine: Coroutine[Any, Any, Any], context: JobContext) -> Any:
        """Run a coroutine to its end; when the job is told to stop it is cancelled."""
        future = asyncio.run_coroutine_threadsafe(_contained(coroutine), self._running_loop())
        context.on_cancel(future.cancel)
        try:
            result, ending = future.result()
        except CancelledError:
            context.raise_if_cancelled()
            raise
        if ending is not None:
            raise ending
        return result

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                run = self._loop.run_forever
                threading.Thread(target=run, name="processor-async", daemon=True).start()
            return self._loop


async def _contained(
    coroutine: Coroutine[Any, Any, Any],
) -> tuple[Any, SystemExit | KeyboardInterrupt | None]:
    """Keep what would end the loop, and with it every other handler, for the caller to raise."""
    try:
        return await coroutine, None
    except (SystemExit, KeyboardInterrupt) as ending:
        return None, ending


def _all(queue: SimpleQueue[Any]) -> list[Any]:
    taken = []
    while True:
        try:
            taken.append(queue.get_nowait())
        except Empty:
            return taken
