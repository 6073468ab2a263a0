"""The demo's worker: the built-in `object.copy`, with its effects also noted in a table.

The table has no unique column: an effect that happened twice would stand there twice.
"""

from __future__ import annotations

from typing import Any

from processor.app import App
from processor.engine.context import JobContext
from processor.jobs import ObjectCopy, checksum, copy
from processor.sinks.sqlite import SqliteSink

EFFECTS = (
    "CREATE TABLE IF NOT EXISTS effect"
    " (place INTEGER PRIMARY KEY, job_id TEXT, job_key TEXT, attempt INTEGER, uri TEXT)"
)

app = App()
app.job("object.checksum", topic="copy")(checksum)


@app.job("object.copy", topic="copy", timeout="60s", sink=SqliteSink("effect", create=EFFECTS))
def noted_copy(payload: ObjectCopy, ctx: JobContext) -> dict[str, Any]:
    """Copy, and note whose effect it was."""
    done = copy(payload, ctx)
    return {
        "job_id": ctx.job_id,
        "job_key": ctx.key,
        "attempt": ctx.attempt,
        "uri": done["uri"],
    }
