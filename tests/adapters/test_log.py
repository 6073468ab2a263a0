"""Both logs keep the port's promises: the one in memory, and Kafka's client in every mode."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from processor.adapters.kafka import KafkaLog
from processor.adapters.topic_admin import TopicAdmin
from processor.contracts.topic import TopicSpec
from processor.errors import BrokerUnavailable
from processor.model import Outgoing, Partition
from processor.testing import Broker, MemoryLog
from tests.adapters.log_conformance import CHECKS, GROUP_CHECKS, Cluster

Check = Callable[[Cluster], None]


def named(check: Check) -> str:
    return check.__name__


@pytest.mark.parametrize("check", CHECKS, ids=named)
def test_log_in_memory_keeps_the_promise(check: Check):
    broker = Broker({"t": 2, "t.retry.1": 2})

    check(Cluster("t", "t.retry.1", lambda: MemoryLog(broker, group="g")))


@pytest.fixture
def cluster(kafka: Any, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Fresh topics and a fresh group; a member that does not poll is expelled after 3 seconds."""
    name = f"log-{uuid.uuid4().hex[:12]}"
    admin = TopicAdmin({"bootstrap.servers": kafka.bootstrap_servers})
    for topic in (name, f"{name}.retry.1"):
        admin.create(TopicSpec(topic, 2, 1, {}))
    settings: dict[str, Any] = {
        "bootstrap.servers": kafka.bootstrap_servers,
        "max.poll.interval.ms": 6000,
        **request.param,
    }
    if "group.protocol" not in settings:
        settings |= {"session.timeout.ms": 6000, "heartbeat.interval.ms": 500}
    made = Cluster(name, f"{name}.retry.1", lambda: KafkaLog(settings, group=name, name="test"))
    yield made
    made.close()


@pytest.mark.broker
@pytest.mark.parametrize("cluster", [{}], ids=["cooperative"], indirect=True)
@pytest.mark.parametrize("check", CHECKS, ids=named)
def test_kafka_keeps_the_promise(cluster: Cluster, check: Check):
    check(cluster)


@pytest.mark.broker
@pytest.mark.parametrize(
    "cluster",
    [{"partition.assignment.strategy": "range"}, {"group.protocol": "consumer"}],
    ids=["eager", "consumer-protocol"],
    indirect=True,
)
@pytest.mark.parametrize("check", GROUP_CHECKS, ids=named)
def test_kafka_keeps_the_promise_however_the_group_shares(cluster: Cluster, check: Check):
    check(cluster)


@pytest.mark.broker
def test_topic_that_a_broker_does_not_know_is_an_outage_while_serving(kafka: Any):
    log = KafkaLog({"bootstrap.servers": kafka.bootstrap_servers}, group="g", name="test")
    missing = Partition(f"missing-{uuid.uuid4().hex}", 0)

    with pytest.raises(BrokerUnavailable, match="no such topic"):
        log.bounds([missing])

    log.close()


def test_append_that_finds_the_buffer_full_for_long_fails(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("processor.adapters.kafka.CALL_SECONDS", 0.2)
    settings = {"bootstrap.servers": "127.0.0.1:1", "queue.buffering.max.messages": 5}
    log = KafkaLog(settings, group="g", name="test")
    for token in range(50):  # All of them wait as long as one.
        log.send(Outgoing("t.retry.1", 0, b"k", b"value", []), token)

    failed = [each for each in log.deliveries() if each.error is not None]

    assert [each.token for each in failed] == list(range(5, 50))
    log.close()
