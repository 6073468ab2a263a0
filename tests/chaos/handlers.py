"""The chaos run's handlers: copied into its project, and run by its workers."""

import os
from hashlib import md5

from processor import App, Reject
from processor.sinks.sqlite import SqliteSink

app = App()
SEED = os.environ.get("CHAOS_SEED", "0")
TABLE = "CREATE TABLE IF NOT EXISTS effect (place INTEGER PRIMARY KEY, key TEXT, seq INTEGER)"


def chance(*parts: object) -> int:
    digest = md5(":".join(map(str, (SEED, *parts))).encode()).digest()
    return int.from_bytes(digest[:4], "big") % 10_000


@app.job("chaos.count", sink=SqliteSink("effect", create=TABLE))
def count(payload: dict, ctx) -> dict:  # type: ignore[no-untyped-def, type-arg]
    key, seq = payload["key"], payload["seq"]
    if chance(key, seq) < 10:
        raise Reject("never")
    if chance(key, seq, ctx.attempt) < 1000:
        raise OSError("not now")
    return {"key": key, "seq": seq}
