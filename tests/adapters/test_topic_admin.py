from __future__ import annotations

import uuid
from typing import Any

import pytest

from processor.adapters.topic_admin import TopicAdmin
from processor.contracts.topic import TopicSpec
from processor.errors import BrokerUnavailable, ProcessorError, UsageError

pytestmark = pytest.mark.broker


@pytest.fixture
def admin(kafka: Any) -> TopicAdmin:
    return TopicAdmin({"bootstrap.servers": kafka.bootstrap_servers})


@pytest.fixture
def name() -> str:
    return f"t{uuid.uuid4().hex}"


def test_created_topic_is_described_as_it_was_asked_for(admin: TopicAdmin, name: str):
    admin.create(TopicSpec(name, 3, 1, {"retention.ms": "1234567"}))

    found = admin.describe()[name]

    assert (found.partitions, found.replication) == (3, 1)
    assert found.config["retention.ms"] == "1234567"
    assert found.config["cleanup.policy"] == "delete"
    assert admin.brokers() >= 1


def test_topic_is_created_once(admin: TopicAdmin, name: str):
    spec = TopicSpec(name, 1, 1, {})
    admin.create(spec)

    with pytest.raises(ProcessorError, match="already exists"):
        admin.create(spec)

    assert admin.describe()[name].partitions == 1


def test_changed_setting_leaves_the_others(admin: TopicAdmin, name: str):
    admin.create(TopicSpec(name, 1, 1, {"retention.ms": "1000000", "segment.ms": "777777"}))

    admin.set_config(name, {"retention.ms": "2000000"})

    found = admin.describe()[name]
    assert found.config["retention.ms"] == "2000000"
    assert found.config["segment.ms"] == "777777"


def test_partitions_are_added_and_never_taken_away(admin: TopicAdmin, name: str):
    admin.create(TopicSpec(name, 2, 1, {}))

    admin.add_partitions(name, 4)
    grown = admin.describe()[name]
    with pytest.raises(ProcessorError, match="refused to add partitions"):
        admin.add_partitions(name, 3)

    assert grown.partitions == 4
    assert admin.describe()[name].partitions == 4


def test_setting_that_kafka_does_not_know_is_refused(admin: TopicAdmin, name: str):
    with pytest.raises(ProcessorError, match="refused to create topic"):
        admin.create(TopicSpec(name, 1, 1, {"no.such.setting": "1"}))

    assert name not in admin.describe()


def test_broker_that_is_away_is_told_with_its_address_and_the_seconds_tried():
    away = TopicAdmin({"bootstrap.servers": "127.0.0.1:9"}, timeout_seconds=1)

    for call in (away.brokers, away.describe, lambda: away.create(TopicSpec("x", 1, 1, {}))):
        with pytest.raises(BrokerUnavailable) as caught:
            call()

        assert "Kafka at 127.0.0.1:9 does not answer: tried to" in caught.value.message
        assert caught.value.hint == "is it running, and is kafka.bootstrap.servers right?"


def test_setting_that_the_client_does_not_know_is_misuse():
    with pytest.raises(UsageError, match=r"no\.such\.setting"):
        TopicAdmin({"bootstrap.servers": "127.0.0.1:9", "no.such.setting": 1})
