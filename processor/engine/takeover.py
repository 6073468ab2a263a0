"""Take ownership of main partitions and their satellites, inside `on_assign`, before anything runs.

Step 1: read what the group has committed of main p and of each satellite. The new owner epoch is
        one more than the largest found in their metadata.
Step 2: commit main p at the same offset with the new epoch. The group's coordinator refuses a stale
        member, so epochs grow without a database.
Step 3: raise the ledger's owner row to it: from here on an older owner can write no effect.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from processor.core.assignment import Assignment
from processor.core.lane import Ordering
from processor.core.retry import RetryPolicy
from processor.engine.ports import Committed, Ledger, Log, Owner
from processor.errors import ProcessorError
from processor.model import Partition

_EPOCH = re.compile(r"\bepoch=(\d{1,18})\b")


class Served(Protocol):
    """What a worker must know of a topic that it serves (`contracts.topics.Topic` is one)."""

    @property
    def name(self) -> str:
        """The main topic."""
        ...

    @property
    def retry_topics(self) -> tuple[str, ...]:
        """One for each retry tier."""
        ...

    @property
    def dead_letter_topic(self) -> str:
        """Where the dead go."""
        ...

    @property
    def status_topic(self) -> str:
        """Where outcomes are told."""
        ...


@dataclass(frozen=True, slots=True)
class Rules:
    """How the jobs of one topic are run."""

    topic: Served
    ordering: Ordering
    policy: RetryPolicy
    publish_status: bool


class OffsetLost(ProcessorError):
    """A committed offset is no longer on the log: records expired unread, or the topic is new."""


@dataclass(frozen=True, slots=True)
class Takeover:
    """What taking a partition over needs, for all partitions alike."""

    log: Log
    ledger: Ledger
    group: str
    rules: Mapping[str, Rules]
    lane_records_max: int
    start_from: Literal["earliest", "latest"]
    when_offset_lost: Literal["stop", "earliest"]

    def take(self, partitions: Sequence[Partition]) -> list[Assignment]:
        """Become the owner of these main partitions. Nothing is read yet.

        Raises CommitRefused and the outage errors: nothing may be admitted, start over.
        """
        satellites = {
            main: tuple(
                Partition(topic, main.number) for topic in self.rules[main.topic].topic.retry_topics
            )
            for main in partitions
        }
        every = [each for main in partitions for each in (main, *satellites[main])]
        committed = self.log.committed(every)
        starts = self._starts(committed)
        taken = [self._assignment(main, satellites[main], committed, starts) for main in partitions]
        self.log.commit({each.partition: self.position(each, each.partition) for each in taken})
        for each in taken:
            self.ledger.raise_owner(self.owner(each))
        return taken

    def owner(self, assignment: Assignment) -> Owner:
        """The name under which an assignment writes."""
        return Owner(self.group, *assignment.partition, assignment.epoch)

    @staticmethod
    def position(assignment: Assignment, partition: Partition) -> Committed:
        """What is committed of a partition: its watermark, the epoch, and what was in flight."""
        lane = assignment.lanes[assignment.partitions.index(partition)]
        note = f"epoch={assignment.epoch}"
        if lane.tier == 0:
            note += f" in_flight={assignment.in_flight}"
        return Committed(lane.watermark.committable, note)

    def _assignment(
        self,
        main: Partition,
        satellites: tuple[Partition, ...],
        committed: Mapping[Partition, Committed],
        starts: Mapping[Partition, int],
    ) -> Assignment:
        rules = self.rules[main.topic]
        mine = (main, *satellites)
        return Assignment(
            partition=main,
            satellites=satellites,
            epoch=1 + max(epoch_of(committed[each].metadata) for each in mine),
            starts={each: starts[each] for each in mine},
            ordering=rules.ordering,
            policy=rules.policy,
            lane_records_max=self.lane_records_max,
        )

    def _starts(self, committed: Mapping[Partition, Committed]) -> dict[Partition, int]:
        """Where to read from. There is no silent reset: a lost offset is a fault or a choice."""
        starts: dict[Partition, int] = {}
        bounds = self.log.bounds(list(committed))
        for partition, position in committed.items():
            first, end = bounds[partition]
            if position.offset is None:
                satellite = partition.topic not in self.rules
                latest = self.start_from == "latest" and not satellite
                starts[partition] = end if latest else first
            elif first <= position.offset <= end:
                starts[partition] = position.offset
            elif self.when_offset_lost == "earliest":
                starts[partition] = first
            else:
                raise OffsetLost(
                    f"group `{self.group}` has committed offset {position.offset} of {partition}, "
                    f"which now holds {first} to {end}: records were lost to retention, or the "
                    "topic was made anew",
                    hint="to go on with what is left, set worker.when_offset_lost = 'earliest'",
                )
        return starts


def epoch_of(metadata: str) -> int:
    """Read the owner epoch from a commit's metadata; 0 where there is none."""
    found = _EPOCH.search(metadata)
    return int(found.group(1)) if found else 0
