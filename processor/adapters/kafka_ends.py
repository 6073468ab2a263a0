"""Where partitions end, asked of their leaders in the background: nobody waits for the answer."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from processor.adapters.broker import made
from processor.adapters.kafka_settings import admin_settings
from processor.model import Partition

EVERY_SECONDS = 2.0
ANSWER_SECONDS_MAX = 10.0


class Ends:
    """Knows the ends of what it was last asked for, as they were some seconds ago.

    One thread asks. A partition of which nothing is known yet, or whose leader has not answered, is
    left out, or keeps the end that was told last.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._client: AdminClient | None = None  # Made when somebody asks.
        self._known: dict[Partition, int] = {}
        self._asked: dict[
            Partition, Any
        ] = {}  # Futures: the client's stubs know no offset in them.
        self._ask_at = 0.0

    def known(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """Tell what is known of these, and ask again when it is time."""
        self._take_in()
        now = time.monotonic()
        if partitions and not self._asked and now >= self._ask_at:
            self._ask_at = now + EVERY_SECONDS
            self._ask(partitions)
        return {each: self._known[each] for each in partitions if each in self._known}

    def _ask(self, partitions: Sequence[Partition]) -> None:
        if self._client is None:
            self._client = made(AdminClient, admin_settings(self._settings))
        self._known = {each: end for each, end in self._known.items() if each in set(partitions)}
        asked: dict[TopicPartition, OffsetSpec] = {
            TopicPartition(*each): OffsetSpec.latest() for each in partitions
        }
        answers = self._client.list_offsets(
            asked,
            isolation_level=IsolationLevel.READ_UNCOMMITTED,
            request_timeout=ANSWER_SECONDS_MAX,
        )
        self._asked = {Partition(each.topic, each.partition): answers[each] for each in answers}

    def _take_in(self) -> None:
        for partition, answer in list(self._asked.items()):
            if answer.done():
                del self._asked[partition]
                # What is away is told by those who need it; the old end stays.
                with contextlib.suppress(KafkaException):
                    self._known[partition] = answer.result().offset
