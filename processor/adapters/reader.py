"""Read topics from outside any group: for those who look, and commit nothing."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from processor.adapters.kafka import (
    client_id,
    consumer_settings,
    fault_of,
    kafka_error,
    record_of,
    servers_of,
)
from processor.errors import BrokerUnavailable, ProcessorError, UsageError
from processor.model import Partition, Record

CALL_SECONDS = 10.0


class TopicReader:
    """Reads partitions from given offsets, and tells what a group has committed of them."""

    def __init__(self, settings: Mapping[str, Any], *, group: str | None = None) -> None:
        self._settings = settings
        self._client_error: KafkaError | None = None
        name = f"processor-reader-{uuid.uuid4()}" if group is None else group
        made = consumer_settings(settings, name, client_id("reader"))
        for only_members in ("group.protocol", "group.instance.id"):
            made.pop(only_members, None)
        made |= {"enable.partition.eof": True, "error_cb": self._on_error}
        self._consumer = Consumer(made)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._consumer.close()

    def partitions(self, topic: str) -> list[Partition]:
        """List a topic's partitions; UsageError when there is no such topic."""
        try:
            found = self._consumer.list_topics(topic, timeout=CALL_SECONDS).topics[topic]
        except KafkaException as fault:
            raise self._unreachable(fault) from fault
        if found.error is not None:
            raise fault_of(found.error, self._settings, f"topic `{topic}`")
        return [Partition(topic, number) for number in sorted(found.partitions)]

    def bounds(self, partitions: Sequence[Partition]) -> dict[Partition, tuple[int, int]]:
        """Tell each partition's first offset and end."""
        found = {}
        for topic, number in partitions:
            try:
                answer = self._consumer.get_watermark_offsets(
                    TopicPartition(topic, number), timeout=CALL_SECONDS
                )
            except KafkaException as fault:
                raise self._unreachable(fault) from fault
            if answer is None:
                raise self._silent()
            found[Partition(topic, number)] = (answer[0], answer[1])
        return found

    def committed(self, partitions: Sequence[Partition]) -> dict[Partition, tuple[int | None, str]]:
        """Tell what the reader's group has committed: the next offset, and the note with it."""
        asked = [TopicPartition(topic, number) for topic, number in partitions]
        try:
            answers = self._consumer.committed(asked, timeout=CALL_SECONDS)
        except KafkaException as fault:
            raise self._unreachable(fault) from fault
        return {
            Partition(each.topic, each.partition): (
                each.offset if each.offset >= 0 else None,
                each.metadata or "",
            )
            for each in answers
        }

    def read(self, starts: Mapping[Partition, int]) -> Iterator[Record | None]:
        """Read on and on from these offsets; None now and then while nothing comes."""
        for batch in self._batches(starts):
            if not batch:
                yield None
            yield from batch

    def read_all(self, partitions: Sequence[Partition]) -> Iterator[Record]:
        """Read everything that is there now, partition by partition mixed."""
        bounds = self.bounds(partitions)
        left = {each: end for each, (first, end) in bounds.items() if first < end}
        if not left:
            return
        for batch in self._batches({each: bounds[each][0] for each in left}):
            for record in batch:
                if record.offset < left.get(Partition(record.topic, record.partition), 0):
                    yield record
            # Offsets may end in a gap (markers, compaction): the position tells what was passed.
            left = {each: end for each, end in left.items() if self._position(each) < end}
            if not left:
                return

    def _batches(self, starts: Mapping[Partition, int]) -> Iterator[list[Record]]:
        given = [TopicPartition(topic, number, at) for (topic, number), at in starts.items()]
        self._consumer.assign(given)
        while True:
            batch = []
            for message in self._consumer.consume(500, 0.2):
                error = message.error()
                if error is None:
                    batch.append(record_of(message))
                elif error.code() != KafkaError._PARTITION_EOF:
                    fault = fault_of(error, self._settings, f"reading {message.topic()}")
                    if isinstance(fault, UsageError):
                        raise fault
            yield batch

    def _position(self, partition: Partition) -> int:
        return int(self._consumer.position([TopicPartition(*partition)])[0].offset)

    def _on_error(self, error: KafkaError) -> None:
        self._client_error = error

    def _unreachable(self, fault: KafkaException) -> ProcessorError:
        """Name the cause where the client has told one: a time-out alone says little."""
        error = kafka_error(fault)
        if self._client_error is not None and error.code() in (
            KafkaError._TRANSPORT,
            KafkaError._TIMED_OUT,
            KafkaError._ALL_BROKERS_DOWN,
        ):
            error = self._client_error
        told = fault_of(error, self._settings, f"tried for {CALL_SECONDS:.0f} s")
        if isinstance(told, BrokerUnavailable) and told.hint is None:
            told.hint = "check bootstrap.servers in [kafka]; a local one: `processor dev up`"
        return told

    def _silent(self) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"Kafka at {servers_of(self._settings)} did not answer within {CALL_SECONDS:.0f} s"
        )
