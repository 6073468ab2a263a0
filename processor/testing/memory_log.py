"""One member of a group over a broker in memory, and its producer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

from processor.engine.ports import Committed, Delivery, Rebalance
from processor.errors import BrokerUnavailable, ProcessorError
from processor.model import Batch, Headers, Message, Outgoing, Partition, Record
from processor.testing.memory_broker import Broker, Member


class Fate(Enum):
    """What becomes of an append."""

    LANDS = "lands"
    FAILS = "fails"  # It is not on the log, and its answer is an error.
    ANSWER_LOST = "answer lost"  # It is on the log, and its answer is an error all the same.


Positions = Mapping[Partition, Committed]


def _lands(_: Outgoing) -> Fate:
    return Fate.LANDS


def _nothing(_: Any) -> None:
    """Let the call through."""


class MemoryMessage:
    """A record as a client would give it (`processor.model.Message`)."""

    def __init__(self, record: Record) -> None:
        self._record = record

    def __len__(self) -> int:
        return len(self._record.value or b"")

    def topic(self) -> str:
        """The topic's name."""
        return self._record.topic

    def partition(self) -> int:
        """The partition's number."""
        return self._record.partition

    def offset(self) -> int:
        """Its place on the partition."""
        return self._record.offset

    def key(self) -> bytes | None:
        """The key's bytes."""
        return self._record.key

    def value(self) -> bytes | None:
        """The value's bytes."""
        return self._record.value

    def headers(self) -> Headers | None:
        """The headers, or None as a client gives it for none."""
        return self._record.headers or None

    def timestamp(self) -> tuple[int, int]:
        """The time of its creation."""
        return 1, self._record.timestamp_ms


class MemoryLog:
    """A group member (port: `engine.ports.Log`).

    `fate` decides of each append; while `answers_held`, `deliveries` gives none; while `silent`,
    neither `bounds` nor `ends` is answered. `before_commit` and `after_commit` are told of each
    commit: what they raise, the engine is given. `idle` is told how long a `poll` that found
    nothing would have waited: a simulator lets time pass there.
    """

    def __init__(
        self, broker: Broker, *, group: str, idle: Callable[[float], None] = _nothing
    ) -> None:
        self._broker = broker
        self._group = broker.group(group)
        self._rebalance: Rebalance | None = None
        self._positions: dict[Partition, int] = {}  # The next offset to read of what is assigned.
        self._answers: list[Delivery] = []
        self.idle = idle
        self.member: Member | None = None
        self.paused: set[Partition] = set()
        self.fate: Callable[[Outgoing], Fate] = _lands
        self.answers_held = False
        self.silent = False
        self.before_commit: Callable[[Positions], None] = _nothing
        self.after_commit: Callable[[Positions], None] = _nothing

    @property
    def assigned(self) -> list[Partition]:
        """What is read now, paused or not."""
        return list(self._positions)

    def expel(self) -> None:
        """Let this member's session expire. It learns of it in its next `poll`, if there is one."""
        if self.member is not None:
            self._group.expel(self.member)

    def subscribe(self, topics: Sequence[str], rebalance: Rebalance) -> None:
        """Join the group for these main topics."""
        self._rebalance = rebalance
        self.member = self._group.join(topics)

    def poll(self, records_max: int, timeout_seconds: float) -> list[Batch]:
        """Tell of ownership, then give what there is."""
        batches: dict[Partition, list[Message]] = {}
        for record in self.fetched(records_max, timeout_seconds):
            partition = Partition(record.topic, record.partition)
            batches.setdefault(partition, []).append(MemoryMessage(record))
        return [Batch(*each) for each in batches.items()]

    def fetched(self, records_max: int, timeout_seconds: float) -> list[Record]:
        """The records of one `poll`, after its rebalance callbacks."""
        self._tell()
        records: list[Record] = []
        for partition in list(self._positions):
            if partition in self.paused or len(records) >= records_max:
                continue
            found = self._fetch(partition, records_max - len(records))
            if found:
                records += found
                # The last to be served next time: a busy partition does not starve the others.
                del self._positions[partition]
                self._positions[partition] = found[-1].offset + 1
        if not records:
            self.idle(timeout_seconds)
        return records

    def committed(self, partitions: Sequence[Partition]) -> dict[Partition, Committed]:
        """What the group has committed of each partition."""
        return {each: self._group.committed.get(each, Committed(None, "")) for each in partitions}

    def bounds(
        self, partitions: Sequence[Partition], timeout_seconds: float = 0.0
    ) -> dict[Partition, tuple[int, int]]:
        """For each: the first offset that can still be read, and the end."""
        if self.silent:
            raise BrokerUnavailable(f"the broker did not answer within {timeout_seconds:.0f} s")
        return {each: self._broker.bounds(each) for each in partitions}

    def ends(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """The ends of these; none is told while it is silent."""
        return {} if self.silent else {each: self._broker.bounds(each)[1] for each in partitions}

    def assign(self, starts: Mapping[Partition, int]) -> None:
        """Begin to read these partitions at these offsets."""
        twice = [each for each in starts if each in self._positions]
        assert not twice, f"{twice[0]} is already part of the assignment"
        self._positions.update(starts)
        self.paused -= set(starts)

    def unassign(self, partitions: Sequence[Partition]) -> None:
        """Stop reading these partitions."""
        for each in partitions:
            self._positions.pop(each, None)

    def pause(self, partitions: Sequence[Partition]) -> None:
        """Stop fetching for now."""
        assert all(each in self._positions for each in partitions)
        self.paused |= set(partitions)

    def resume(self, partitions: Sequence[Partition]) -> None:
        """Fetch again."""
        assert all(each in self._positions for each in partitions)
        self.paused -= set(partitions)

    def commit(self, offsets: Positions) -> None:
        """Commit as the member's generation allows."""
        assert self.member is not None
        self.before_commit(offsets)
        self._group.commit(self.member, offsets)
        self.after_commit(offsets)

    def send(self, outgoing: Outgoing, token: Any) -> None:
        """Append at once; the answer is given by `deliveries`."""
        fate = self.fate(outgoing)
        offset = self._broker.land(outgoing) if fate is not Fate.FAILS else 0
        error = None if fate is Fate.LANDS else "the broker did not answer"
        self._answers.append(Delivery(token, offset, error))

    def append(self, outgoing: Sequence[Outgoing]) -> list[int]:
        """Append and answer at once."""
        offsets = []
        for each in outgoing:
            fate = self.fate(each)
            if fate is not Fate.FAILS:
                offsets.append(self._broker.land(each))
            if fate is not Fate.LANDS:
                raise BrokerUnavailable("the broker did not answer")
        return offsets

    def scan(self, ranges: Mapping[Partition, tuple[int, int]]) -> Iterator[Record]:
        """Read without moving what is read."""
        for partition, (start, end) in ranges.items():
            for record in self._broker.read(partition, start, end - start):
                if record.offset < end:
                    yield record

    def deliveries(self) -> list[Delivery]:
        """The answers since the last call, unless they are held."""
        if self.answers_held:
            return []
        taken, self._answers = self._answers, []
        return taken

    def close(self) -> None:
        """Leave the group."""
        if self.member is None or self._rebalance is None:
            return
        owned = sorted(self.member.owned)
        self.expel()
        if owned:
            self._rebalance.revoked(owned)
        self.member = None
        self._positions.clear()

    def _tell(self) -> None:
        if self.member is None or self._rebalance is None:
            return
        if self.member not in self._group.members:
            lost = sorted(self.member.owned)
            if lost:
                self._rebalance.lost(lost)
            self.unassign(lost)
            self.member = self._group.join(self.member.topics)
        self.unassign(self._group.turn(self.member, self._rebalance))

    def _fetch(self, partition: Partition, count_max: int) -> list[Record]:
        first, _ = self._broker.bounds(partition)
        if self._positions[partition] < first:
            raise ProcessorError(f"{partition}: the offset to read is no longer on the log")
        return self._broker.read(partition, self._positions[partition], count_max)
