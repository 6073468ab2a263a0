"""Look at dead letters: what died, of what, and its untouched bytes."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from processor.adapters.reader import TopicReader
from processor.contracts import headers
from processor.contracts.topics import Topic
from processor.errors import ContractError
from processor.model import Hop, JobHeaders, Record
from processor.settings import Settings


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter, with what its headers say."""

    record: Record
    job: JobHeaders
    hop: Hop

    def row(self) -> dict[str, Any]:
        """Its place and its failure; never its payload."""
        return {
            "job_id": self.job.job_id,
            "job_type": self.job.job_type,
            "key": _text(self.record.key),
            "attempts": self.hop.attempt,
            "error_class": self.hop.error_class,
            "error_message": self.hop.error_message,
            "fingerprint": self.hop.fingerprint,
            "failed_at": _iso(self.hop.last_failure_ms),
            "first_failed_at": _iso(self.hop.first_failure_ms),
            "origin": str(self.hop.origin),
            "position": f"{self.record.topic}-{self.record.partition}-{self.record.offset}",
            "bytes": len(self.record.value or b""),
        }

    def details(self) -> dict[str, Any]:
        """All of it: headers as text, and the original value in base64."""
        value = self.record.value
        return {
            **self.row(),
            "headers": {name: _text(each) for name, each in self.record.headers},
            "value_base64": None if value is None else base64.b64encode(value).decode(),
        }


def dead_letters(settings: Settings, topic: Topic) -> Iterator[DeadLetter]:
    """Read all dead letters of a topic that are there now."""
    with TopicReader(settings.kafka) as reader:
        for record in reader.read_all(reader.partitions(topic.dead_letter_topic)):
            if headers.read_marker(record) is None:
                yield _letter(record)


def _letter(record: Record) -> DeadLetter:
    """Read the headers; where foreign ones are malformed, show the place instead."""
    try:
        hop = headers.read_hop(record) or headers.first_hop(record)
        return DeadLetter(record, headers.read_job(record, hop.origin), hop)
    except ContractError:
        hop = headers.first_hop(record)
        return DeadLetter(record, JobHeaders(job_id=str(hop.origin), job_type=None), hop)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="replace")


def _iso(at_ms: int | None) -> str | None:
    if at_ms is None:
        return None
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")
