"""Which Kafka client settings `[kafka]` may not change, because a promise rests on them.

All others are passed to librdkafka as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KafkaRule:
    """A client setting that processor must decide itself: which values are harmless, and why."""

    keeps: Callable[[str], bool]
    why: str
    instead: str = "remove it"


def _only(*values: str) -> Callable[[str], bool]:
    return lambda value: value in values


def _not(*values: str) -> Callable[[str], bool]:
    return lambda value: value not in values


_BY_HAND = "offsets are committed by hand, and only below what is settled"
_ACKS = "an accepted job must be on every in-sync replica"
_FIVE = "with more than 5 requests in flight a repeated one could overtake, and order would be lost"
_RETRIES = "a send that is never repeated turns one lost packet into a failed submit"
_FOR_EVER = "0 waits for ever, so a send that cannot succeed would never be told"
_ALIAS = "it is another name of bootstrap.servers, and the two would contradict each other"

# Name -> the values that keep the promise, why the others do not, and what to do instead.
KAFKA_REFUSED: dict[str, KafkaRule] = {
    "enable.auto.commit": KafkaRule(_only("false"), _BY_HAND),
    "enable.auto.offset.store": KafkaRule(_only("false"), _BY_HAND),
    "offset.store.method": KafkaRule(_only("broker"), _BY_HAND),
    "auto.offset.reset": KafkaRule(
        _only("error"),
        "a silent reset skips or repeats jobs",
        "set worker.start_from and worker.when_offset_lost",
    ),
    "group.id": KafkaRule(
        _only(), "the ledger knows the owners of partitions by the group", "set worker.group"
    ),
    "enable.partition.eof": KafkaRule(_only("false"), "an end of partition is no record"),
    "allow.auto.create.topics": KafkaRule(
        _only("false"),
        "a topic made by accident has the wrong number of partitions",
        "declare the topic and run `processor topics apply`",
    ),
    "enable.idempotence": KafkaRule(
        _only("true"), "without it a repeated send duplicates a job or overtakes an earlier one"
    ),
    "acks": KafkaRule(_only("all", "-1"), _ACKS),
    "request.required.acks": KafkaRule(_only("all", "-1"), _ACKS),
    "partitioner": KafkaRule(
        _only("murmur2_random"),
        "producers that disagree about a key's partition split the key and lose its order",
    ),
    "max.in.flight": KafkaRule(_only(*"12345"), _FIVE),
    "max.in.flight.requests.per.connection": KafkaRule(_only(*"12345"), _FIVE),
    "retries": KafkaRule(_not("0"), _RETRIES),
    "message.send.max.retries": KafkaRule(_not("0"), _RETRIES),
    "delivery.timeout.ms": KafkaRule(_not("0"), _FOR_EVER),
    "message.timeout.ms": KafkaRule(_not("0"), _FOR_EVER),
    "delivery.report.only.error": KafkaRule(
        _only("false"), "a job is accepted, parked or dead only when its acknowledgement was seen"
    ),
    "queuing.strategy": KafkaRule(_only("fifo"), "last in, first out is not a key's order"),
    "queue.buffering.max.messages": KafkaRule(_not("0"), "0 takes the bound off the send queue"),
    "transactional.id": KafkaRule(
        _only(), "the client's transactions can lose or tear records; processor works without them"
    ),
    "metadata.broker.list": KafkaRule(_only(), _ALIAS, "set bootstrap.servers"),
}


def kafka_fault(name: str, value: object) -> str | None:
    """Say why a client setting is refused, or None where it may pass. Never repeats the value."""
    if name.startswith("default.topic.config"):
        return f"kafka.{name}: write its settings into [kafka] itself"
    if not isinstance(value, (str, int, float)):
        return f"kafka.{name}: must be a text, a number or true/false"
    rule = KAFKA_REFUSED.get(name)
    if rule is None or rule.keeps(str(value).strip().lower()):
        return None
    return f"kafka.{name}: breaks a promise: {rule.why}; {rule.instead}"
