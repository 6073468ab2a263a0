"""Kafka through confluent-kafka: the group member with its producer, and what is set for whom.

One thread owns the consumer: its calls block while another thread polls. Offsets are always given,
never reset: `auto.offset.reset` is `error`, and the takeover decides where reading starts.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from processor.engine.ports import CommitRefused, Committed, Delivery, Rebalance
from processor.errors import BrokerUnavailable, ProcessorError, UsageError
from processor.model import Outgoing, Partition, Record

CALL_SECONDS = 15.0

_REFUSED = {
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError.FENCED_INSTANCE_ID,
    KafkaError._STATE,
    KafkaError._ASSIGNMENT_LOST,
    KafkaError._NO_OFFSET,
    113,  # STALE_MEMBER_EPOCH: the member has to learn of a newer assignment first.
    110,  # FENCED_MEMBER_EPOCH
    25,  # UNKNOWN_MEMBER_ID
}

# The client's own settings; `[kafka]` may change all that the promise does not rest on.
_COMMON: dict[str, Any] = {
    "socket.keepalive.enable": True,
    "reconnect.backoff.max.ms": 2000,
    "allow.auto.create.topics": False,
    "log_level": 3,  # Errors; what matters of them also comes through error_cb.
}
_CONSUMER: dict[str, Any] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": False,
    "auto.offset.reset": "error",
    "check.crcs": True,
    "fetch.queue.backoff.ms": 50,  # The default of a second makes the intake a saw-tooth.
    "fetch.wait.max.ms": 100,
    "queued.min.messages": 5000,
    "queued.max.messages.kbytes": 16384,
}
_PRODUCER: dict[str, Any] = {
    "enable.idempotence": True,
    "acks": "all",
    "partitioner": "murmur2_random",  # What Java producers use: one key, one partition, for all.
    "compression.type": "lz4",
    "linger.ms": 5,
}
_CONSUMER_ONLY_PREFIXES = ("fetch.", "queued.", "session.timeout", "heartbeat.", "max.poll.",
                           "group.", "partition.assignment", "check.crcs", "isolation.level",
                           "max.partition.fetch")  # fmt: skip
_PRODUCER_ONLY_PREFIXES = ("linger.", "batch.", "compression.", "queue.buffering.", "message.",
                           "delivery.", "request.timeout", "sticky.", "retries",
                           "retry.backoff", "acks", "enable.idempotence", "partitioner")  # fmt: skip


def _without(settings: Mapping[str, Any], prefixes: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if not name.startswith(prefixes)}


def producer_settings(settings: Mapping[str, Any], client_id: str) -> dict[str, Any]:
    """Make a producer's settings."""
    mine = _without(settings, _CONSUMER_ONLY_PREFIXES)
    return {**_COMMON, **_PRODUCER, "client.id": client_id, **mine}


def consumer_settings(settings: Mapping[str, Any], group: str, client_id: str) -> dict[str, Any]:
    """What a group member is made with."""
    mine = _without(settings, _PRODUCER_ONLY_PREFIXES)
    made = {**_COMMON, **_CONSUMER, "client.id": client_id, "group.id": group, **mine}
    if made.get("group.protocol", "classic") == "classic":
        made.setdefault("partition.assignment.strategy", "cooperative-sticky")
    return made


def client_id(role: str) -> str:
    """Name this process for the brokers; uniquely, since equal names upset an assignor."""
    return f"processor-{role}-{socket.gethostname()}-{os.getpid()}"


def servers_of(settings: Mapping[str, Any]) -> str:
    """Name the brokers, for messages."""
    return str(settings.get("bootstrap.servers", "none set"))


def fault_of(error: KafkaError, settings: Mapping[str, Any], what: str) -> ProcessorError:
    """Turn a Kafka error into ours."""
    servers = servers_of(settings)
    code = error.code()
    if code in (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED):
        return UsageError(
            f"Kafka at {servers} refuses the credentials: {error.str()}",
            hint="check sasl.* and ssl.* in [kafka]",
        )
    if code in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED):
        return UsageError(
            f"Kafka at {servers} does not allow it ({what}): {error.str()}",
            hint="grant the role's rights to this principal",
        )
    if code in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
        return UsageError(f"{what}: {error.str()}", hint="run `processor topics apply`")
    return BrokerUnavailable(f"Kafka at {servers} did not answer ({what}): {error.str()}")


class KafkaLog:
    """One member of a consumer group and its producer (port: `engine.ports.Log`)."""

    def __init__(self, settings: Mapping[str, Any], *, group: str, name: str) -> None:
        self._settings = dict(settings)
        self._cooperative = True
        self._deliveries: list[Delivery] = []
        self._client_error: KafkaError | None = None
        made = consumer_settings(settings, group, client_id(name))
        strategy = str(made.get("partition.assignment.strategy", ""))
        if made.get("group.protocol", "classic") == "classic":
            self._cooperative = "cooperative" in strategy
        made["error_cb"] = self._on_error
        self._consumer = Consumer(made)
        produced = producer_settings(settings, client_id(name))
        # An append is never given up by itself: what came after it must not land without it.
        produced.setdefault("message.timeout.ms", 0)
        produced["error_cb"] = self._on_error
        self._producer = Producer(produced)
        self._rebalance: Rebalance | None = None

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal() or error.code() in (
            KafkaError._AUTHENTICATION,
            KafkaError.SASL_AUTHENTICATION_FAILED,
        ):
            self._client_error = error

    def subscribe(self, topics: Sequence[str], rebalance: Rebalance) -> None:
        """Join the group for these main topics."""
        self._rebalance = rebalance
        self._consumer.subscribe(
            list(topics),
            on_assign=lambda _, given: rebalance.assigned(_partitions(given)),
            on_revoke=lambda _, given: rebalance.revoked(_partitions(given)),
            on_lost=lambda _, given: rebalance.lost(_partitions(given)),
        )

    def poll(self, records_max: int, timeout_seconds: float) -> list[Record]:
        """Wait for the first record, then take what else is there already."""
        self._producer.poll(0)
        if self._client_error is not None:
            error, self._client_error = self._client_error, None
            raise fault_of(error, self._settings, "client")
        first = self._consumer.poll(timeout_seconds)
        if first is None:
            return []
        messages = [first]
        if records_max > 1:
            messages += self._consumer.consume(records_max - 1, 0)
        return [record for message in messages if (record := self._record(message)) is not None]

    def _record(self, message: Message) -> Record | None:
        error = message.error()
        if error is None:
            return record_of(message)
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            raise ProcessorError(
                f"{message.topic()}[{message.partition()}]: the offset to read is no longer on the "
                f"log: {error.str()}",
                hint="records expired unread; see worker.when_offset_lost",
            )
        fault = fault_of(error, self._settings, f"reading {message.topic()}")
        if isinstance(fault, UsageError):
            raise fault
        return None  # The client goes on by itself; a partition without progress is reported.

    def committed(self, partitions: Sequence[Partition]) -> dict[Partition, Committed]:
        """Ask the group's coordinator."""
        asked = [TopicPartition(topic, number) for topic, number in partitions]
        try:
            answers = self._consumer.committed(asked, timeout=CALL_SECONDS)
        except KafkaException as fault:
            raise fault_of(kafka_error(fault), self._settings, "committed offsets") from fault
        found = {}
        for answer in answers:
            if answer.error is not None:
                raise fault_of(answer.error, self._settings, "committed offsets")
            offset = None if answer.offset == OFFSET_INVALID else answer.offset
            partition = Partition(answer.topic, answer.partition)
            found[partition] = Committed(offset, answer.metadata or "")
        return found

    def bounds(self, partitions: Sequence[Partition]) -> dict[Partition, tuple[int, int]]:
        """Ask each partition's leader."""
        found = {}
        for topic, number in partitions:
            try:
                answer = self._consumer.get_watermark_offsets(
                    TopicPartition(topic, number), timeout=CALL_SECONDS
                )
            except KafkaException as fault:
                what = f"bounds of {topic}[{number}]"
                raise fault_of(kafka_error(fault), self._settings, what) from fault
            if answer is None:
                raise BrokerUnavailable(
                    f"Kafka at {servers_of(self._settings)} did not tell the bounds of "
                    f"{topic}[{number}] within {CALL_SECONDS:.0f} s"
                )
            found[Partition(topic, number)] = (answer[0], answer[1])
        return found

    def assign(self, starts: Mapping[Partition, int]) -> None:
        """Read these from these offsets on, beside what is read already."""
        given = [TopicPartition(topic, number, at) for (topic, number), at in starts.items()]
        if self._cooperative:
            self._consumer.incremental_assign(given)
        else:
            # An eager assignment is replaced whole: positions of what is read already are kept.
            kept = self._consumer.position(self._consumer.assignment())
            new = {(each.topic, each.partition) for each in given}
            given += [each for each in kept if (each.topic, each.partition) not in new]
            self._consumer.assign(given)
        # A pause outlives its assignment in this client: what is assigned anew is read.
        self._consumer.resume(given)

    def unassign(self, partitions: Sequence[Partition]) -> None:
        """Read these no more."""
        if self._cooperative:
            held = {(each.topic, each.partition) for each in self._consumer.assignment()}
            gone = [TopicPartition(*each) for each in partitions if each in held]
            if gone:
                self._consumer.incremental_unassign(gone)
            return
        gone_names = set(partitions)
        kept = self._consumer.position(
            [each for each in self._consumer.assignment()
             if Partition(each.topic, each.partition) not in gone_names]
        )  # fmt: skip
        if kept:
            self._consumer.assign(kept)
        else:
            self._consumer.unassign()

    def pause(self, partitions: Sequence[Partition]) -> None:
        """Stop fetching; what was fetched already is thrown away by the client."""
        self._consumer.pause([TopicPartition(*each) for each in partitions])

    def resume(self, partitions: Sequence[Partition]) -> None:
        """Fetch again from where `poll` stopped."""
        self._consumer.resume([TopicPartition(*each) for each in partitions])

    def commit(self, offsets: Mapping[Partition, Committed]) -> None:
        """Commit and wait for the coordinator's answer."""
        given = [
            TopicPartition(topic, number, position.offset or 0, metadata=position.metadata)
            for (topic, number), position in offsets.items()
        ]
        try:
            answers = self._consumer.commit(offsets=given, asynchronous=False)
        except KafkaException as fault:
            raise self._commit_fault(kafka_error(fault)) from fault
        for answer in answers or []:
            if answer.error is not None:
                raise self._commit_fault(answer.error)

    def _commit_fault(self, error: KafkaError) -> ProcessorError:
        if error.code() in _REFUSED:
            return CommitRefused(f"the coordinator refused the commit: {error.str()}")
        return fault_of(error, self._settings, "commit")

    def send(self, outgoing: Outgoing, token: Any) -> None:
        """Append; while the client's buffer is full, wait for room."""

        def answered(error: KafkaError | None, message: Message) -> None:
            text = None if error is None else error.str()
            self._deliveries.append(Delivery(token, message.offset() or 0, text))

        while True:
            try:
                produce(self._producer, outgoing, answered)
                return
            except BufferError:
                self._producer.poll(0.05)

    def deliveries(self) -> list[Delivery]:
        """Take the answers that have come."""
        self._producer.poll(0)
        if not self._deliveries:
            return []
        taken, self._deliveries = self._deliveries, []
        return taken

    def close(self) -> None:
        """Leave the group."""
        self._producer.poll(0)
        self._consumer.close()


def produce(producer: Producer, outgoing: Outgoing, answered: Any) -> None:
    """Hand bytes to a producer; `answered(error, message)` is called when it is polled."""
    if outgoing.partition is None:
        producer.produce(
            outgoing.topic,
            value=outgoing.value,
            key=outgoing.key,
            headers=outgoing.headers,  # type: ignore[arg-type]
            on_delivery=answered,
        )
    else:
        producer.produce(
            outgoing.topic,
            value=outgoing.value,
            key=outgoing.key,
            partition=outgoing.partition,
            headers=outgoing.headers,  # type: ignore[arg-type]
            on_delivery=answered,
        )


def kafka_error(fault: KafkaException) -> KafkaError:
    """Take the error out of the exception that carries it."""
    error = fault.args[0]
    assert isinstance(error, KafkaError)
    return error


def record_of(message: Message) -> Record:
    """Take a message's bytes out of the client."""
    return Record(
        message.topic() or "",
        message.partition() or 0,
        message.offset() or 0,
        message.key(),
        message.value(),
        message.headers() or [],
        message.timestamp()[1],
    )


def _partitions(given: Sequence[TopicPartition]) -> list[Partition]:
    return [Partition(each.topic, each.partition) for each in given]
