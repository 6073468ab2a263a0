"""Handlers that are given many jobs at once (`@app.job(batch=…)`) and settle each by itself.

A batch holds jobs of one type in the order of their records, several of one key included. When a
job of it fails, those of its key behind it come again, whatever the handler says of them: their
turn had not come. So a handler should leave out what follows a failure within a key.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from processor.contracts.masking import NOTHING, Plaintexts
from processor.contracts.protected import Opened
from processor.core.lane import Entry
from processor.engine.job import JobSpec
from processor.engine.ports import LedgerRow
from processor.errors import UsageError
from processor.model import JobHeaders


class Ready(NamedTuple):
    """A job that is decoded and waits for its batch."""

    entry: Entry
    job: JobHeaders
    spec: JobSpec
    payload: Any
    row: LedgerRow | None  # What the ledger knows of it.
    opened: Opened | None = None  # Of a payload with tagged fields.

    @property
    def plaintexts(self) -> Plaintexts:
        """What of its payload must not be told."""
        return NOTHING if self.opened is None else self.opened.plaintexts


def results_of(returned: Any, count: int) -> Sequence[Any]:
    """What a batch handler's return value says of each job: a result, or the exception it raised.

    None: all succeeded. Raises UsageError where it says nothing of each, TypeError or ValueError
    where a result is no JSON.
    """
    if returned is None:
        return [None] * count
    if not isinstance(returned, list | tuple) or len(returned) != count:
        what = f"{len(returned)}" if isinstance(returned, list | tuple) else type(returned).__name__
        raise UsageError(
            f"a batch handler was given {count} jobs and returned {what}",
            hint="return None, or a list with a result or an exception for each job, in order",
        )
    for each in returned:
        if each is not None and not isinstance(each, BaseException):
            json.dumps(each, allow_nan=False)
    return returned
