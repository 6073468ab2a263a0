"""Threads that run slices and errands; slices whose handlers are coroutines go to coroutines.py."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from processor.adapters.coroutines import CoroutineThread, Steps
from processor.engine.slices import Report, Slice

ERRAND_THREADS = 2


class ThreadPool:
    """Runs slices on daemon threads (port: `engine.slices.Pool`).

    Daemons, since a handler that never returns must not keep a stopped worker alive. Errands have
    threads of their own: they must not wait behind jobs.
    """

    def __init__(self, runner: Steps, threads: int, *, coroutines_max: int = 1000) -> None:
        self._run = runner.run
        self._threads = threads
        self._work: SimpleQueue[Slice | None] = SimpleQueue()
        self._errands: SimpleQueue[tuple[Callable[[], Any], Any] | None] = SimpleQueue()
        self._reports: SimpleQueue[Report] = SimpleQueue()
        self._ended: SimpleQueue[tuple[Any, Any]] = SimpleQueue()
        self._bell = threading.Event()
        self._coroutines = CoroutineThread(
            runner,
            jobs_max=coroutines_max,
            threads=threads,
            report=self._reports.put,
            ring=self._bell.set,
            bug=self._end,
        )
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

    @property
    def free_async(self) -> int:
        """How many more slices the coroutines' loop takes."""
        return self._coroutines.free

    def submit(self, work: Slice) -> None:
        """Run a slice on the next free thread, or on the coroutines' loop."""
        if work.is_async:
            self._coroutines.submit(work)
            return
        self._unfinished += 1
        self._work.put(work)

    def errand(self, call: Callable[[], Any], token: Any) -> None:
        """Run a short call beside the loop."""
        self._errands.put((call, token))

    def reports(self) -> list[Report]:
        """Take what slices reported."""
        taken = _all(self._reports)
        for report in taken:
            if report.finished and report.slice.is_async:
                self._coroutines.unfinished -= 1
            elif report.finished:
                self._unfinished -= 1
        return taken

    def errands_done(self) -> list[tuple[Any, Any]]:
        """Take the errands that ended."""
        return _all(self._ended)

    def wait(self, timeout_seconds: float) -> None:
        """Wait for the next report or errand, or for so long."""
        self._bell.wait(timeout_seconds)
        self._bell.clear()

    def replace(self, work: Slice) -> None:
        """Start a thread for the one that an abandoned slice holds."""
        if work.is_async:
            self._coroutines.abandon(work)
            return
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

    def _report(self, report: Report) -> None:
        self._reports.put(report)
        self._bell.set()

    def _end(self, bug: BaseException) -> None:
        """Hand a bug to the loop, which ends the worker with it."""
        self._ended.put((None, bug))
        self._bell.set()

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            finished = False

            def report(each: Report) -> None:
                nonlocal finished
                finished = finished or each.finished
                self._report(each)

            try:
                self._run(work, report)
            except BaseException as bug:  # noqa: BLE001 - the loop ends the worker with it.
                self._end(bug)
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


def _all(queue: SimpleQueue[Any]) -> list[Any]:
    taken = []
    while True:
        try:
            taken.append(queue.get_nowait())
        except Empty:
            return taken
