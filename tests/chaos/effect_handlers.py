"""The handlers of `make chaos-effects`: copied into its project, and run by its workers.

Every job appends to its key's sequence and bumps its key's counter. Half of the keys do it in the
handler's own transaction, half in a sink. What is done twice, or by a worker that has lost its
partition, shows for good.
"""

import os
import time
from hashlib import md5

from processor import App, Reject
from processor.sinks.postgres import PostgresLedger

app = App()
SEED = os.environ.get("CHAOS_SEED", "0")

if os.environ.get("CHAOS_PLANT") == "no fence":  # A planted defect: who writes is not checked.
    insert = PostgresLedger._insert

    def unchecked(ledger, statements, owner, effects):  # type: ignore[no-untyped-def]
        insert(ledger, statements, owner._replace(epoch=2**60), effects)
        return {each.identity for each in effects}

    PostgresLedger._insert = unchecked  # type: ignore[method-assign]
    PostgresLedger._epoch = lambda *_, **__: 0  # type: ignore[method-assign]


def chance(*parts: object) -> int:
    digest = md5(":".join(map(str, (SEED, *parts))).encode()).digest()
    return int.from_bytes(digest[:4], "big") % 10_000


def fail_now_and_then(payload, ctx) -> None:  # type: ignore[no-untyped-def]
    time.sleep(0.005)  # So that a worker that is stopped is stopped in the middle of something.
    key, seq = payload["key"], payload["seq"]
    if chance(key, seq) < 10:
        raise Reject("never")
    if chance(key, seq, ctx.attempt) < 1000:
        raise OSError("not now")


def append(connection, key, seq) -> None:  # type: ignore[no-untyped-def]
    connection.execute("INSERT INTO sequence (key, seq) VALUES (%s, %s)", [key, seq])
    connection.execute(
        "INSERT INTO counter VALUES (%s, 1) ON CONFLICT (key) DO UPDATE SET n = counter.n + 1",
        [key],
    )


class Appending:
    """A user's own transactional sink."""

    def write_in(self, transaction, effects) -> None:  # type: ignore[no-untyped-def]
        for effect in effects:
            append(transaction, effect.result["key"], effect.result["seq"])


@app.job("chaos.sink", sink=Appending())
def by_sink(payload: dict, ctx) -> dict:  # type: ignore[no-untyped-def, type-arg]
    fail_now_and_then(payload, ctx)
    return payload


@app.job("chaos.own")
def by_hand(payload: dict, ctx) -> None:  # type: ignore[no-untyped-def, type-arg]
    append(ctx.transaction, payload["key"], payload["seq"])
    fail_now_and_then(payload, ctx)  # What was written is undone with it.
