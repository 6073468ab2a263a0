"""Read topics from outside any group: for those who look, and commit nothing."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from processor.adapters.broker import (
    ASK_SECONDS,
    Heard,
    Need,
    fault_of,
    kafka_error,
    knows_no_topic,
    made,
    servers_of,
    to_describe,
    to_read,
    topics_found,
)
from processor.adapters.kafka_settings import client_id, consumer_settings
from processor.errors import BrokerUnavailable, ProcessorError, UsageError
from processor.model import Partition, Record, record_of

CALL_SECONDS = 10.0
# What a group's coordinator is asked again after.
SOON = (
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError._TIMED_OUT,
    KafkaError._WAIT_COORD,
)


class TopicReader:
    """Reads partitions from given offsets, and tells what a group has committed of them."""

    def __init__(self, settings: Mapping[str, Any], *, group: str | None = None) -> None:
        self._settings = settings
        self._group = group
        self._heard = Heard()
        name = f"processor-reader-{uuid.uuid4()}" if group is None else group
        mine = consumer_settings(settings, name, client_id("reader"))
        for only_members in ("group.protocol", "group.instance.id"):
            mine.pop(only_members, None)
        self._of_no_matter = {KafkaError._PARTITION_EOF}
        if group is None:  # The client asks who coordinates it all the same; no right is needed.
            self._of_no_matter.add(KafkaError.GROUP_AUTHORIZATION_FAILED)
        mine |= {"enable.partition.eof": True, "error_cb": self._heard}
        self._consumer = made(Consumer, mine)

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
        """List a topic's partitions; TopicMissing when there is no such topic."""
        found = topics_found(self._consumer, self._settings, self._heard, topic=topic)
        return [Partition(topic, number) for number in range(found[topic])]

    def existing(self, topics: Sequence[str]) -> set[str]:
        """Tell which of these topics there are; one that may not be seen counts as missing."""
        found = topics_found(self._consumer, self._settings, self._heard)
        return {topic for topic in topics if topic in found}

    def bounds(self, partitions: Sequence[Partition]) -> dict[Partition, tuple[int, int]]:
        """Tell each partition's first offset and end."""
        found = {}
        for topic, number in partitions:
            try:
                answer = self._consumer.get_watermark_offsets(
                    TopicPartition(topic, number), timeout=CALL_SECONDS
                )
            except KafkaException as fault:
                if knows_no_topic(kafka_error(fault)):
                    self.partitions(topic)  # Tells a topic that may not be seen from a missing one.
                raise self._unreachable(fault, to_describe(topic)) from fault
            if answer is None:
                raise self._silent()
            found[Partition(topic, number)] = (answer[0], answer[1])
        return found

    def committed(self, partitions: Sequence[Partition]) -> dict[Partition, tuple[int | None, str]]:
        """Tell what the reader's group has committed: the next offset, and the note with it."""
        asked = [TopicPartition(topic, number) for topic, number in partitions]
        until = time.monotonic() + CALL_SECONDS
        while True:
            left = until - time.monotonic()
            try:
                answers = self._consumer.committed(asked, timeout=min(ASK_SECONDS, max(left, 0.1)))
                break
            except KafkaException as fault:
                error = self._said() or kafka_error(fault)
                # A group's coordinator moves, or is still loading, right after a broker's start.
                if error.code() in SOON and left > 0:
                    time.sleep(0.1)
                    continue
                what, need = f"tried for {CALL_SECONDS:.0f} s", self._of_group()
                raise self._heard.told(error, self._settings, what, need=need) from fault
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

    def read_all(
        self, partitions: Sequence[Partition], *, starts: Mapping[Partition, int] | None = None
    ) -> Iterator[Record]:
        """Read everything that is there now, partition by partition mixed.

        `starts`: from these offsets on, where they are still there.
        """
        bounds = {
            each: (max(first, (starts or {}).get(each, 0)), end)
            for each, (first, end) in self.bounds(partitions).items()
        }
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
                elif error.code() not in self._of_no_matter:
                    topic = message.topic()
                    what, need = f"reading {topic}", to_read(topic)
                    if error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
                        need = self._of_group()
                    fault = fault_of(error, self._settings, what, need=need)
                    if isinstance(fault, UsageError):
                        raise fault
            yield batch

    def _position(self, partition: Partition) -> int:
        return int(self._consumer.position([TopicPartition(*partition)])[0].offset)

    def _said(self) -> KafkaError | None:
        """Take what the client says of its own; of a call it may only say that time was up."""
        message = self._consumer.poll(0)
        return None if message is None else message.error()

    def _of_group(self) -> Need:
        return Need("Describe", "group", self._group or "")

    def _unreachable(self, fault: KafkaException, need: Need) -> ProcessorError:
        self._consumer.poll(0)  # Serves `_heard`.
        what = f"tried for {CALL_SECONDS:.0f} s"
        return self._heard.told(kafka_error(fault), self._settings, what, need=need)

    def _silent(self) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"Kafka at {servers_of(self._settings)} did not answer within {CALL_SECONDS:.0f} s"
        )
