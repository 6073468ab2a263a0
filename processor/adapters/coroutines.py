"""Slices whose handlers are coroutines: one asyncio loop on a thread of its own runs them all.

A handler is a task, so thousands are in flight on one thread. A slice's steps between two of them
are taken on the loop where they cannot block, else on one of a few threads (`Steps.blocks`).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol

from processor.engine.context import JobContext
from processor.engine.slices import Report, Slice
from processor.errors import frames_of

_LOGGER = logging.getLogger(__name__)

AHEAD = 2.0  # Slices taken for each that may run: the next one starts before the loop comes round.
RING_SECONDS = 0.001  # How late the worker's thread may be woken.


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


# How a handler ended: what its slice goes on with, and the result or fault that it is given.
Step = Callable[[Generator[Awaiting, Any, None], Any], Awaiting | None]
Ended = tuple[Step, Any]


class CoroutineThread:
    """Runs slices one step after the other; at most `jobs_max` of their handlers are in flight.

    `submit`, `free` and `unfinished` belong to one thread; what is given it is called on others.
    `report` keeps a report for the worker's thread, `ring` wakes it.
    """

    def __init__(
        self,
        runner: Steps,
        *,
        jobs_max: int,
        threads: int,
        report: Callable[[Report], None],
        ring: Callable[[], None],
        bug: Callable[[BaseException], None],
    ) -> None:
        self._runner = runner
        self._jobs_max = jobs_max
        self._threads = _StepThreads(threads)
        self._report = report
        self._ring = ring
        self._bug = bug
        self.unfinished = 0
        self._submitted: deque[Slice] = deque()
        self._woken = False
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        # What follows belongs to the asyncio thread.
        self._waiting: deque[Slice] = deque()  # For a slot.
        self._starting = False  # Some that wait will be started in a moment.
        # Who has a slot, and the step that a thread has taken for it last.
        self._slotted: dict[Slice, asyncio.Future[Any] | None] = {}
        self._tasks: set[asyncio.Task[Ended]] = set()  # The loop itself holds them weakly.
        self._ringing = False  # The worker's thread will be woken in a moment.

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
                self._loop.call_soon_threadsafe(self._take_all)

    def abandon(self, work: Slice) -> None:
        """Give the slot, and the thread, of an abandoned slice to another."""
        self.unfinished -= 1
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._give_up, work)

    def _begin(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_tell_stray)
        serve = partial(self._serve, self._loop)
        threading.Thread(target=serve, name="processor-async", daemon=True).start()

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run the loop for good: what a handler started may not end it for all others."""
        while True:
            try:
                loop.run_forever()  # It comes back where a handler stops the loop.
            except (SystemExit, KeyboardInterrupt) as fault:
                # asyncio lets these two out, after it has told whoever awaits the task.
                _LOGGER.warning("%s raised %s", _STRAY, type(fault).__name__)
            except BaseException as bug:  # noqa: BLE001 - the loop ends the worker with it.
                self._bug(bug)
                return

    # On the asyncio thread: a slice waits, has a slot, takes steps and awaits coroutines, is freed.

    def _take_all(self) -> None:
        with self._lock:
            submitted, self._submitted = self._submitted, deque()
            self._woken = False
        self._waiting += submitted
        self._start_some()

    def _start_some(self) -> None:
        self._starting = False
        while self._waiting and len(self._slotted) < self._jobs_max:
            work = self._waiting.popleft()
            self._slotted[work] = None
            with self._ending_with_a_bug(work):
                blocks = self._runner.blocks(work)
                report = self._report_at_once if blocks else self._report_soon
                steps = self._runner.steps(work, report)
                self._take_step(_Driven(work, steps, blocks), _next, None)

    def _take_step(self, driven: _Driven, step: Step, given: Any) -> None:
        """Go on with a slice: here, or on a thread where it may have to wait."""
        if not driven.blocks:
            self._await(driven, step(driven.steps, given))
            return
        answer = self._threads.run(partial(step, driven.steps, given))
        if driven.work in self._slotted:
            self._slotted[driven.work] = answer
        answer.add_done_callback(partial(self._stepped, driven))

    def _stepped(self, driven: _Driven, answer: asyncio.Future[Awaiting | None]) -> None:
        with self._ending_with_a_bug(driven.work):
            self._await(driven, answer.result())

    def _await(self, driven: _Driven, awaiting: Awaiting | None) -> None:
        """Start a handler's coroutine; None: the slice has ended."""
        if awaiting is None:
            self._free(driven.work)
            return
        loop = self._loop
        assert loop is not None
        # A task of its own: what it does to its task or its context variables it does to no other.
        task = loop.create_task(_ended(awaiting.coroutine))
        self._tasks.add(task)
        awaiting.context.on_cancel(lambda: loop.call_soon_threadsafe(task.cancel))
        task.add_done_callback(partial(self._handled, driven, awaiting.context))

    def _handled(self, driven: _Driven, context: JobContext, task: asyncio.Task[Ended]) -> None:
        self._tasks.discard(task)
        with self._ending_with_a_bug(driven.work):
            try:
                step, given = task.result()
            except asyncio.CancelledError as fault:  # It was told at its very end.
                step, given = _throw, fault
            if step is _throw and isinstance(given, asyncio.CancelledError):
                given = _reason(context, given)
            self._take_step(driven, step, given)

    @contextmanager
    def _ending_with_a_bug(self, work: Slice) -> Iterator[None]:
        """End the worker with what a slice's steps let out: asyncio would but log it."""
        try:
            yield
        except BaseException as bug:  # noqa: BLE001 - the loop ends the worker with it.
            self._bug(bug)
            self._free(work)

    def _give_up(self, work: Slice) -> None:
        """Free what an abandoned slice holds, unless it has ended meanwhile."""
        answer = self._slotted.get(work)
        if answer is not None and not answer.done():
            self._threads.replace(answer)
        self._free(work)

    def _free(self, work: Slice) -> None:
        """Give a slice's slot to another, once."""
        if self._slotted.pop(work, _NONE) is _NONE or not self._waiting or self._starting:
            return
        assert self._loop is not None
        self._starting = True  # Not at once: this may have been called by what it would call.
        self._loop.call_soon(self._start_some)

    def _report_at_once(self, report: Report) -> None:
        self._report(report)
        self._ring()

    def _report_soon(self, report: Report) -> None:
        """Keep it, and wake the worker's thread soon, for others too: each time costs as much."""
        self._report(report)
        if not self._ringing:
            assert self._loop is not None
            self._ringing = True
            self._loop.call_later(RING_SECONDS, self._ring_now)

    def _ring_now(self) -> None:
        self._ringing = False
        self._ring()


_NONE: Any = object()


@dataclass(eq=False, slots=True)
class _Driven:
    """A slice with a slot. `blocks`: its steps are taken on threads."""

    work: Slice
    steps: Generator[Awaiting, Any, None]
    blocks: bool


class _StepThreads:
    """Threads for steps that may block; daemons, since one that hangs must not keep a worker.

    All but the threads themselves belongs to the asyncio thread.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._started = 0
        self._todo: SimpleQueue[tuple[asyncio.Future[Any], Callable[[], Any]] | None]
        self._todo = SimpleQueue()

    def run(self, call: Callable[[], Any]) -> asyncio.Future[Any]:
        """Make a call on a thread."""
        if self._started < self._count:
            self._start()
        future = asyncio.get_running_loop().create_future()
        self._todo.put((future, call))
        return future

    def replace(self, answer: asyncio.Future[Any]) -> None:
        """Start a thread for the one that hangs in a call; one ends when that call does."""
        self._start()
        self._count += 1
        answer.add_done_callback(self._end_one)

    def _start(self) -> None:
        threading.Thread(target=self._serve, name="processor-step", daemon=True).start()
        self._started += 1

    def _end_one(self, _: asyncio.Future[Any]) -> None:
        self._count -= 1
        self._started -= 1
        self._todo.put(None)

    def _serve(self) -> None:
        while (todo := self._todo.get()) is not None:
            future, call = todo
            answer: Any = None
            fault: BaseException | None = None
            try:
                answer = call()
            except BaseException as bug:  # noqa: BLE001 - it is raised where the call was asked for.
                fault = bug
            future.get_loop().call_soon_threadsafe(_answer, future, answer, fault)


_STRAY = "what a handler has started on the loop"


def _tell_stray(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Tell of a task that nobody awaits: its job has ended, so what is to be masked is not known.

    Its class and frames alone are told. Without an exception it is asyncio's remark on its use.
    """
    del loop
    error = context.get("exception")
    if error is None:
        _LOGGER.error("%s: %s", _STRAY, context.get("message"))
    else:
        kind, at = type(error).__name__, ", ".join(frames_of(error))
        _LOGGER.error("%s raised %s at %s", _STRAY, kind, at)


def _answer(future: asyncio.Future[Any], answer: Any, fault: BaseException | None) -> None:
    if future.cancelled():
        return
    if fault is None:
        future.set_result(answer)
    else:
        future.set_exception(fault)


async def _ended(coroutine: Any) -> Ended:
    """Wait for a coroutine's end, whatever it is: what a task raises might end the loop."""
    try:
        return _next, await coroutine
    except GeneratorExit as fault:  # Thrown into a generator it would close it.
        exits = RuntimeError("the handler raised GeneratorExit")
        exits.__cause__ = fault
        return _throw, exits
    except BaseException as fault:  # noqa: BLE001 - it is user code: its slice is told.
        return _throw, fault


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
