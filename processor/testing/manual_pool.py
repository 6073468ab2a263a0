"""A pool that works when it is told to, in the thread that tells it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from processor.engine.slices import Report, Slice
from processor.errors import ProcessorError
from processor.testing.manual_clock import ManualClock

Work = Slice | tuple[Callable[[], Any], Any]


class ManualPool:
    """Slices and errands wait until `run_next` (port: `engine.slices.Pool`).

    A handler may call `worker.step` itself: then the loop turns while the job runs, as it does
    beside a real thread. `wait`, where the loop gives its thread away, does the next piece of work,
    or lets time pass when there is none; `on_wait` takes its place.
    """

    def __init__(
        self,
        run: Callable[[Slice, Callable[[Report], None]], None],
        *,
        clock: ManualClock,
        slots: int = 4,
        on_wait: Callable[[float], None] | None = None,
    ) -> None:
        self._run = run
        self._clock = clock
        self._slots = slots
        self._unfinished = 0
        self._reports: list[Report] = []
        self._ended: list[tuple[Any, Any]] = []
        self.pending: deque[Work] = deque()
        self.on_wait = on_wait
        self.replaced = 0  # Threads started in place of those that abandoned slices hold.

    @property
    def free(self) -> int:
        """How many more slices can start at once."""
        return self._slots - self._unfinished

    @property
    def free_async(self) -> int:
        """The same: they share the slots."""
        return self.free

    def run_next(self, position: int = 0) -> bool:
        """Do a waiting piece of work, the oldest unless told otherwise. False: none waits."""
        if not self.pending:
            return False
        work = self.pending[position]
        del self.pending[position]
        if isinstance(work, Slice):
            self._run(work, lambda report: self._reports.append(report))
            return True
        call, token = work
        answer: Any
        try:
            answer = call()
        except ProcessorError as error:  # Anything else is a bug: the test sees it.
            answer = error
        self._ended.append((token, answer))
        return True

    def run_all(self) -> int:
        """Work until nothing waits. Returns how many pieces were done."""
        done = 0
        while self.run_next():
            done += 1
        return done

    def submit(self, work: Slice) -> None:
        """Keep a slice until it is run."""
        self._unfinished += 1
        self.pending.append(work)

    def errand(self, call: Callable[[], Any], token: Any) -> None:
        """Keep a call until it is made."""
        self.pending.append((call, token))

    def reports(self) -> list[Report]:
        """Take what slices reported."""
        taken, self._reports = self._reports, []
        self._unfinished -= sum(report.finished for report in taken)
        return taken

    def errands_done(self) -> list[tuple[Any, Any]]:
        """Take the errands that ended."""
        taken, self._ended = self._ended, []
        return taken

    def wait(self, timeout_seconds: float) -> None:
        """Let other threads work: here, the next piece."""
        if self.on_wait is not None:
            self.on_wait(timeout_seconds)
        elif not self.run_next():
            self._clock.advance(timeout_seconds)

    def replace(self, work: Slice) -> None:  # noqa: ARG002 - all slots are alike.
        """Count a thread started for one that an abandoned slice holds."""
        self._unfinished -= 1
        self.replaced += 1

    def close(self) -> None:
        """Nothing is held."""
