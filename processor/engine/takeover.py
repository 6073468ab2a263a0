"""Take ownership of main partitions and their satellites, inside `on_assign`, before anything runs.

Step 1: read what the group has committed of main p and of each satellite. The new owner epoch is
        one more than the largest found in their metadata.
Step 2: commit main p at the same offset with the new epoch. The group's coordinator refuses a stale
        member, so epochs grow without a database.
Step 3: raise the ledger's owner row to it: from here on an older owner can write no effect. Only
        then read which keys are closed.
Step 4: append a marker with it to each satellite. Copies of older owners that land behind it are
        void: the commit of their source was refused, so the source comes again.
Step 5: scan each satellite from its committed offset to the marker, keys and headers only, to know
        which keys have jobs waiting. An epoch not below ours (offsets were reset, a group was made
        anew): take a larger one and go to step 2, and scan on from the marker.

Only then is a record of main p or of any tier admitted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from processor.contracts import headers
from processor.core.assignment import Assignment
from processor.core.floor import Floor
from processor.core.holds import Holds
from processor.core.lane import Ordering
from processor.core.letters import Letters
from processor.core.retry import RetryPolicy
from processor.engine.journey import hop_of, place_of, reading
from processor.engine.ports import CommitRefused, Committed, Ledger, Log, Owner
from processor.errors import ProcessorError
from processor.model import Outgoing, Partition, Record

ROUNDS_MAX = 5  # Of steps 2 to 5; each further one needs a larger epoch to have turned up.

LETTERS = -1  # In place of a tier's number: the dead-letter topic.

_EPOCH = re.compile(r"\b(?:epoch|floor)=(\d{1,18})\b")


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
    """How the jobs of one topic are run.

    `fence` `partition`: nothing overtakes a retried job. `hold`: when a job dies, the rest of its
    key is held until an operator acts. `is_async`: a handler of its jobs is a coroutine. So long as
    `aside_seconds` a record waits in place behind its key's copies before it is copied too.
    """

    topic: Served
    ordering: Ordering
    policy: RetryPolicy
    publish_status: bool
    fence: Ordering = Ordering.KEY
    hold: bool = False
    is_async: bool = False
    batch_max: int = 1
    linger_seconds: float = 0.0
    aside_seconds: float = 1.0


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
    fence_records_max: int = 100_000

    def take(self, partitions: Sequence[Partition]) -> list[Assignment]:
        """Become the owner of these main partitions. Nothing of them is read into lanes yet.

        Raises CommitRefused, OwnershipLost and the outage errors: nothing may be admitted, start
        over.
        """
        satellites = {
            main: tuple(
                Partition(topic, main.number) for topic in self.rules[main.topic].topic.retry_topics
            )
            for main in partitions
        }
        every = [each for main in partitions for each in (main, *satellites[main])]
        letters = [] if self.ledger.remembers else [self._letters_of(main) for main in partitions]
        committed = self.log.committed([*every, *letters])
        starts = self._starts(committed)
        taken = [self._assignment(main, satellites[main], committed, starts) for main in partitions]
        claiming = taken
        looked_at = {each: sight for a in taken for each, sight in _sights(a).items()}
        for _ in range(ROUNDS_MAX):
            self.log.commit({a.partition: self.position(a, a.partition) for a in claiming})
            for each in claiming:
                self.ledger.raise_owner(self.owner(each))
                if self.rules[each.partition.topic].hold:
                    each.holds = Holds(self.ledger.holds(self.owner(each)))
            for partition, marker in self._mark(claiming).items():
                looked_at[partition].end = marker
            found = self._scan(looked_at)
            claiming = [each for each in claiming if found.get(each, 0) >= each.epoch]
            if not claiming:
                for partition, sight in looked_at.items():
                    sight.pass_by(partition)
                return taken
            for each in claiming:
                each.epoch = found[each] + 1
        raise CommitRefused(f"epochs of {claiming[0].partition} grow faster than they are taken")

    def owner(self, assignment: Assignment) -> Owner:
        """Name an assignment as the ledger knows it."""
        return Owner(self.group, *assignment.partition, assignment.epoch)

    @staticmethod
    def position(assignment: Assignment, partition: Partition) -> Committed:
        """What is to be committed of a partition: its watermark, and what must be known with it.

        Main: the epoch, and how many records were in flight. A satellite: the floor at the offset.
        """
        letters = assignment.letters
        if letters is not None and partition == letters.partition:
            return Committed(letters.position, f"floor={letters.floor.at(letters.position)}")
        lane = assignment.lanes[assignment.partitions.index(partition)]
        offset = lane.watermark.committable
        if lane.tier == 0:
            note = f"epoch={assignment.epoch} in_flight={assignment.in_flight}"
        else:
            note = f"floor={assignment.floor_at(partition, offset)}"
        return Committed(offset, note)

    def _mark(self, assignments: Iterable[Assignment]) -> dict[Partition, int]:
        """Append a marker to all that will be scanned. Returns where each landed."""
        marked = [(each, a.epoch) for a in assignments for each in a.positions[1:]]
        if not marked:
            return {}
        offsets = self.log.append(
            [
                Outgoing(topic, number, None, None, headers.write_marker(epoch))
                for (topic, number), epoch in marked
            ]
        )
        return {partition: at for (partition, _), at in zip(marked, offsets, strict=True)}

    def _scan(self, looked_at: Mapping[Partition, _Sight]) -> dict[Assignment, int]:
        """Look on, up to the newest markers. Returns the largest epoch seen before them."""
        seen = {each.assignment: 0 for each in looked_at.values()}
        ranges = {
            partition: (each.start, each.end)
            for partition, each in looked_at.items()
            if each.start < each.end
        }
        if ranges:
            for record in self.log.scan(ranges):
                sight = looked_at[Partition(record.topic, record.partition)]
                epoch = _scan_one(record, sight)
                seen[sight.assignment] = max(seen[sight.assignment], epoch)
        for partition, each in looked_at.items():
            if each.start <= each.end:
                each.close(partition)
        return seen

    def _assignment(
        self,
        main: Partition,
        satellites: tuple[Partition, ...],
        committed: Mapping[Partition, Committed],
        starts: Mapping[Partition, int],
    ) -> Assignment:
        rules = self.rules[main.topic]
        letters = None if self.ledger.remembers else self._letters_of(main)
        mine = (main, *satellites) if letters is None else (main, *satellites, letters)
        return Assignment(
            partition=main,
            satellites=satellites,
            epoch=1 + max(epoch_of(committed[each].metadata) for each in mine),
            starts={each: starts[each] for each in mine},
            ordering=rules.ordering,
            policy=rules.policy,
            lane_records_max=self.lane_records_max,
            floors={each: epoch_of(committed[each].metadata) for each in satellites},
            fence_ordering=rules.fence,
            fence_records_max=self.fence_records_max,
            letters=None
            if letters is None
            else Letters(
                partition=letters,
                start=starts[letters],
                epoch=epoch_of(committed[letters].metadata),
                records_max=self.fence_records_max,
            ),
            is_async=rules.is_async,
            tells_each=self._tells_each(rules),
            batch_max=rules.batch_max,
            linger_seconds=rules.linger_seconds,
            aside_seconds=rules.aside_seconds,
            read=None if rules.is_async or self._tells_each(rules) else reading(rules.policy),
        )

    def _tells_each(self, rules: Rules) -> bool:
        """Whether somebody is told of each job, even of one that succeeds."""
        return self.ledger.remembers or rules.publish_status

    def _letters_of(self, main: Partition) -> Partition:
        return Partition(self.rules[main.topic].topic.dead_letter_topic, main.number)

    def _starts(self, committed: Mapping[Partition, Committed]) -> dict[Partition, int]:
        """Where to read from. There is no silent reset: a lost offset is a fault or a choice."""
        starts: dict[Partition, int] = {}
        bounds = self.log.bounds(list(committed))
        dead = {rules.topic.dead_letter_topic for rules in self.rules.values()}
        for partition, position in committed.items():
            first, end = bounds[partition]
            if partition.topic in dead:  # What has expired there is long settled.
                known = position.offset is not None and first <= position.offset <= end
                starts[partition] = position.offset or 0 if known else first
            elif position.offset is None:
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


@dataclass(slots=True)
class _Sight:
    """How far a takeover has looked at one of an assignment's partitions, and what stands there."""

    assignment: Assignment
    tier: int
    floor: Floor
    start: int  # What is before it was looked at.
    end: int = -1  # Our newest marker.
    copies: bool = False  # Whether any is there that is not void.

    def close(self, partition: Partition) -> None:
        """Note that all before our marker was looked at; the marker itself need not be."""
        letters = self.assignment.letters
        if letters is not None and partition == letters.partition:
            letters.closed_at(self.end, epoch=self.assignment.epoch)
        else:
            self.floor.raise_at(self.end, epoch=self.assignment.epoch)
            self.assignment.appended(partition, self.end)
        self.start = self.end + 1

    def pass_by(self, partition: Partition) -> None:
        """Have a tier's lane begin behind our marker where nothing before it is to be run.

        A copy that lands there next follows at once (`journey.land`), and is not fetched first: on
        a partition with a backlog that would take as long as what the client has fetched of it.
        """
        if partition in self.assignment.satellites and not self.copies:
            floor = self.assignment.floors[self.tier - 1]
            floor.raise_at(self.end, epoch=self.assignment.epoch)
            self.assignment.lanes[self.tier].pass_by(self.end)


def _sights(assignment: Assignment) -> dict[Partition, _Sight]:
    """Where to begin: at what was committed."""
    sights = {}
    for tier, satellite in enumerate(assignment.satellites, start=1):
        start = assignment.committed[satellite]
        floor = Floor(start=start, epoch=assignment.floor_at(satellite, start))
        sights[satellite] = _Sight(assignment, tier, floor, start)
    if (letters := assignment.letters) is not None:
        sights[letters.partition] = _Sight(assignment, LETTERS, letters.floor, letters.position)
    return sights


def epoch_of(metadata: str) -> int:
    """Read the epoch or floor from a commit's metadata; 0 where there is none."""
    found = _EPOCH.search(metadata)
    return int(found.group(1)) if found else 0


def _scan_one(record: Record, sight: _Sight) -> int:
    """Note what a satellite's record says of its key. Returns the epoch it was written under."""
    assignment, tier, floor = sight.assignment, sight.tier, sight.floor
    marker = headers.read_marker(record)
    if marker is not None:
        floor.raise_at(record.offset, epoch=marker)
        return marker
    if tier == LETTERS:
        hop = hop_of(record)
        epoch = 0 if hop is None else hop.epoch
        if hop is not None and epoch >= floor.epoch and assignment.letters is not None:
            assignment.letters.note(record.offset, origin=hop.origin, replay=hop.replay)
        return epoch
    known = headers.read_copy(record)
    epoch, copy = (0, "") if known is None else known
    if known is None or epoch >= floor.epoch:
        sight.copies = True
        key = assignment.fence_key(record.key)
        assignment.fence.add(key, tier=tier, copy=copy or place_of(record))
    return epoch
