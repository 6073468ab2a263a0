"""How much waits on the partitions of one worker, and how much of it could run.

The *lag* of a main topic or a tier are its records that are not settled, fetched or not. The
*runnable lag* of a main topic are those, of its tiers too, that more workers would settle sooner:
what runs, and what waits for nothing but its turn. Each partition is counted by its owner alone, so
sums over the workers of a group are right.

Rule 1: records that wait for their time, or in their lane behind one that does, cannot run.
Rule 2: nothing of a partition can that an outage pauses: its topic is closed, or it has met an
        outage within `OUTAGE_SECONDS` and has settled nothing for as long.
Rule 3: what is not fetched of a main topic counts, since its keys are not known; but not while the
        fence is full or holds the whole partition, or where the whole partition waits for the time
        of one record. What is not fetched of a tier counts where a full lane is the reason and none
        in it waits for its time: later ones mostly wait longer. Else it is fetched in a moment.
Rule 4: what waits behind a key's retries counts until it is looked at: it is then parked in a tier,
        and there rule 1 has it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field

from processor.core.assignment import Assignment
from processor.core.lane import Lane, Ordering
from processor.engine.outages import Outages
from processor.engine.ports import Clock
from processor.engine.telemetry import Outage
from processor.model import Partition

OUTAGE_SECONDS = 10.0  # A job that met an outage asks again after 5 at the latest.
_KINDS: tuple[Outage, ...] = ("broker", "registry", "store", "keys", "sink")


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits now, in records: the lag by main topic and tier, the rest by main topic.

    `paused` counts the partitions that an outage pauses.
    """

    lag: Counter[str] = field(default_factory=Counter)
    runnable: Counter[str] = field(default_factory=Counter)
    paused: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class _Seen:
    """How many records an assignment had settled, and since when it has settled no more."""

    settled: int
    since: float  # Monotonic seconds.


class Backlog:
    """Counts what waits for one worker."""

    def __init__(self, *, outages: Outages, closed: Container[str], clock: Clock) -> None:
        self._outages = outages
        self._closed = closed  # Main topics, as the breakers have it.
        self._clock = clock
        self._seen: dict[Assignment, _Seen] = {}

    def look(self, assignments: Sequence[Assignment], ends: Mapping[Partition, int]) -> Waiting:
        """Count. `ends`: where the partitions end, as far as that is known."""
        found = Waiting()
        self._note_progress(assignments)
        for assignment in assignments:
            topic = assignment.partition.topic
            paused = self._paused(assignment)
            found.paused[topic] += paused
            for partition, lane in zip(assignment.partitions, assignment.lanes, strict=True):
                unread = max(0, ends.get(partition, 0) - lane.watermark.next_offset)
                found.lag[partition.topic] += lane.watermark.unsettled + unread
                if not paused:
                    full = partition in assignment.paused
                    now = self._clock.now()
                    found.runnable[topic] += _runnable(assignment, lane, unread, now, full=full)
        return found

    def _note_progress(self, assignments: Sequence[Assignment]) -> None:
        now, before = self._clock.monotonic(), self._seen
        self._seen = {}
        for each in assignments:
            seen = before.get(each)
            moved = seen is None or seen.settled != each.settled_records
            self._seen[each] = _Seen(each.settled_records, now) if moved or not seen else seen

    def _paused(self, assignment: Assignment) -> bool:
        partition = assignment.partition
        if partition.topic in self._closed:
            return True
        if self._outages.lately(partition, _KINDS, seconds=OUTAGE_SECONDS) is None:
            return False
        return self._clock.monotonic() >= self._seen[assignment].since + OUTAGE_SECONDS


def _runnable(assignment: Assignment, lane: Lane, unread: int, now: float, *, full: bool) -> int:
    """Count what could run of one lane, and of what follows on its partition (rules 1 and 3).

    `full`: the partition is paused.
    """
    fence = assignment.fence
    if lane.tier == 0 and fence.held and not assignment.fences_keys:
        return 0
    delayed = lane.delayed(now)
    if lane.tier > 0:
        unread_may = full and delayed == 0
    else:
        waits = delayed > 0 and lane.ordering is Ordering.PARTITION
        unread_may = not waits and not (full and not fence.resumable)
    unsettled = lane.watermark.unsettled - delayed - len(lane.aside)
    return unsettled + (unread if unread_may else 0)
