"""The closed keys and the jobs held behind them, as tables of an SQL ledger (core/holds.py).

Every function is called inside a transaction in which the owner's epoch is known to be the newest;
`closed` alone reads outside of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from processor.core.holds import Closed
from processor.engine.ports import Death, HeldJob, Owner

if TYPE_CHECKING:
    from processor.sinks.sql import Statements

TABLES = """
CREATE TABLE IF NOT EXISTS processor_closed_key (
    consumer_group TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition {whole} NOT NULL,
    key {bytes} NOT NULL,
    replay {whole} NOT NULL,
    origin_offset {whole} NOT NULL,
    at {real} NOT NULL,
    PRIMARY KEY (consumer_group, topic, partition, key)
){without_rowid};
CREATE TABLE IF NOT EXISTS processor_held_job (
    consumer_group TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition {whole} NOT NULL,
    origin_offset {whole} NOT NULL,
    key {bytes} NOT NULL,
    identity TEXT NOT NULL,
    job_id TEXT NOT NULL,
    at {real} NOT NULL,
    PRIMARY KEY (consumer_group, topic, partition, origin_offset)
){without_rowid};
CREATE INDEX IF NOT EXISTS processor_held_job_key
    ON processor_held_job (consumer_group, topic, partition, key);
"""

_MINE = "consumer_group=? AND topic=? AND partition=?"


def closed(statements: Statements, owner: Owner) -> dict[bytes, Closed]:
    """Read the closed keys of a partition."""
    rows = statements.execute(
        f"SELECT key, replay, origin_offset FROM processor_closed_key WHERE {_MINE}",  # noqa: S608
        owner[:3],
    )
    return {key: Closed(replay, offset) for key, replay, offset in rows}


def close(statements: Statements, owner: Owner, death: Death, at: float) -> None:
    """Close the key of a dead job; one that dies in a replay is held no more, but dead."""
    statements.execute(
        "INSERT INTO processor_closed_key VALUES (?,?,?,?,?,?,?)"
        " ON CONFLICT (consumer_group, topic, partition, key) DO UPDATE"
        " SET replay=excluded.replay, origin_offset=excluded.origin_offset, at=excluded.at"
        " WHERE processor_closed_key.replay <= excluded.replay",
        (*owner[:3], death.key, death.replay, death.origin.offset, at),
    )
    unhold(statements, owner, [death.origin.offset])


def hold(statements: Statements, owner: Owner, jobs: Sequence[HeldJob], at: float) -> None:
    """Keep jobs that are held; what took effect before is not."""
    statements.executemany(
        "INSERT INTO processor_held_job SELECT ?,?,?,?,?,?,?,? WHERE NOT EXISTS (SELECT 1 FROM"
        " processor_ledger WHERE identity=? AND job_id=? AND state='done') ON CONFLICT DO NOTHING",
        [
            (
                *owner[:3],
                job.offset,
                job.key,
                job.identity,
                job.job_id,
                at,
                job.identity,
                job.job_id,
            )
            for job in jobs
        ],
    )


def unhold(statements: Statements, owner: Owner, offsets: Sequence[int]) -> None:
    """Forget held jobs; one that is not there does no harm."""
    statements.executemany(
        f"DELETE FROM processor_held_job WHERE {_MINE} AND origin_offset=?",  # noqa: S608
        [(*owner[:3], offset) for offset in offsets],
    )


def end(statements: Statements, owner: Owner, key: bytes, replay: int) -> bool:
    """Open a key unless a job is held behind it or died in this replay or a later one."""
    statements.execute(
        f"DELETE FROM processor_closed_key WHERE {_MINE} AND key=? AND replay<?"  # noqa: S608
        f" AND NOT EXISTS (SELECT 1 FROM processor_held_job WHERE {_MINE} AND key=?)",
        (*owner[:3], key, replay, *owner[:3], key),
    )
    left = statements.execute(
        f"SELECT 1 FROM processor_closed_key WHERE {_MINE} AND key=?",  # noqa: S608
        (*owner[:3], key),
    )
    return left.fetchone() is None
