"""The outbox table. Its columns are those of Debezium's outbox event router, and some headers.

`aggregatetype` is the main topic, `aggregateid` the ordering key, `type` the job type and `payload`
the record's bytes as they go to Kafka, so Debezium can bring the rows there instead of the relay
(docs/outbox.md). `slot` divides the keys between relays; `xid` is the transaction that wrote.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

SLOTS = 32
CHANNEL = "processor_outbox"

POSTGRES = """
CREATE TABLE IF NOT EXISTS processor_outbox (
    number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id TEXT NOT NULL,
    aggregatetype TEXT NOT NULL,
    aggregateid TEXT,
    type TEXT NOT NULL,
    payload BYTEA,
    idempotency_key TEXT,
    not_before BIGINT,
    deadline BIGINT,
    claim BYTEA,
    source TEXT NOT NULL,
    slot SMALLINT NOT NULL,
    xid XID8 NOT NULL DEFAULT pg_current_xact_id(),
    created_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    traceparent TEXT
);
ALTER TABLE processor_outbox ADD COLUMN IF NOT EXISTS traceparent TEXT;
CREATE INDEX IF NOT EXISTS processor_outbox_slot ON processor_outbox (slot, number);
CREATE OR REPLACE FUNCTION processor_outbox_tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NOTIFY processor_outbox;
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER processor_outbox_tell AFTER INSERT ON processor_outbox
    FOR EACH STATEMENT EXECUTE FUNCTION processor_outbox_tell();
"""

SQLITE = """
CREATE TABLE IF NOT EXISTS processor_outbox (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    aggregatetype TEXT NOT NULL,
    aggregateid TEXT,
    type TEXT NOT NULL,
    payload BLOB,
    idempotency_key TEXT,
    not_before INTEGER,
    deadline INTEGER,
    claim BLOB,
    source TEXT NOT NULL,
    slot INTEGER NOT NULL,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    traceparent TEXT
);
CREATE INDEX IF NOT EXISTS processor_outbox_slot ON processor_outbox (slot, number);
"""

# What is held back: a key of a topic, a row without a key (by its number), or a topic (None).
Name = tuple[str, str | int | None]


class Row(NamedTuple):
    """One job that waits in the outbox. Times are milliseconds since the epoch."""

    number: int
    id: str
    aggregatetype: str
    aggregateid: str | None
    type: str
    payload: bytes | None
    idempotency_key: str | None
    not_before: int | None
    deadline: int | None
    claim: bytes | None
    source: str
    traceparent: str | None  # The trace that it was written in, if it was traced.
    created_at: str  # ISO 8601.

    @property
    def name(self) -> Name:
        """What is held back with it: its key; one without a key is alone."""
        return self.aggregatetype, self.number if self.aggregateid is None else self.aggregateid


def slot_of(topic: str, key: str | None, job_id: str) -> int:
    """Name the slot of a key: all its rows of one topic are relayed by one relay at a time."""
    return zlib.crc32(f"{topic}\0{job_id if key is None else key}".encode()) % SLOTS
