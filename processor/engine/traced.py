"""A `Runner` whose runs are traced (port: engine/tracing.py).

A run's span begins before its job is read and ends with its outcome; what has none at the end of
its slice comes again, and ends as `again`; as `unwritten`, where only its effects are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from processor.core.lane import Entry
from processor.engine.batch import Ready
from processor.engine.call import Awaiting
from processor.engine.ports import LedgerRow
from processor.engine.run import Runner, Steps
from processor.engine.slice_progress import SliceProgress
from processor.engine.slices import Duplicate, Failed, Outcome, Report, Slice
from processor.engine.tracing import Tracing
from processor.errors import OutageError


class TracedRunner(Runner):
    """Runs slices as a `Runner` does, and has a span made of every run."""

    def __init__(self, *, tracing: Tracing, **parts: Any) -> None:
        super().__init__(**parts)
        self._begin = tracing.run
        self._tracing = tracing

    def steps(self, work: Slice, report: Callable[[Report], None]) -> Steps:
        """Run a slice, and end the spans of what it reports before anybody judges it."""

        def told(each: Report) -> None:
            for entry, outcome in each.outcomes:
                _end(entry, outcome)
            if each.finished:
                for entry in work.entries:
                    if entry.span is not None:
                        entry.span.end("again" if entry.ran is None else "unwritten")
            report(each)

        yield from super().steps(work, told)

    def _prepare(
        self, entry: Entry, known: dict[str, LedgerRow], progress: SliceProgress
    ) -> Ready | Outcome | None:
        if entry.ran is None:  # Else its run is over, and has but to be written.
            entry.span = self._begin(entry)
        with entry.span.current():
            try:
                ready = super()._prepare(entry, known, progress)
            except OutageError as outage:
                entry.span.end("unavailable", type(outage).__name__)
                raise
        if isinstance(ready, Ready):
            entry.span.read(ready.job.job_id, ready.spec.job_type)
        elif ready is not None:
            _end(entry, ready)
        return ready

    def _run_one(
        self, ready: Ready, progress: SliceProgress
    ) -> Generator[Awaiting, Any, Outcome | None]:
        outcome = yield from super()._run_one(ready, progress)
        if outcome is not None:
            _end(ready.entry, outcome)
        return outcome

    def _flush(self, progress: SliceProgress) -> bool:
        before = len(progress.outcomes)
        try:
            return super()._flush(progress)
        finally:
            for entry, outcome in progress.outcomes[before:]:
                _end(entry, outcome)


def _end(entry: Entry, outcome: Outcome) -> None:
    if entry.span is None:
        return
    match outcome:
        case Failed(failure):
            entry.span.end("failed", failure.error_class)
        case Duplicate():
            entry.span.end("duplicate")
        case _:
            entry.span.end(type(outcome).__name__.lower())
