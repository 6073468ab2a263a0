from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from processor.adapters.broker import Need, fault_of, to_read, to_write
from processor.adapters.membership import Rejoin, end_of
from processor.errors import BrokerUnavailable, UsageError

ANN = {"bootstrap.servers": "k:9092", "sasl.username": "ann", "sasl.password": "canary-3"}


def test_missing_right_is_told_with_who_what_and_where():
    error = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)

    fault = fault_of(error, ANN, "append", need=to_write("mail.dlt"))

    assert isinstance(fault, UsageError)
    assert fault.message == (
        "Kafka at k:9092 does not allow User:ann Write on topic `mail.dlt` (append): "
        "Broker: Topic authorization failed"
    )
    assert "`processor acls plan`" in str(fault.hint)


def test_principal_that_only_the_brokers_know_is_not_guessed():
    error = KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED)

    fault = fault_of(error, {}, "join", need=Need("Read", "group", "g"))

    assert "does not allow this client Read on group `g`" in fault.message


def test_brokers_own_words_are_left_out_where_they_hold_a_whole_request():
    error = KafkaError(KafkaError.CLUSTER_AUTHORIZATION_FAILED, "Request Request(processor=1, …")

    fault = fault_of(error, ANN, "grant", need=Need("Alter", "cluster"))

    assert "Request(" not in fault.message
    assert fault.message.endswith("Alter on cluster (grant): Broker: Cluster authorization failed")


@pytest.mark.parametrize(
    "reason", ["Group authorization failed", "Topic authorization failed"], ids=str
)
def test_client_that_ended_for_want_of_a_right_says_which(reason: str):
    error = KafkaError(KafkaError._FATAL, f"Fatal error: Broker: {reason}")

    fault = end_of(error, ANN, Rejoin("", "mailers"))

    assert isinstance(fault, UsageError)
    assert "User:ann Read on group `mailers`" in fault.message
    assert reason in fault.message


def test_outage_is_none_of_it():
    error = KafkaError(KafkaError._TRANSPORT)

    fault = fault_of(error, ANN, "read", need=to_read("mail"))

    assert isinstance(fault, BrokerUnavailable)
    assert "Read on" not in fault.message
