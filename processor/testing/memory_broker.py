"""Topics and consumer groups in memory, with the coordinator's rules that the engine rests on.

Rule 1: a partition goes to its next owner only after its present one has returned from `revoked`,
        or was expelled.
Rule 2: every change of the group raises its generation. A member learns of it in its next `poll`;
        until then its commits are refused. Those of an expelled member are refused for good.
Rule 3: the coordinator compares generations, not partitions: a member may commit what it does not
        own, as in Kafka.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from processor.contracts.partitioner import partition_of
from processor.engine.ports import CommitRefused, Committed, Rebalance
from processor.model import Headers, Outgoing, Partition, Record


@dataclass(eq=False, slots=True)
class Member:
    """One member as the coordinator knows it."""

    topics: tuple[str, ...]
    generation: int
    owned: set[Partition] = field(default_factory=set)  # Given, and not yet given back.
    told: bool = False  # Whether it has heard of its first assignment.


class Group:
    """One consumer group: members, who owns what, and what was committed."""

    def __init__(self, partitions_of: Callable[[str], Sequence[Partition]]) -> None:
        self._partitions_of = partitions_of
        self.generation = 0
        self.members: list[Member] = []
        self.committed: dict[Partition, Committed] = {}
        self._wanted: dict[Partition, Member] = {}

    def join(self, topics: Sequence[str]) -> Member:
        """Add a member. What it is to own it hears in its next polls."""
        member = Member(tuple(topics), self.generation)
        self.members.append(member)
        self._rebalance()
        return member

    def expel(self, member: Member) -> None:
        """Go on without a member that does not know of it: its session has expired."""
        if member in self.members:
            self.members.remove(member)
            self._rebalance()

    def reassign(self, wishes: Mapping[Partition, Member]) -> None:
        """Move partitions; it holds until members come or go."""
        assert all(member in self.members for member in wishes.values())
        self._wanted.update(wishes)
        self.generation += 1

    def turn(self, member: Member, rebalance: Rebalance) -> list[Partition]:
        """Tell a member what has changed, from inside its `poll`. Returns what it has to let go."""
        assert member in self.members
        member.generation = self.generation
        mine = {each for each, to in self._wanted.items() if to is member}
        if member.told and mine == member.owned:
            return []
        gone = sorted(member.owned - mine)
        if gone:
            rebalance.revoked(gone)
            member.owned -= set(gone)
            self.generation += 1
            member.generation = self.generation
        held = {each for other in self.members for each in other.owned}
        new = sorted(p for p, to in self._wanted.items() if to is member and p not in held)
        if new or not member.told:
            member.told = True
            member.owned |= set(new)
            rebalance.assigned(new)
        return gone

    def commit(self, member: Member, offsets: Mapping[Partition, Committed]) -> None:
        """Keep positions. CommitRefused unless the member is of the present generation."""
        if member not in self.members:
            raise CommitRefused("the coordinator does not know this member")
        if member.generation != self.generation:
            raise CommitRefused(f"generation {member.generation} is not {self.generation}")
        self.committed.update(offsets)

    def _rebalance(self) -> None:
        """Share the partitions out: each stays where it is, as far as shares are equal."""
        self.generation += 1
        topics = sorted({topic for member in self.members for topic in member.topics})
        partitions = [each for topic in topics for each in self._partitions_of(topic)]
        before, self._wanted = self._wanted, {}
        if not self.members:
            return
        share_max = -(-len(partitions) // len(self.members))
        shares = dict.fromkeys(self.members, 0)
        for kept in (True, False):
            for partition in partitions:
                if partition in self._wanted:
                    continue
                to = before.get(partition) if kept else min(shares, key=lambda each: shares[each])
                if to in shares and shares[to] < share_max:
                    self._wanted[partition] = to
                    shares[to] += 1


class Broker:
    """A cluster: append-only partitions and groups. `topics` gives each topic's partition count."""

    def __init__(
        self, topics: Mapping[str, int], *, now: Callable[[], float] = lambda: 1_700_000_000.0
    ) -> None:
        self._topics = dict(topics)
        self._now = now
        self._records: dict[Partition, list[Record]] = {}
        self._bounds: dict[Partition, tuple[int, int]] = {}
        self._groups: dict[str, Group] = {}
        for partition in (each for topic in topics for each in self.partitions_of(topic)):
            self._records[partition] = []
            self._bounds[partition] = (0, 0)

    def partitions_of(self, topic: str) -> list[Partition]:
        """All partitions of a topic."""
        return [Partition(topic, number) for number in range(self._topics[topic])]

    def group(self, name: str) -> Group:
        """The group of that name; it begins when it is first asked for."""
        return self._groups.setdefault(name, Group(self.partitions_of))

    def append(
        self,
        topic: str,
        partition: int | None,
        *,
        key: bytes | None = None,
        value: bytes | None = None,
        headers: Headers | None = None,
    ) -> int:
        """Append a record, where None says so to its key's partition. Returns its offset."""
        if partition is None:
            partition = partition_of(key, self._topics[topic]) if key is not None else 0
        where = Partition(topic, partition)
        first, end = self._bounds[where]
        at = int(self._now() * 1000)
        self._records[where].append(
            Record(topic, partition, end, key, value, list(headers or []), at)
        )
        self._bounds[where] = (first, end + 1)
        return end

    def land(self, outgoing: Outgoing) -> int:
        """Append what a producer sent."""
        topic, partition, key, value, headers = outgoing
        return self.append(topic, partition, key=key, value=value, headers=headers)

    def leave_gap(self, partition: Partition, offsets: int) -> None:
        """Use offsets up without a record, as compaction and transactions do."""
        first, end = self._bounds[partition]
        self._bounds[partition] = (first, end + offsets)

    def truncate(self, partition: Partition, *, before: int) -> None:
        """Delete all records below an offset, as retention does."""
        first, end = self._bounds[partition]
        self._bounds[partition] = (max(first, before), max(end, before))
        kept = [each for each in self._records[partition] if each.offset >= before]
        self._records[partition] = kept

    def bounds(self, partition: Partition) -> tuple[int, int]:
        """The first offset that can still be read, and the end."""
        return self._bounds[partition]

    def records(self, topic: str) -> list[Record]:
        """All records of a topic, partition by partition."""
        return [each for where in self.partitions_of(topic) for each in self._records[where]]

    def read(self, partition: Partition, start: int, count_max: int) -> list[Record]:
        """Records of one partition from an offset on."""
        records = self._records[partition]
        low, high = 0, len(records)
        while low < high:
            middle = (low + high) // 2
            if records[middle].offset < start:
                low = middle + 1
            else:
                high = middle
        return records[low : low + count_max]
