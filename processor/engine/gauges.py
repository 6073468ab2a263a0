"""What a worker holds at this moment, told once a second: it is counted anew, never kept in step.

Every topic served is told of each time, so that what is gone shows as 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from processor.core.assignment import Assignment
from processor.engine.ports import Clock
from processor.engine.slices import Slice
from processor.engine.takeover import Rules
from processor.engine.telemetry import Telemetry


class Gauges:
    """Tells the gauges of one worker."""

    def __init__(self, *, rules: Mapping[str, Rules], clock: Clock, telemetry: Telemetry) -> None:
        self._mains = list(rules)
        self._served = [
            topic for main, each in rules.items() for topic in (main, *each.topic.retry_topics)
        ]
        self._clock = clock
        self._telemetry = telemetry
        self._committed: dict[Assignment, int] = {}
        self._uncommitted_since: dict[Assignment, float] = {}

    def look(self, assignments: Sequence[Assignment], slices: Collection[Slice]) -> None:
        """Count, and tell."""
        self._tell_lanes(assignments)
        self._tell_parked(assignments)
        self._tell_commit_age(assignments)
        owned = Counter(each.partition.topic for each in assignments)
        closed = Counter(
            {main: sum(len(a.holds) for a in assignments if a.partition.topic == main)
             for main in self._mains}
        )  # fmt: skip
        running = Counter(
            each.assignment.partition.topic for each in slices if each.running is not None
        )
        for main in self._mains:
            self._telemetry.partitions_owned(main, owned[main])
            self._telemetry.held_keys(main, closed[main])
            self._telemetry.in_flight(main, running[main])

    def _tell_lanes(self, assignments: Sequence[Assignment]) -> None:
        records: Counter[str] = Counter()
        paused: Counter[str] = Counter()
        size: Counter[str] = Counter()
        for each in assignments:
            for partition, lane in zip(each.partitions, each.lanes, strict=True):
                records[partition.topic] += lane.watermark.unsettled
                size[partition.topic] += lane.bytes
            paused.update(partition.topic for partition in each.paused)
        for topic in self._served:
            self._telemetry.lane_records(topic, records[topic])
            self._telemetry.lane_bytes(topic, size[topic])
            self._telemetry.partitions_paused(topic, paused[topic])

    def _tell_parked(self, assignments: Sequence[Assignment]) -> None:
        now = self._clock.now()
        for main in self._mains:
            fences = [each.fence for each in assignments if each.partition.topic == main]
            tiers = [
                lane
                for each in assignments
                if each.partition.topic == main
                for lane in each.lanes[1:]
            ]
            oldest = [at for lane in tiers if (at := lane.oldest_ms) is not None]
            seconds = max(0.0, now - min(oldest) / 1000) if oldest else 0.0
            self._telemetry.parked(
                main,
                records=sum(each.held for each in fences),
                keys=sum(each.keys for each in fences),
                oldest_seconds=seconds,
            )

    def _tell_commit_age(self, assignments: Sequence[Assignment]) -> None:
        """What is not committed was settled after the last look at which all was, to a second.

        And after the last commit that was accepted: it covers all that was settled by then.
        """
        now = self._clock.monotonic()
        since: dict[Assignment, float] = {}
        committed = {each: sum(each.committed.values()) for each in assignments}
        for each in assignments:
            if each.uncommitted():
                goes_on = committed[each] == self._committed.get(each)
                since[each] = self._uncommitted_since.get(each, now) if goes_on else now
        self._committed, self._uncommitted_since = committed, since
        self._telemetry.commit_age(now - min(since.values(), default=now))
