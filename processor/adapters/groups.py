"""Who owns what in a consumer group, as its coordinator tells it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from processor.adapters.broker import Need, fault_of, kafka_error, made
from processor.adapters.kafka_settings import client_id, consumer_settings
from processor.model import Partition

CALL_SECONDS = 10.0
_ADMIN = ("bootstrap.servers", "security.", "sasl.", "ssl.", "client.", "socket.", "log_level",
          "reconnect.")  # fmt: skip


def owners_of(settings: Mapping[str, Any], group: str) -> dict[Partition, str]:
    """Name the member that owns each partition: client id and host. Raises BrokerUnavailable."""
    mine = consumer_settings(settings, group, client_id("operator"))
    admin = made(AdminClient, {n: v for n, v in mine.items() if n.startswith(_ADMIN)})
    try:
        asked = admin.describe_consumer_groups([group], request_timeout=CALL_SECONDS)
        found: Any = asked[group].result(CALL_SECONDS)
    except KafkaException as fault:
        if kafka_error(fault).code() == KafkaError.GROUP_ID_NOT_FOUND:
            return {}  # Nobody has ever joined it.
        need = Need("Describe", "group", group)
        what = f"describe group {group}"
        raise fault_of(kafka_error(fault), settings, what, need=need) from fault
    return {
        Partition(each.topic, each.partition): f"{member.client_id} at {member.host}"
        for member in found.members
        if member.assignment is not None
        for each in member.assignment.topic_partitions
    }
