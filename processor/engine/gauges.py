"""What a worker holds at this moment, told once a second: it is counted anew, never kept in step.

Every topic served is told of each time, so that what is gone shows as 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Container, Iterable, Mapping, Sequence

from processor.core.assignment import Assignment
from processor.core.lane import Lane
from processor.engine.backlog import Backlog
from processor.engine.outages import Outages
from processor.engine.ports import Clock, Log
from processor.engine.slices import Slice
from processor.engine.takeover import Rules
from processor.engine.telemetry import Telemetry


class Gauges:
    """Tells the gauges of one worker."""

    def __init__(
        self,
        *,
        log: Log,
        rules: Mapping[str, Rules],
        outages: Outages,
        closed: Container[str],
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._log = log
        self._backlog = Backlog(outages=outages, closed=closed, clock=clock)
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
        self._tell_waiting(assignments)
        self._tell_parked(assignments)
        self.tell_commit_age(assignments)
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

    def _tell_waiting(self, assignments: Sequence[Assignment]) -> None:
        ends = self._log.ends([each for a in assignments for each in a.partitions])
        waiting = self._backlog.look(assignments, ends)
        for topic in self._served:
            self._telemetry.lag(topic, waiting.lag[topic])
        for main in self._mains:
            self._telemetry.runnable_lag(main, waiting.runnable[main])
            self._telemetry.in_outage(main, waiting.paused[main])

    def _tell_parked(self, assignments: Sequence[Assignment]) -> None:
        for main in self._mains:
            mine = [each for each in assignments if each.partition.topic == main]
            self._telemetry.oldest(main, self._age(each.lanes[0] for each in mine))
            self._telemetry.parked(
                main,
                records=sum(each.fence.held for each in mine),
                keys=sum(each.fence.keys for each in mine),
                oldest_seconds=self._age(lane for each in mine for lane in each.lanes[1:]),
            )

    def _age(self, lanes: Iterable[Lane]) -> float:
        """How long ago the oldest job of these lanes came to the main topic; 0: there is none."""
        oldest = min((at for lane in lanes if (at := lane.oldest_ms) is not None), default=None)
        return 0.0 if oldest is None else max(0.0, self._clock.now() - oldest / 1000)

    def tell_commit_age(self, assignments: Sequence[Assignment]) -> None:
        """What is not committed was settled after the last look at which all was, to a second.

        And after the last commit that was accepted: it covers all that was settled by then. To be
        called around a commit as well: where each look comes just after one, none sees what waits,
        and while the loop hangs in a commit there is no look.
        """
        now = self._clock.monotonic()
        since: dict[Assignment, float] = {}
        committed = {each: sum(each.committed.values()) for each in assignments}
        for each in assignments:
            if each.uncommitted():
                goes_on = committed[each] == self._committed.get(each)
                since[each] = self._uncommitted_since.get(each, now) if goes_on else now
        self._committed, self._uncommitted_since = committed, since
        self._telemetry.commit_age(now - min(since.values()) if since else None)
