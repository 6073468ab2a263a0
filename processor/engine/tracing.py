"""What a tracer makes spans of. Where there is none, nothing here is called.

A *run's span* lasts from its record's look-up to its outcome, and is a child of the span in which
the job was submitted. What the run reads, writes and appends are children of it.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from processor.core.lane import Entry
from processor.model import Outgoing


class AppendSpan(Protocol):
    """The span of a record on its way to the log."""

    def landed(self, partition: int | None, offset: int) -> None:
        """End it: the record was acknowledged."""
        ...

    def failed(self, error_type: str) -> None:
        """End it: nobody knows whether the record is on the log."""
        ...


class RunSpan(Protocol):
    """The span of one run of one job. Ending it twice does no harm."""

    @property
    def traceparent(self) -> str | None:
        """Its context, as a header carries it; None: it has none."""
        ...

    @property
    def ids(self) -> Mapping[str, str]:
        """`trace_id` and `span_id`, for log lines."""
        ...

    def current(self) -> AbstractContextManager[Any]:
        """Make it the parent of what is traced inside the block, by this thread or task."""
        ...

    async def awaited(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Await a handler with the span as the current one of its task."""
        ...

    def read(self, job_id: str, job_type: str) -> None:
        """Note which job it turned out to be."""
        ...

    def end(self, outcome: str, error_type: str | None = None) -> None:
        """End it, with what came of the run."""
        ...

    def append(self, outgoing: Outgoing) -> AppendSpan:
        """Begin a child for what the run's verdict appends."""
        ...


class Tracing(Protocol):
    """Makes the spans of a worker's runs."""

    def run(self, entry: Entry) -> RunSpan:
        """Begin the span of a record's next run."""
        ...

    def batch(self, spans: Sequence[RunSpan]) -> AbstractContextManager[Any]:
        """One span for a handler that is given many jobs: it and their spans are linked."""
        ...

    def write(self, name: str, spans: Sequence[RunSpan]) -> AbstractContextManager[Any]:
        """A child of each of these runs' spans, for one write of what all of them left."""
        ...
