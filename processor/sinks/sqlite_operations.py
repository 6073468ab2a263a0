"""The operators' side of the SQLite ledger (engine/operations.py): inside a transaction each."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence

from processor.engine.operations import PURGED_REPLAY, ClosedKey, Operation, PurgedJob

TABLES = """
CREATE TABLE IF NOT EXISTS processor_operation (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    action TEXT NOT NULL,
    consumer_group TEXT NOT NULL,
    topic TEXT NOT NULL,
    who TEXT NOT NULL,
    filters TEXT NOT NULL,
    state TEXT NOT NULL,
    jobs INTEGER NOT NULL,
    keys INTEGER NOT NULL,
    at REAL NOT NULL,
    ended_at REAL NOT NULL
);
"""


def closed_keys(connection: sqlite3.Connection, group: str, topic: str) -> list[ClosedKey]:
    """Read every closed key of a topic, and how many jobs are held behind each."""
    rows = connection.execute(
        "SELECT partition, key, origin_offset, replay, at, (SELECT count(*) FROM processor_held_job"
        " AS held WHERE held.consumer_group=closed.consumer_group AND held.topic=closed.topic"
        " AND held.partition=closed.partition AND held.key=closed.key)"
        " FROM processor_closed_key AS closed WHERE consumer_group=? AND topic=?"
        " ORDER BY partition, at",
        (group, topic),
    )
    return [ClosedKey(*row) for row in rows]


def begin(
    connection: sqlite3.Connection,
    action: str,
    *,
    group: str,
    topic: str,
    who: str,
    filters: Mapping[str, str],
    at: float,
) -> int:
    """Add an operation."""
    found = connection.execute(
        "INSERT INTO processor_operation (action, consumer_group, topic, who, filters, state, jobs,"
        " keys, at, ended_at) VALUES (?,?,?,?,?,'begun',0,0,?,0)",
        (action, group, topic, who, json.dumps(dict(filters)), at),
    )
    assert found.lastrowid is not None
    return found.lastrowid


def end(
    connection: sqlite3.Connection, number: int, state: str, *, jobs: int, keys: int, at: float
) -> None:
    """Note an operation's end."""
    connection.execute(
        "UPDATE processor_operation SET state=?, jobs=?, keys=?, ended_at=? WHERE number=?",
        (state, jobs, keys, at, number),
    )


def operations(connection: sqlite3.Connection, count_max: int) -> list[Operation]:
    """Read the newest operations."""
    rows = connection.execute(
        "SELECT number, action, consumer_group, topic, who, filters, state, jobs, keys, at,"
        " ended_at FROM processor_operation ORDER BY number DESC LIMIT ?",
        (count_max,),
    )
    return [
        Operation(number, action, group, topic, who, json.loads(filters), *ended)
        for number, action, group, topic, who, filters, *ended in rows
    ]


def purge(connection: sqlite3.Connection, group: str, jobs: Sequence[PurgedJob], at: float) -> None:
    """Mark jobs as given up, and forget that they are held."""
    for job in jobs:
        connection.execute(
            "INSERT INTO processor_ledger (identity, job_id, job_type, key, state, replay, attempt,"
            " origin_topic, origin_partition, origin_offset, epoch, result, failure, at)"
            " VALUES (?,?,?,?,'purged',?,?,?,?,?,0,NULL,NULL,?) ON CONFLICT (identity) DO UPDATE"
            " SET state='purged', replay=excluded.replay, at=excluded.at"
            " WHERE state <> 'done' AND job_id = excluded.job_id",
            (job.identity, job.job_id, job.job_type,
             None if job.key is None else job.key.decode(errors="replace"), PURGED_REPLAY,
             job.attempt, *job.origin, at),
        )  # fmt: skip
        connection.execute(
            "DELETE FROM processor_held_job"
            " WHERE consumer_group=? AND topic=? AND partition=? AND origin_offset=?",
            (group, *job.origin),
        )
