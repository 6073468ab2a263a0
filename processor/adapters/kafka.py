"""Kafka through confluent-kafka: the group member with its producer, and what is set for whom.

One thread owns the consumer: its calls block while another thread polls. Offsets are always given,
never reset: `auto.offset.reset` is `error`, and the takeover decides where reading starts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import groupby
from operator import methodcaller
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

from processor.adapters.broker import (
    Heard,
    Need,
    fault_of,
    fault_while_serving,
    kafka_error,
    lacks_right,
    made,
    produce,
    produce_all,
    servers_of,
    to_describe,
    to_read,
    to_write,
)
from processor.adapters.kafka_ends import Ends
from processor.adapters.kafka_scan import scan
from processor.adapters.kafka_settings import client_id, consumer_settings, producer_settings
from processor.adapters.membership import COMMIT_REFUSED, IdInUse, Rejoin, end_of
from processor.engine.ports import CommitRefused, Committed, Delivery, Rebalance
from processor.errors import BrokerUnavailable, ProcessorError, UsageError
from processor.model import Batch, Outgoing, Partition, Record

CALL_SECONDS = 15.0
TELL_AGAIN_SECONDS = 10.0  # While a broker is away its client says so 20 times a second.

_LOGGER = logging.getLogger(__name__)


class KafkaLog:
    """One member of a consumer group and its producer (port: `engine.ports.Log`)."""

    def __init__(self, settings: Mapping[str, Any], *, group: str, name: str) -> None:
        self._settings = dict(settings)
        self._group = group
        self._cooperative = True
        self._deliveries: list[Delivery] = []
        self._client_error: KafkaError | None = None
        self._append_refused: ProcessorError | None = None  # For want of a right.
        self._heard = Heard()
        self._full_until: float | None = None  # No longer is a full buffer waited for.
        self._told: dict[int, float] = {}  # Error code -> when it was logged (monotonic seconds).
        consumed = consumer_settings(settings, group, client_id(name))
        strategy = str(consumed.get("partition.assignment.strategy", ""))
        if consumed.get("group.protocol", "classic") == "classic":
            self._cooperative = "cooperative" in strategy
        consumed["error_cb"] = self._on_error
        self._consumed = consumed
        self._consumer = made(Consumer, consumed)
        self._rejoin = Rejoin(str(consumed.get("group.instance.id", "")), group)
        produced = producer_settings(settings, client_id(name))
        # An append is never given up by itself: what came after it must not land without it.
        produced.setdefault("message.timeout.ms", 0)
        produced["error_cb"] = self._on_error
        self._producer = made(Producer, produced)
        self._ends = Ends(settings)
        self._closed = self._ended = False
        self._starts: dict[Partition, int] = {}  # What is assigned, and where reading it began.
        self._unassigned: set[Partition] = set()  # While the present `poll` goes on.
        self._topics: list[str] = []
        self._rebalance: Rebalance | None = None
        self._given: set[Partition] = set()  # The main partitions that the group has given us.

    def _on_error(self, error: KafkaError) -> None:
        self._heard(error)
        if error.fatal() or self._heard.refusal is not None:
            self._client_error = error
        now = time.monotonic()
        if now >= self._told.get(error.code(), 0.0) + TELL_AGAIN_SECONDS:
            self._told[error.code()] = now
            _LOGGER.warning("the Kafka client has trouble: %s", error.str())

    def _fault(self, error: KafkaError, what: str, need: Need) -> ProcessorError:
        if error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            need = Need("Read", "group", self._group)
        return fault_while_serving(error, self._settings, what, need=need)

    def subscribe(self, topics: Sequence[str], rebalance: Rebalance) -> None:
        """Join the group for these main topics."""
        self._topics, self._rebalance = list(topics), rebalance

        def assigned(_: Consumer, given: list[TopicPartition]) -> None:
            self._given.update(_partitions(given))
            rebalance.assigned(_partitions(given))
            # What a callback leaves unassigned the client assigns by itself, to be read from where
            # nobody decided. An empty list says that nothing is meant to be.
            if self._cooperative:
                self._consumer.incremental_assign([])
            elif not self._starts:
                self._consumer.assign([])

        def revoked(_: Consumer, given: list[TopicPartition]) -> None:
            rebalance.revoked(_partitions(given))
            self._given.difference_update(_partitions(given))
            self._let_go()

        def lost(_: Consumer, given: list[TopicPartition]) -> None:
            rebalance.lost(_partitions(given))
            self._given.difference_update(_partitions(given))
            self._let_go()

        self._consumer.subscribe(list(topics), on_assign=assigned, on_revoke=revoked, on_lost=lost)

    def poll(self, records_max: int, timeout_seconds: float) -> list[Batch]:
        """Wait for the first record, then take what else is there already."""
        self._producer.poll(0)
        if self._client_error is not None:
            error, self._client_error = self._client_error, None
            raise fault_of(error, self._settings, "client")
        if self._append_refused is not None:
            raise self._append_refused
        if self._rejoin.waiting and not self._joins_again(timeout_seconds):
            return []
        first = self._consumer.poll(timeout_seconds)
        if first is None:
            return []
        self._unassigned.clear()
        messages = self._consumer.consume(records_max - 1, 0) if records_max > 1 else []
        # The client drops what it has fetched of a partition that goes, but only within one call:
        # were it taken again meanwhile, the first would pass for the new assignment's.
        if (first.topic(), first.partition()) not in self._unassigned:
            messages.insert(0, first)
        return self._batches(messages)

    def _batches(self, messages: Sequence[Message]) -> list[Batch]:
        """Sort messages by partition; each partition's are in order."""
        found: dict[tuple[str | None, int | None], list[Message]] = {}
        for where, some in groupby(messages, _place):  # They come in runs of one partition.
            found.setdefault(where, []).extend(some)
        for where, mine in list(found.items()):
            if any(map(_error, mine)):
                found[where] = [each for each in mine if not self._is_fault(each)]
                if not found[where]:
                    del found[where]
        return [Batch(Partition(*where), mine) for where, mine in found.items()]  # type: ignore[arg-type]

    def _is_fault(self, message: Message) -> bool:
        """Whether a fault came in place of a record; it is taken in."""
        error = message.error()
        if error is not None:
            self._heard_of(message, error)
        return error is not None

    def _heard_of(self, message: Message, error: KafkaError) -> None:
        """Take a fault in that came in place of a record."""
        if error.code() == KafkaError._FATAL:
            self._end(error)
            return
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            raise ProcessorError(
                f"{message.topic()}[{message.partition()}]: the offset to read is no longer on the "
                f"log: {error.str()}",
                hint="records expired unread; see worker.when_offset_lost",
            )
        topic = message.topic()  # None: it is the group's.
        what = f"working as a member of `{self._group}`" if topic is None else f"reading {topic}"
        fault = self._fault(error, what, to_read(topic))
        if isinstance(fault, UsageError):
            raise fault
        # Else the client goes on by itself; a partition without progress is reported.

    def _end(self, error: KafkaError) -> None:
        """Drop what this member had, since it has ended for good; then try again or tell why."""
        self._ended = True
        assert self._rebalance is not None
        if self._given:
            self._rebalance.lost(sorted(self._given))
            self._given.clear()
        self._starts.clear()
        self._consumer.close()
        fault = end_of(error, self._settings, self._rejoin)
        if not isinstance(fault, IdInUse):
            raise fault
        self._rejoin.later(time.monotonic())

    def _joins_again(self, timeout_seconds: float) -> bool:
        """Wait, and join with a new client once it is time."""
        left = self._rejoin.at - time.monotonic()
        if left > 0:
            time.sleep(min(left, timeout_seconds))
            return False
        assert self._rebalance is not None
        self._consumer = made(Consumer, self._consumed)
        self._ended = False
        self._rejoin.begun()
        self.subscribe(self._topics, self._rebalance)
        return True

    def committed(self, partitions: Sequence[Partition]) -> dict[Partition, Committed]:
        """Ask the group's coordinator."""
        asked = [TopicPartition(topic, number) for topic, number in partitions]
        group = Need("Read", "group", self._group)
        try:
            answers = self._consumer.committed(asked, timeout=CALL_SECONDS)
        except KafkaException as fault:
            raise self._fault(kafka_error(fault), "committed offsets", group) from fault
        found = {}
        for answer in answers:
            if answer.error is not None:
                raise self._fault(answer.error, "committed offsets", to_describe(answer.topic))
            offset = None if answer.offset == OFFSET_INVALID else answer.offset
            partition = Partition(answer.topic, answer.partition)
            found[partition] = Committed(offset, answer.metadata or "")
        return found

    def bounds(
        self, partitions: Sequence[Partition], timeout_seconds: float = CALL_SECONDS
    ) -> dict[Partition, tuple[int, int]]:
        """Ask each partition's leader."""
        found = {}
        for topic, number in partitions:
            try:
                answer = self._consumer.get_watermark_offsets(
                    TopicPartition(topic, number), timeout=timeout_seconds
                )
            except KafkaException as fault:
                what = f"bounds of {topic}[{number}]"
                raise self._fault(kafka_error(fault), what, to_describe(topic)) from fault
            if answer is None:
                raise BrokerUnavailable(
                    f"Kafka at {servers_of(self._settings)} did not tell the bounds of "
                    f"{topic}[{number}] within {timeout_seconds:.0f} s"
                )
            found[Partition(topic, number)] = (answer[0], answer[1])
        return found

    def ends(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """Ask in the background."""
        return self._ends.known(partitions)

    def assign(self, starts: Mapping[Partition, int]) -> None:
        """Read these from these offsets on, beside what is read already."""
        given = [TopicPartition(topic, number, at) for (topic, number), at in starts.items()]
        if self._cooperative:
            self._consumer.incremental_assign(given)
        else:
            self._consumer.assign([*given, *self._kept(without=starts)])
        self._starts.update(starts)
        # A pause outlives its assignment in this client: what is assigned anew is read.
        self._consumer.resume(given)

    def unassign(self, partitions: Sequence[Partition]) -> None:
        """Read these no more."""
        self._unassigned.update(partitions)
        # What is assigned is known here: a client that is closing does not answer any more.
        gone = [each for each in partitions if self._starts.pop(each, None) is not None]
        if self._ended:
            return
        if self._cooperative:
            if gone:
                self._consumer.incremental_unassign([TopicPartition(*each) for each in gone])
        elif kept := self._kept(without=partitions):
            self._consumer.assign(kept)
        else:
            self._consumer.unassign()

    def _let_go(self) -> None:
        """End a revocation: by itself the client would unassign what may not be assigned."""
        if self._cooperative:
            self._consumer.incremental_unassign([])

    def _kept(self, *, without: Container[Partition]) -> list[TopicPartition]:
        """What an eager assignment, which is replaced whole, must go on with, and where."""
        asked = [TopicPartition(*each) for each in self._starts if each not in without]
        found = self._consumer.position(asked) if asked else []
        positions = {Partition(each.topic, each.partition): each.offset for each in found}
        return [
            # Below 0 nothing of it has been read yet.
            TopicPartition(*each, at if at >= 0 else self._starts[each])
            for each, at in positions.items()
        ]

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
            # Of several topics it names none: those that may not be read are told by their answers.
            names = ", ".join(sorted({topic for topic, _ in offsets}))
            raise self._commit_fault(kafka_error(fault), names) from fault
        for answer in answers or []:
            if answer.error is not None:
                raise self._commit_fault(answer.error, answer.topic)

    def _commit_fault(self, error: KafkaError, topic: str) -> ProcessorError:
        if error.code() in COMMIT_REFUSED:
            return CommitRefused(f"the coordinator refused the commit: {error.str()}")
        return self._fault(error, "commit", to_read(topic))

    def send(self, outgoing: Outgoing, token: Any) -> None:
        """Append; while the client's buffer is full, wait for room, but not for each one anew."""

        def answered(error: KafkaError | None, message: Message) -> None:
            text = None if error is None else error.str()
            if error is not None and lacks_right(error):
                self._append_refused = self._fault(error, "append", to_write(outgoing.topic))
            self._deliveries.append(Delivery(token, message.offset() or 0, text))

        while True:
            try:
                produce(self._producer, outgoing, answered)
                self._full_until = None
                return
            except BufferError:
                now = time.monotonic()
                self._full_until = self._full_until or now + CALL_SECONDS
                if now >= self._full_until:
                    self._deliveries.append(Delivery(token, 0, "the client's buffer stays full"))
                    return
                self._producer.poll(0.05)
            except KafkaException as fault:  # Too large for the client, or it has ended for good.
                self._deliveries.append(Delivery(token, 0, kafka_error(fault).str()))
                return

    def append(self, outgoing: Sequence[Outgoing]) -> list[int]:
        """Append and wait for every answer."""
        offsets = produce_all(
            self._producer,
            outgoing,
            until=time.monotonic() + CALL_SECONDS,
            fault=lambda error, topic: self._fault(error, "append", to_write(topic)),
        )
        if offsets is None:
            raise self._unanswered()
        return offsets

    def _unanswered(self) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"Kafka at {servers_of(self._settings)} did not acknowledge an append within "
            f"{CALL_SECONDS:.0f} s"
        )

    def scan(self, ranges: Mapping[Partition, tuple[int, int]]) -> Iterator[Record]:
        """Read with a consumer of its own, outside the group's assignment."""
        return scan(self._settings, ranges, CALL_SECONDS, group=self._group)

    def deliveries(self) -> list[Delivery]:
        """Take the answers that have come."""
        self._producer.poll(0)
        if not self._deliveries:
            return []
        taken, self._deliveries = self._deliveries, []
        return taken

    def close(self) -> None:
        """Leave the group; a static member only lets go. Twice does no harm."""
        if not self._closed:
            self._closed = True
            self._producer.poll(0)
            if not self._ended:
                self._consumer.close()


_error = methodcaller("error")


def _place(message: Message) -> tuple[str | None, int | None]:
    return message.topic(), message.partition()


def _partitions(given: Sequence[TopicPartition]) -> list[Partition]:
    return [Partition(each.topic, each.partition) for each in given]
