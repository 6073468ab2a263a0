"""Read jobs' outcomes from a topic's status topic."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any, Self

from processor.adapters.reader import TopicReader
from processor.adapters.registry import Registry
from processor.contracts.avro import Decoder
from processor.contracts.partitioner import partition_of
from processor.contracts.topics import Topic
from processor.errors import ContractError, ProcessorError
from processor.model import Partition, Record
from processor.settings import Settings


class StatusReader:
    """Reads the status topic of one main topic, outside any group."""

    def __init__(self, settings: Settings, topic: Topic) -> None:
        self._topic = topic
        self._settings = settings
        self._decode = Decoder(Registry(settings.registry)).decode
        self._starts: dict[Partition, int] = {}

    def from_now(self) -> Self:
        """Remember the present end: `wait_for` sees what is published after this call."""
        self._starts = {each: end for each, (_, end) in self._bounds().items()}
        return self

    def from_start(self) -> Self:
        """Have `wait_for` see every outcome that is kept, however long ago it was published."""
        self._starts = {each: first for each, (first, _) in self._bounds().items()}
        return self

    def _bounds(self) -> dict[Partition, tuple[int, int]]:
        with TopicReader(self._settings.kafka) as reader:
            return reader.bounds(reader.partitions(self._topic.status_topic))

    def wait_for(
        self, job_ids: Iterable[str], *, until: float, meanwhile: Callable[[], None] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Give each job's outcome as it is published.

        `until` is monotonic seconds; ProcessorError names what has no outcome by then. `meanwhile`
        is called while nothing comes; what it raises ends the wait.
        """
        missing = set(job_ids)
        if not missing:
            return
        with TopicReader(self._settings.kafka) as reader:
            for record in reader.read(self._starts):
                status = None if record is None else self._status(record)
                if status is not None and status["job_id"] in missing:
                    missing.remove(status["job_id"])
                    yield status
                if not missing:
                    return
                if record is None and meanwhile is not None:
                    meanwhile()
                if time.monotonic() >= until:
                    first = next(iter(missing))
                    raise ProcessorError(
                        f"{len(missing)} job(s) have no outcome yet, {first} among them",
                        hint="is a worker running? `processor lag` shows what waits",
                    )

    def find(self, job_id: str) -> dict[str, Any] | None:
        """Find a job's last outcome; None where none is kept."""
        found = None
        with TopicReader(self._settings.kafka) as reader:
            partitions = reader.partitions(self._topic.status_topic)
            mine = partition_of(job_id.encode(), len(partitions))
            for record in reader.read_all([Partition(self._topic.status_topic, mine)]):
                if record.key == job_id.encode():
                    found = self._status(record) or found
        return found

    def _status(self, record: Record) -> dict[str, Any] | None:
        try:
            payload = dict(self._decode(record.value).payload)
        except ContractError:
            return None  # A foreign record on the status topic tells nothing of our jobs.
        if isinstance(payload.get("at"), datetime):
            payload["at"] = payload["at"].isoformat(timespec="milliseconds")
        return payload
