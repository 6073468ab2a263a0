"""What waits on a topic, by partition, from what the brokers know."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from processor.adapters.reader import TopicReader
from processor.contracts.topics import Topic
from processor.model import Partition
from processor.settings import Settings

_IN_FLIGHT = re.compile(r"\bin_flight=(\d+)\b")


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """One main partition and its satellites, in records.

    `lag`: not committed on the main topic. `in_flight`: of these, with a worker at its last
    commit. `retrying`: not committed in the retry tiers. `dead`: letters still on the dead-letter
    topic.
    """

    topic: str
    partition: int
    end: int
    committed: int | None
    lag: int
    in_flight: int
    retrying: int
    dead: int


def lag_of(settings: Settings, topic: Topic, group: str) -> Iterator[PartitionLag]:
    """Read the lag of each partition. Raises UsageError when the topic does not exist."""
    with TopicReader(settings.kafka, group=group) as reader:
        mains = reader.partitions(topic.name)
        names = (topic.name, *topic.retry_topics)
        every = [Partition(name, main.number) for main in mains for name in names]
        letters = [Partition(topic.dead_letter_topic, main.number) for main in mains]
        bounds = reader.bounds([*every, *letters])
        committed = reader.committed(every)

        def behind(partition: Partition) -> int:
            first, end = bounds[partition]
            offset = committed[partition][0]
            return end - (first if offset is None else max(offset, first))

        for main in mains:
            offset, note = committed[main]
            in_flight = _IN_FLIGHT.search(note)
            dead_first, dead_end = bounds[Partition(topic.dead_letter_topic, main.number)]
            yield PartitionLag(
                topic=topic.name,
                partition=main.number,
                end=bounds[main][1],
                committed=offset,
                lag=behind(main),
                in_flight=int(in_flight.group(1)) if in_flight and behind(main) else 0,
                retrying=sum(behind(Partition(t, main.number)) for t in topic.retry_topics),
                dead=dead_end - dead_first,
            )
