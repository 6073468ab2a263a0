"""Read ranges of partitions outside any group: what a takeover looks at in the tiers."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterator, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, TopicPartition

from processor.adapters.broker import fault_while_serving, made, servers_of, to_read
from processor.adapters.kafka_settings import scanner_settings
from processor.errors import BrokerUnavailable
from processor.model import Partition, Record, record_of

SCAN_RECORDS = 2_000
COLLECT_AFTER = 100_000  # Objects made and not freed.


def scan(
    settings: Mapping[str, Any],
    ranges: Mapping[Partition, tuple[int, int]],
    seconds_max: float,
    *,
    group: str,
) -> Iterator[Record]:
    """Read each partition from an offset to before another; so long may pass without a record.

    The group is only named, for the client asks who coordinates it: nothing joins or commits.
    """
    left = {each: end for each, (start, end) in ranges.items() if start < end}
    scanner = made(Consumer, scanner_settings(settings, group))
    with contextlib.closing(scanner), _collecting_seldom():
        given = [TopicPartition(*each, ranges[each][0]) for each in left]
        scanner.assign(given)
        until = time.monotonic() + seconds_max
        while left:
            found = False
            for message in scanner.consume(SCAN_RECORDS, 0.1):
                if (error := message.error()) is not None:
                    if error.code() != KafkaError._PARTITION_EOF:
                        where = Partition(message.topic() or "", message.partition() or 0)
                        need = to_read(message.topic())
                        raise fault_while_serving(error, settings, f"scanning {where}", need=need)
                    continue
                record = record_of(message)
                if record.offset < left.get(Partition(record.topic, record.partition), 0):
                    found = True
                    yield record
            if found:
                until = time.monotonic() + seconds_max
            positions = scanner.position([TopicPartition(*each) for each in left])
            for each in positions:
                # The position passes what is not there: gaps of compaction and transactions.
                if each.offset >= left[Partition(each.topic, each.partition)]:
                    del left[Partition(each.topic, each.partition)]
            if left and time.monotonic() > until:
                raise BrokerUnavailable(
                    f"Kafka at {servers_of(settings)} did not give what is on "
                    f"{next(iter(left))} within {seconds_max:.0f} s"
                )


@contextlib.contextmanager
def _collecting_seldom() -> Iterator[None]:
    """Look for cycles seldom: a million records have none, and looking takes a fifth of the time.

    Not never: handlers of other partitions run meanwhile.
    """
    before = gc.get_threshold()
    gc.set_threshold(COLLECT_AFTER, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
