"""What the clients are made with: our promises first, then `[kafka]`, each side its own."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import Consumer, Producer

from processor.adapters.kafka_settings import client_id, consumer_settings, producer_settings

SERVERS = {"bootstrap.servers": "127.0.0.1:9"}


def test_producer_keeps_the_promises():
    made = producer_settings(SERVERS, "c")

    assert made["enable.idempotence"] is True
    assert made["acks"] == "all"
    assert made["partitioner"] == "murmur2_random"
    assert made["allow.auto.create.topics"] is False
    assert (made["client.id"], made["bootstrap.servers"]) == ("c", "127.0.0.1:9")


def test_consumer_keeps_the_promises():
    made = consumer_settings(SERVERS, "g", "c")

    assert made["enable.auto.commit"] is False
    assert made["enable.auto.offset.store"] is False
    assert made["auto.offset.reset"] == "error"
    assert made["allow.auto.create.topics"] is False
    assert (made["group.id"], made["client.id"]) == ("g", "c")


@pytest.mark.parametrize(
    ("mine", "strategy"),
    [
        ({}, "cooperative-sticky"),
        ({"group.protocol": "classic"}, "cooperative-sticky"),
        ({"partition.assignment.strategy": "range"}, "range"),
        ({"group.protocol": "consumer"}, None),  # The brokers assign; naming a strategy is refused.
    ],
    ids=str,
)
def test_assignor_is_cooperative_unless_the_settings_say_otherwise(
    mine: dict[str, str], strategy: str | None
):
    made = consumer_settings({**SERVERS, **mine}, "g", "c")

    assert made.get("partition.assignment.strategy") == strategy


@pytest.mark.parametrize(
    ("name", "value", "consumer", "producer"),
    [
        ("security.protocol", "ssl", True, True),
        ("socket.timeout.ms", 5000, True, True),
        ("fetch.max.bytes", 1000, True, False),
        ("session.timeout.ms", 6000, True, False),
        ("heartbeat.interval.ms", 500, True, False),
        ("max.poll.interval.ms", 9000, True, False),
        ("queued.min.messages", 10, True, False),
        ("isolation.level", "read_committed", True, False),
        ("linger.ms", 50, False, True),
        ("batch.size", 1000, False, True),
        ("compression.type", "zstd", False, True),
        ("queue.buffering.max.messages", 10, False, True),
        ("delivery.timeout.ms", 9000, False, True),
        ("message.max.bytes", 2000, False, True),
    ],
)
def test_setting_reaches_the_client_that_it_is_for(
    name: str, value: Any, consumer: bool, producer: bool
):
    settings = {**SERVERS, name: value}

    consumed = consumer_settings(settings, "g", "c")
    produced = producer_settings(settings, "c")

    assert (consumed.get(name) == value) is consumer
    assert (produced.get(name) == value) is producer


@pytest.mark.parametrize(
    "setting",
    [
        {},
        {"group.protocol": "consumer"},
        {"linger.ms": 50, "session.timeout.ms": 7000, "heartbeat.interval.ms": 500},
    ],
    ids=str,
)
def test_clients_take_what_they_are_made_with(setting: dict[str, Any]):
    settings = {**SERVERS, **setting}

    Consumer(consumer_settings(settings, "g", "c")).close()
    Producer(producer_settings(settings, "c"))


def test_settings_are_not_changed():
    settings = dict(SERVERS)

    consumer_settings(settings, "g", "c")
    producer_settings(settings, "c")

    assert settings == SERVERS


def test_client_s_name_tells_the_process_and_its_role():
    assert client_id("worker").startswith("processor-worker-")
    assert client_id("worker") != client_id("client")
