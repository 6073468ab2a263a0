"""Sentry Arroyo."""

from arroyo.backends.kafka import KafkaConsumer
from arroyo.backends.kafka.configuration import build_kafka_consumer_configuration
from arroyo.processing.processor import StreamProcessor
from arroyo.processing.strategies import CommitOffsets, RunTask
from arroyo.types import Topic
from peer import GROUP, SERVERS, TOPIC, decoded, meter


def handle(message):
    decoded(message.payload.value)
    meter.tick()
    return message.payload


class Steps:
    """One step, then the commit."""

    def create_with_partitions(self, commit, partitions):
        return RunTask(handle, CommitOffsets(commit))


settings = build_kafka_consumer_configuration(
    {"bootstrap.servers": SERVERS}, group_id=GROUP, auto_offset_reset="earliest"
)
StreamProcessor(KafkaConsumer(settings), Topic(TOPIC), Steps()).run()
