"""All that a worker knows of one main partition and its satellites: one object, dropped whole.

A satellite is partition p of a retry tier; it follows main partition p. Results, acknowledgements
and errands carry the assignment they belong to, and those of a dropped one are dropped.
"""

from __future__ import annotations

from collections.abc import Callable

from processor.core.fence import Fence
from processor.core.floor import Floor
from processor.core.holds import Holds
from processor.core.lane import Lane, Ordering
from processor.core.letters import Letters
from processor.core.retry import RetryPolicy
from processor.model import Hop, Message, Partition, Record


class Assignment:
    """One ownership of one main partition, from its takeover until it is revoked or lost."""

    __slots__ = (
        "_copies",
        "aside_seconds",
        "batch_max",
        "committed",
        "draining",
        "dropped",
        "ends",
        "epoch",
        "fence",
        "fence_ordering",
        "floors",
        "holds",
        "is_async",
        "lanes",
        "letters",
        "linger_seconds",
        "partition",
        "paused",
        "policy",
        "running",
        "satellites",
        "settling",
        "tells_each",
    )

    def __init__(
        self,
        *,
        partition: Partition,
        satellites: tuple[Partition, ...],
        epoch: int,
        starts: dict[Partition, int],
        ordering: Ordering,
        policy: RetryPolicy,
        lane_records_max: int,
        floors: dict[Partition, int] | None = None,
        fence_ordering: Ordering = Ordering.KEY,
        fence_records_max: int = 100_000,
        letters: Letters | None = None,
        read: Callable[[Message], tuple[Record, Hop]] | None = None,
        is_async: bool = False,
        tells_each: bool = True,
        batch_max: int = 1,
        linger_seconds: float = 0.0,
        aside_seconds: float = 1.0,
    ) -> None:
        assert epoch >= 1
        assert len(satellites) == policy.tiers
        self.partition = partition
        self.satellites = satellites
        self.epoch = epoch
        self.policy = policy
        self.fence = Fence(records_max=fence_records_max)
        self.fence_ordering = fence_ordering
        self.holds = Holds()
        self.letters = letters  # Only where no ledger remembers the dead.
        self.batch_max = batch_max  # So many records are waited for,
        self.linger_seconds = linger_seconds  # and no longer than this.
        self.aside_seconds = aside_seconds  # No longer does a record stay aside.
        self.is_async = is_async  # Its handlers are coroutines, or some of them are.
        self.tells_each = tells_each  # A ledger or a status topic is told of each job.
        self.ends = dict.fromkeys(satellites, 0)  # One past the last copy known on each.
        self.floors = [
            Floor(start=starts[each], epoch=(floors or {}).get(each, 0)) for each in satellites
        ]
        self.lanes = [
            Lane(
                tier=tier,
                # A tier holds jobs of many keys, each with its own time: a key waits for itself.
                ordering=ordering if tier == 0 else fence_ordering,
                start=starts[each],
                records_max=lane_records_max,
                read=read if tier == 0 else None,
            )
            for tier, each in enumerate((partition, *satellites))
        ]
        self.committed: dict[Partition, int] = dict(starts)
        self.paused: set[Partition] = set()
        self.draining = False
        self.dropped = False
        self.running = 0  # Slices with a pool thread.
        self.settling = 0  # Entries whose verdict is being carried out.
        self._copies = 0

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """Main first, then each tier's."""
        return (self.partition, *self.satellites)

    @property
    def positions(self) -> tuple[Partition, ...]:
        """All that is committed for it: its partitions, and the letters' where they are needed."""
        return (
            self.partitions if self.letters is None else (*self.partitions, self.letters.partition)
        )

    @property
    def quiet(self) -> bool:
        """Whether nothing is on its way: what could be settled now is settled."""
        return self.running == 0 and self.settling == 0

    @property
    def in_flight(self) -> int:
        """Entries taken from their lanes and not settled."""
        unsettled = sum(lane.watermark.unsettled - lane.waiting for lane in self.lanes)
        return unsettled - len(self.lanes[0].aside)

    @property
    def settled_records(self) -> int:
        """Records of it that have been settled so far, markers and void copies included."""
        return sum(lane.watermark.settled_records for lane in self.lanes)

    def next_copy(self) -> str:
        """Name a new copy: unique in the partition, since its epoch is."""
        self._copies += 1
        return f"{self.epoch}-{self._copies}"

    @property
    def fences_keys(self) -> bool:
        """Whether a key waits for itself alone, and not the whole partition for any job."""
        return self.fence_ordering is Ordering.KEY

    @property
    def passes_failures(self) -> bool:
        """Whether a job that fails leaves its lane, and nothing but its key has to wait for it."""
        return self.policy.tiers > 0 and self.fences_keys

    def fence_key(self, key: bytes | None) -> bytes | None:
        """What the fence knows a record by: its key, or one name for the whole partition."""
        return key if self.fences_keys else b"*"

    def unfence(self, key: bytes | None, copy: str) -> None:
        """Note that a copy is settled; with its key's last one what was set aside comes back."""
        self.fence.remove(key, copy=copy)
        aside = self.lanes[0].aside
        if key is not None and len(aside) and not self.fence.knows(key):
            self.lanes[0].take_back(key)

    def try_again(self, key: bytes) -> None:
        """Let a failed job that is aside come back, unless a stranger's copy is ahead of it now."""
        failed = self.lanes[0].aside.failed(key)
        assert failed is not None
        tiers = list(self.fence.tiers(key))
        if len(tiers) == 1:
            self.unfence(key, failed.hop.copy)

    def tier_of(self, topic: str) -> int | None:
        """The tier that a topic is, 1 the first; None: it is none of ours."""
        for tier, each in enumerate(self.satellites, start=1):
            if each.topic == topic:
                return tier
        return None

    def floor_at(self, partition: Partition, offset: int) -> int:
        """The epoch below which a satellite's copies are void, at an offset."""
        return self.floors[self.satellites.index(partition)].at(offset)

    def noted_commit(self, partition: Partition, offset: int) -> None:
        """Remember what the group has committed."""
        self.committed[partition] = offset
        if partition in self.satellites:
            self.floors[self.satellites.index(partition)].forget(offset)

    def appended(self, partition: Partition, offset: int) -> None:
        """Note that a record of ours landed on a satellite, or on another topic."""
        if partition in self.ends:
            self.ends[partition] = max(self.ends[partition], offset + 1)

    def forget_letters(self) -> None:
        """Forget the dead if nothing of the partition can come again (core/letters.py, rule 3)."""
        if self.letters is None or not self.quiet or self.uncommitted():
            return
        fetched = all(
            lane.watermark.next_offset >= self.ends[satellite]
            for satellite, lane in zip(self.satellites, self.lanes[1:], strict=True)
        )
        if fetched and all(lane.idle for lane in self.lanes):
            self.letters.forget()

    def uncommitted(self) -> dict[Partition, int]:
        """The watermarks that have moved since they were last committed."""
        moved = {}
        for partition, lane in zip(self.partitions, self.lanes, strict=True):
            if lane.watermark.committable != self.committed[partition]:
                assert lane.watermark.committable > self.committed[partition]
                moved[partition] = lane.watermark.committable
        letters = self.letters
        if letters is not None and letters.position != self.committed[letters.partition]:
            moved[letters.partition] = letters.position
        return moved
