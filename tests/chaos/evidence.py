"""What the judge is shown: the sink's rows, the letters and the group's offsets, read apart."""

from __future__ import annotations

import io
import sqlite3
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fastavro
from confluent_kafka import Consumer, TopicPartition

from tests.chaos.checker import Job

SCHEMA = fastavro.parse_schema(
    {"type": "record", "name": "chaos.count", "fields": [{"name": "key", "type": "string"},
     {"name": "seq", "type": "long"}]}
)  # fmt: skip


def effects(database: Path) -> list[Job]:
    """The sink's rows, in the order in which they were committed."""
    if not database.exists():
        return []
    connection = sqlite3.connect(database, timeout=30)
    try:
        return [
            Job(*row) for row in connection.execute("SELECT key, seq FROM effect ORDER BY place")
        ]
    except sqlite3.OperationalError:
        return []  # No job has taken effect yet.
    finally:
        connection.close()


def letters(servers: str, topic: str, partitions: int) -> set[Job]:
    """The jobs on a dead-letter topic, from their bytes alone."""
    consumer = _consumer(servers, f"judge-{uuid.uuid4().hex[:8]}")
    try:
        left = {}
        for number in range(partitions):
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=20)
            if low < high:
                left[number] = high
        consumer.assign([TopicPartition(topic, number, 0) for number in left])
        found = set()
        while left:
            for message in consumer.consume(500, 1.0):
                assert message.error() is None, message.error()
                body = io.BytesIO((message.value() or b"")[5:])
                record: Any = fastavro.schemaless_reader(body, SCHEMA)  # type: ignore[call-arg]
                found.add(Job(record["key"], record["seq"]))
                if message.offset() + 1 >= left.get(message.partition(), 1 << 62):
                    del left[message.partition()]
        return found
    finally:
        consumer.close()


def lag(servers: str, group: str, topics: Sequence[str], partitions: int) -> int:
    """How many offsets of these topics the group has not committed."""
    consumer = _consumer(servers, group)
    try:
        every = [TopicPartition(topic, n) for topic in topics for n in range(partitions)]
        behind = 0
        for each in consumer.committed(every, timeout=20):
            low, high = consumer.get_watermark_offsets(each, timeout=20)
            behind += high - (each.offset if each.offset >= 0 else low)
        return behind
    finally:
        consumer.close()


def _consumer(servers: str, group: str) -> Consumer:
    return Consumer(
        {"bootstrap.servers": servers, "group.id": group, "enable.auto.commit": False,
         "auto.offset.reset": "earliest", "log_level": 0}
    )  # fmt: skip
