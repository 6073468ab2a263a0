"""Slices whose handlers are coroutines: one asyncio loop on a thread of its own runs them all.

A slice is a task, so thousands are in flight on one thread. Its steps between two coroutines are
taken on the loop where they cannot block, else on one of a few threads (`Steps.blocks`).
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol

from processor.engine.context import JobContext
from processor.engine.slices import Report, Slice

AHEAD = 2.0  # Slices taken for each that may run: the next one starts before the loop comes round.


class Awaiting(Protocol):
    """A handler's coroutine, and the context by which its job may be told to stop."""

    @property
    def coroutine(self) -> Any:
        """What is to be awaited."""

    @property
    def context(self) -> JobContext:
        """Tells when it is to be cancelled."""


class Steps(Protocol):
    """What runs slices (`engine.run.Runner`)."""

    def run(self, work: Slice, report: Callable[[Report], None]) -> None:
        """Run a slice to its end on this thread."""

    def steps(
        self, work: Slice, report: Callable[[Report], None]
    ) -> Generator[Awaiting, Any, None]:
        """Run it up to the next coroutine."""

    def blocks(self, work: Slice) -> bool:
        """Whether a step may wait for anything else."""


class CoroutineThread:
    """Runs slices as tasks; at most `jobs_max` of their handlers are in flight.

    `submit`, `free` and `unfinished` belong to one thread; `report` and `bug` are called on others.
    """

    def __init__(
        self,
        runner: Steps,
        *,
        jobs_max: int,
        threads: int,
        report: Callable[[Report], None],
        bug: Callable[[BaseException], None],
    ) -> None:
        self._runner = runner
        self._jobs_max = jobs_max
        self._threads = _StepThreads(threads)
        self._report = report
        self._bug = bug
        self.unfinished = 0
        self._abandoned: set[Slice] = set()
        self._submitted: deque[Slice] = deque()
        self._woken = False
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()  # The loop itself holds them weakly.

    @property
    def free(self) -> int:
        """How many more slices are taken."""
        return max(1, int(self._jobs_max * AHEAD)) - self.unfinished

    def submit(self, work: Slice) -> None:
        """Run a slice. Many that come together wake the loop once."""
        self.unfinished += 1
        with self._lock:
            self._submitted.append(work)
            if self._loop is None:
                self._begin()
            assert self._loop is not None
            if not self._woken:
                self._woken = True
                self._loop.call_soon_threadsafe(self._start_all)

    def abandon(self, work: Slice) -> None:
        """Give the slot, and the thread, of an abandoned slice to another."""
        self.unfinished -= 1
        self._abandoned.add(work)
        self._threads.add()
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._slots.release)

    def _begin(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._slots = asyncio.Semaphore(self._jobs_max)
        run = self._loop.run_forever
        threading.Thread(target=run, name="processor-async", daemon=True).start()

    def _start_all(self) -> None:
        with self._lock:
            submitted, self._submitted = self._submitted, deque()
            self._woken = False
        assert self._loop is not None
        for work in submitted:
            task = self._loop.create_task(self._run(work))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, work: Slice) -> None:
        """Drive a slice's steps, and await its coroutines."""
        steps = self._runner.steps(work, self._report)
        blocks = self._runner.blocks(work)
        step: Callable[..., Awaiting | None] = _next
        given: Any = None
        await self._slots.acquire()
        try:
            while True:
                if blocks:
                    awaiting = await self._threads.run(partial(step, steps, given))
                else:
                    awaiting = step(steps, given)
                if awaiting is None:
                    return
                step, given = await _awaited(awaiting)
        except BaseException as bug:  # noqa: BLE001 - the loop ends the worker with it.
            self._bug(bug)
        finally:
            if work not in self._abandoned:
                self._slots.release()
            self._abandoned.discard(work)


class _StepThreads:
    """Threads for steps that may block; daemons, since one that hangs must not keep a worker."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._started = 0
        self._todo: SimpleQueue[tuple[asyncio.Future[Any], Callable[[], Any]]] = SimpleQueue()

    def add(self) -> None:
        """Allow one more thread, for one that hangs."""
        self._count += 1

    def run(self, call: Callable[[], Any]) -> asyncio.Future[Any]:
        """Make a call on a thread (asyncio thread)."""
        if self._started < self._count:
            self._started += 1
            name = f"processor-step-{self._started}"
            threading.Thread(target=self._serve, name=name, daemon=True).start()
        future = asyncio.get_running_loop().create_future()
        self._todo.put((future, call))
        return future

    def _serve(self) -> None:
        while True:
            future, call = self._todo.get()
            answer: Any = None
            fault: BaseException | None = None
            try:
                answer = call()
            except BaseException as bug:  # noqa: BLE001 - it is raised where the call was asked for.
                fault = bug
            future.get_loop().call_soon_threadsafe(_answer, future, answer, fault)


def _answer(future: asyncio.Future[Any], answer: Any, fault: BaseException | None) -> None:
    if future.cancelled():
        return
    if fault is None:
        future.set_result(answer)
    else:
        future.set_exception(fault)


async def _awaited(awaiting: Awaiting) -> tuple[Callable[..., Awaiting | None], Any]:
    """Await a handler; the answer is what its slice is to be given."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    told = False

    def cancel() -> None:
        nonlocal told
        told = True
        loop.call_soon_threadsafe(stop)

    def stop() -> None:
        if running:
            task.cancel()

    running = True
    awaiting.context.on_cancel(cancel)
    try:
        return _next, await awaiting.coroutine
    except asyncio.CancelledError as fault:
        if told:
            task.uncancel()
        return _throw, _reason(awaiting.context, fault)
    except BaseException as fault:  # noqa: BLE001 - it is user code: its slice is told.
        return _throw, fault
    finally:
        running = False


def _reason(context: JobContext, fault: BaseException) -> BaseException:
    """What a cancelled handler's slice is told."""
    try:
        context.raise_if_cancelled()
    except Exception as reason:  # noqa: BLE001 - it is raised in the slice.
        return reason
    return fault


def _next(steps: Generator[Awaiting, Any, None], given: Any) -> Awaiting | None:
    """Go on with a result; None: the slice has ended."""
    try:
        return steps.send(given)
    except StopIteration:
        return None


def _throw(steps: Generator[Awaiting, Any, None], fault: BaseException) -> Awaiting | None:
    """Go on with what the handler raised."""
    try:
        return steps.throw(fault)
    except StopIteration:
        return None
