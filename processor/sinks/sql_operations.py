"""The operators' side of an SQL ledger (engine/operations.py): inside a transaction each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from processor.engine.operations import PURGED_REPLAY, ClosedKey, Operation, PurgedJob
from processor.model import own_identity

if TYPE_CHECKING:
    from processor.sinks.sql import Statements

TABLES = """
CREATE TABLE IF NOT EXISTS processor_operation (
    number {number},
    action TEXT NOT NULL,
    consumer_group TEXT NOT NULL,
    topic TEXT NOT NULL,
    who TEXT NOT NULL,
    filters TEXT NOT NULL,
    state TEXT NOT NULL,
    jobs {whole} NOT NULL,
    keys {whole} NOT NULL,
    at {real} NOT NULL,
    ended_at {real} NOT NULL
);
"""


def closed_keys(statements: Statements, group: str, topic: str) -> list[ClosedKey]:
    """Read every closed key of a topic, and how many jobs are held behind each."""
    rows = statements.execute(
        "SELECT partition, key, origin_offset, replay, at, (SELECT count(*) FROM processor_held_job"
        " AS held WHERE held.consumer_group=closed.consumer_group AND held.topic=closed.topic"
        " AND held.partition=closed.partition AND held.key=closed.key)"
        " FROM processor_closed_key AS closed WHERE consumer_group=? AND topic=?"
        " ORDER BY partition, at",
        (group, topic),
    )
    return [ClosedKey(*row) for row in rows]


def groups(statements: Statements, topic: str) -> list[str]:
    """Read which groups have ever owned a partition of a topic."""
    rows = statements.execute(
        "SELECT DISTINCT consumer_group FROM processor_owner WHERE topic=? ORDER BY 1", (topic,)
    )
    return [group for (group,) in rows]


def begin(
    statements: Statements,
    action: str,
    *,
    group: str,
    topic: str,
    who: str,
    filters: Mapping[str, str],
    at: float,
) -> int:
    """Add an operation."""
    found = statements.execute(
        "INSERT INTO processor_operation (action, consumer_group, topic, who, filters, state, jobs,"
        " keys, at, ended_at) VALUES (?,?,?,?,?,'begun',0,0,?,0) RETURNING number",
        (action, group, topic, who, json.dumps(dict(filters)), at),
    )
    return int(found.fetchone()[0])


def end(
    statements: Statements, number: int, state: str, *, jobs: int, keys: int, at: float
) -> None:
    """Note an operation's end."""
    statements.execute(
        "UPDATE processor_operation SET state=?, jobs=?, keys=?, ended_at=? WHERE number=?",
        (state, jobs, keys, at, number),
    )


def operations(statements: Statements, count_max: int) -> list[Operation]:
    """Read the newest operations."""
    rows = statements.execute(
        "SELECT number, action, consumer_group, topic, who, filters, state, jobs, keys, at,"
        " ended_at FROM processor_operation ORDER BY number DESC LIMIT ?",
        (count_max,),
    )
    return [
        Operation(number, action, group, topic, who, json.loads(filters), *ended)
        for number, action, group, topic, who, filters, *ended in rows
    ]


def purge(statements: Statements, group: str, jobs: Sequence[PurgedJob], at: float) -> None:
    """Mark jobs as given up, and forget that they are held."""
    for job in jobs:
        statements.execute(
            "INSERT INTO processor_ledger (identity, job_id, job_type, key, state, replay, attempt,"
            " origin_topic, origin_partition, origin_offset, epoch, at)"
            " SELECT ?,?,?,?,'purged',?,?,?,?,?,0,? WHERE NOT EXISTS"
            " (SELECT 1 FROM processor_ledger WHERE identity=? AND state='done')"
            " ON CONFLICT (identity) DO UPDATE"
            " SET state='purged', replay=excluded.replay, at=excluded.at"
            " WHERE processor_ledger.state <> 'done'",
            (own_identity(job.identity, job.job_id), job.job_id, job.job_type,
             key_text(job.key), PURGED_REPLAY, job.attempt, *job.origin, at, job.identity),
        )  # fmt: skip
        statements.execute(
            "DELETE FROM processor_held_job"
            " WHERE consumer_group=? AND topic=? AND partition=? AND origin_offset=?",
            (group, *job.origin),
        )


def key_text(key: bytes | str | None) -> str | None:
    """An ordering key to look at: PostgreSQL's text takes no NUL."""
    if isinstance(key, bytes):
        key = key.decode(errors="replace")
    return None if key is None else key.replace("\0", "\N{SYMBOL FOR NULL}")
