"""What the engine rests on in a log: `CHECKS`, run on the one in memory and on Kafka's clients."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from processor.contracts.partitioner import partition_of
from processor.engine.ports import CommitRefused, Committed, Log
from processor.model import Headers, Outgoing, Partition, Record, record_of
from processor.testing import MemoryLog

PATIENCE_SECONDS = 30.0


@dataclass
class Cluster:
    """Two topics of two partitions each, and members for one group."""

    main: str
    tier: str
    make: Callable[[], Log]
    members: list[Member] = field(default_factory=list)

    @property
    def mains(self) -> list[Partition]:
        return [Partition(self.main, 0), Partition(self.main, 1)]

    def member(self, *, takes: bool = True) -> Member:
        """Make a member that joins the group; with `takes` it begins to read what it is given."""
        member = Member(self.make(), self, takes)
        self.members.append(member)
        member.log.subscribe([self.main], member)
        return member

    def close(self) -> None:
        for member in self.members:
            member.log.close()


@dataclass(eq=False)
class Member:
    """A log, and a listener that does as the engine does: reads a satellite beside each main."""

    log: Log
    cluster: Cluster
    takes: bool
    owned: set[Partition] = field(default_factory=set)
    told: list[tuple[str, list[Partition]]] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    on_revoke: Callable[[Sequence[Partition]], object] = lambda partitions: None

    def assigned(self, partitions: Sequence[Partition]) -> None:
        self.told.append(("assigned", list(partitions)))
        self.owned |= set(partitions)
        if self.takes:
            self.take(partitions)

    def revoked(self, partitions: Sequence[Partition]) -> None:
        self.told.append(("revoked", list(partitions)))
        self.on_revoke(partitions)
        self.drop(partitions)

    def lost(self, partitions: Sequence[Partition]) -> None:
        self.told.append(("lost", list(partitions)))
        self.drop(partitions)

    def take(self, partitions: Sequence[Partition]) -> None:
        every = self.with_satellites(partitions)
        committed = self.log.committed(every) if every else {}
        self.log.assign({each: committed[each].offset or 0 for each in every})

    def drop(self, partitions: Sequence[Partition]) -> None:
        self.owned -= set(partitions)
        self.log.unassign(self.with_satellites(partitions))

    def with_satellites(self, partitions: Sequence[Partition]) -> list[Partition]:
        return [*partitions, *(Partition(self.cluster.tier, each.number) for each in partitions)]

    def offsets(self, partition: Partition) -> list[int]:
        """What was read of a partition, in the order it came."""
        return [each.offset for each in self.records if each[:2] == partition]


def polled(log: Log, records_max: int) -> list[Record]:
    """The records of one poll."""
    batches = log.poll(records_max, 0.05)
    return [record_of(message) for batch in batches for message in batch.messages]


def until(members: Sequence[Member], condition: Callable[[], bool], *, what: str) -> None:
    """Poll until it is so."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what}; told: {[each.told for each in members]}"
        for member in members:
            member.records += polled(member.log, 100)
            member.log.deliveries()


def polls(members: Sequence[Member], *, seconds: float = 0.5) -> None:
    """Poll for so long: what should not come would have come by then."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for member in members:
            member.records += polled(member.log, 100)


def owns_all(member: Member) -> Callable[[], bool]:
    return lambda: member.owned == set(member.cluster.mains)


def joined(cluster: Cluster, *, takes: bool = True) -> Member:
    member = cluster.member(takes=takes)
    until([member], owns_all(member), what="the first member is given every partition")
    return member


def sent(
    member: Member,
    partition: Partition,
    count: int,
    *,
    key: bytes | None = b"k",
    value: bytes | None = b"v",
    headers: Headers | None = None,
) -> None:
    """Append records and wait for their acknowledgements."""
    tokens = [object() for _ in range(count)]
    for token in tokens:
        member.log.send(Outgoing(*partition, key, value, headers or []), token)
    deadline, answers = time.monotonic() + PATIENCE_SECONDS, []
    while len(answers) < count:
        assert time.monotonic() < deadline, "an append was not answered"
        answers += member.log.deliveries()
    assert [each.token for each in answers] == tokens
    assert [each.error for each in answers] == [None] * count
    offsets = [each.offset for each in answers]
    assert offsets == list(range(offsets[0], offsets[0] + count))


def expel(member: Member, commit: dict[Partition, Committed]) -> None:
    """Let a member's session end: it polls no more, and commits until that is refused."""
    if isinstance(member.log, MemoryLog):
        member.log.expel()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        assert time.monotonic() < deadline, "its session does not end"
        try:
            member.log.commit(commit)
        except CommitRefused:
            return
        time.sleep(0.1)


# The checks.


def first_member_is_given_every_main_partition_and_no_satellite(cluster: Cluster) -> None:
    member = joined(cluster)

    given = [each for event, partitions in member.told for each in partitions]
    assert sorted(given) == cluster.mains
    assert {event for event, _ in member.told} == {"assigned"}


def records_are_read_in_order_from_where_they_were_assigned(cluster: Cluster) -> None:
    member = joined(cluster, takes=False)
    main, satellite = cluster.mains[0], Partition(cluster.tier, 0)
    sent(member, main, 6)
    sent(member, satellite, 3)

    member.log.assign({main: 2, satellite: 0})
    until([member], lambda: len(member.records) >= 7, what="what was assigned is read")

    assert member.offsets(main) == [2, 3, 4, 5]
    assert member.offsets(satellite) == [0, 1, 2]


def no_more_records_are_given_than_asked_for(cluster: Cluster) -> None:
    member = joined(cluster)
    sent(member, cluster.mains[0], 10)
    batches: list[int] = []

    def more() -> bool:
        records = polled(member.log, 3)
        batches.append(len(records))
        member.records += records
        return len(member.records) >= 10

    until([], more, what="all are read")

    assert max(batches) <= 3
    assert member.offsets(cluster.mains[0]) == list(range(10))


def bytes_and_headers_come_back_as_they_were_sent(cluster: Cluster) -> None:
    member = joined(cluster)
    main = cluster.mains[0]
    headers = [("a", b"1"), ("b", b"\xff\x00"), ("a", b"2"), ("empty", b"")]
    sent(member, main, 1, key=b"\x00k", value=b"\xffv", headers=headers)
    sent(member, main, 1, key=None, value=None)
    sent(member, main, 1, key=b"", value=b"")

    until([member], lambda: len(member.records) == 3, what="the records are read")

    full, bare, empty = member.records
    assert (full.key, full.value, full.headers) == (b"\x00k", b"\xffv", headers)
    assert (bare.key, bare.value, bare.headers) == (None, None, [])
    assert (empty.key, empty.value) == (b"", b"")
    assert full.timestamp_ms > 1_600_000_000_000


def record_without_a_partition_goes_to_its_keys(cluster: Cluster) -> None:
    member = joined(cluster)
    keys = [f"key-{number}".encode() for number in range(8)]
    for key in keys:
        member.log.send(Outgoing(cluster.main, None, key, b"v", []), key)

    until([member], lambda: len(member.records) == 8, what="the records are read")

    assert {each.key: each.partition for each in member.records} == {
        key: partition_of(key, 2) for key in keys
    }


def append_waits_for_its_answers_and_keeps_those_of_others(cluster: Cluster) -> None:
    member = joined(cluster)
    one, two = Partition(cluster.tier, 0), Partition(cluster.tier, 1)
    sent(member, one, 3)
    member.log.send(Outgoing(*one, b"k", b"sent", []), "token")

    offsets = member.log.append(
        [Outgoing(*one, None, None, [("a", b"1")]), Outgoing(*two, None, None, [])]
    )
    answers = member.log.deliveries()
    until([member], lambda: len(member.records) == 6, what="the records are read")

    assert offsets == [4, 0]
    assert [(each.token, each.offset, each.error) for each in answers] == [("token", 3, None)]
    assert member.offsets(one) == [0, 1, 2, 3, 4]
    assert member.log.append([]) == []


def scan_reads_a_range_beside_what_is_read(cluster: Cluster) -> None:
    member = joined(cluster)
    one, two = Partition(cluster.tier, 0), Partition(cluster.tier, 1)
    sent(member, one, 5, headers=[("a", b"1")])
    sent(member, two, 2)

    scanned = list(member.log.scan({one: (1, 4), two: (0, 1)}))
    nothing = list(member.log.scan({one: (5, 5)}))
    until([member], lambda: len(member.records) == 7, what="the records are read")

    found = [(each.partition, each.offset) for each in scanned]
    assert sorted(found) == [(0, 1), (0, 2), (0, 3), (1, 0)]
    assert [offset for number, offset in found if number == 0] == [1, 2, 3]
    assert scanned[0].key == b"k"
    assert nothing == []
    assert member.offsets(one) == [0, 1, 2, 3, 4]
    assert member.offsets(two) == [0, 1]


def commits_keep_offset_and_note_of_main_and_satellite(cluster: Cluster) -> None:
    member = joined(cluster)
    main, other = cluster.mains
    satellite = Partition(cluster.tier, 0)
    sent(member, main, 3)
    before = member.log.committed([main, satellite])

    member.log.commit({main: Committed(2, "epoch=7 in_flight=1"), satellite: Committed(0, "e")})
    member.log.commit({main: Committed(3, "epoch=8")})

    assert before == {main: Committed(None, ""), satellite: Committed(None, "")}
    assert member.log.committed([main, other, satellite]) == {
        main: Committed(3, "epoch=8"),
        other: Committed(None, ""),
        satellite: Committed(0, "e"),
    }


def bounds_are_the_first_offset_and_the_end(cluster: Cluster) -> None:
    member = joined(cluster)
    main, other = cluster.mains
    sent(member, main, 3)

    assert member.log.bounds([main, other]) == {main: (0, 3), other: (0, 0)}


def ends_are_told_in_time_and_as_they_grow(cluster: Cluster) -> None:
    member = joined(cluster)
    main, tier = cluster.mains[0], Partition(cluster.tier, 0)
    sent(member, main, 3)

    def told(ends: dict[Partition, int]) -> Callable[[], bool]:
        return lambda: member.log.ends([main, tier]) == ends

    until([member], told({main: 3, tier: 0}), what="the ends are told")
    sent(member, tier, 2)
    until([member], told({main: 3, tier: 2}), what="the end grows")
    assert member.log.ends([]) == {}


def paused_partition_gives_nothing_and_loses_nothing(cluster: Cluster) -> None:
    member = joined(cluster)
    main, other = cluster.mains
    sent(member, main, 2)
    until([member], lambda: len(member.records) == 2, what="the first are read")

    member.log.pause([main])
    sent(member, main, 3)
    sent(member, other, 1)
    until([member], lambda: member.offsets(other) == [0], what="the other one is read")
    polls([member])
    paused = member.offsets(main)
    member.log.resume([main])
    until([member], lambda: len(member.offsets(main)) >= 5, what="it is read on")

    assert paused == [0, 1]
    assert member.offsets(main) == [0, 1, 2, 3, 4]


def partition_given_up_and_taken_again_is_read_from_where_it_is_told(cluster: Cluster) -> None:
    member = joined(cluster)
    main, other = cluster.mains
    sent(member, main, 3)
    sent(member, other, 2)
    until([member], lambda: len(member.records) == 5, what="both are read")
    member.log.pause([main])

    member.log.unassign(member.with_satellites([main]))
    sent(member, main, 1)
    sent(member, other, 1)
    until([member], lambda: len(member.offsets(other)) >= 3, what="the other one is read on")
    polls([member])
    given_up = member.offsets(main)
    member.log.assign({main: 1, Partition(cluster.tier, 0): 0})
    sent(member, Partition(cluster.tier, 1), 1)
    until([member], lambda: len(member.records) >= 5 + 1 + 3 + 1, what="it is read again")

    assert given_up == [0, 1, 2]
    assert member.offsets(main) == [0, 1, 2, 1, 2, 3]
    # What was not touched goes on where it was, also where nothing of it had been read yet.
    assert member.offsets(other) == [0, 1, 2]
    assert member.offsets(Partition(cluster.tier, 1)) == [0]


def partition_that_was_not_taken_is_not_read_until_it_is(cluster: Cluster) -> None:
    member = joined(cluster, takes=False)
    main = cluster.mains[0]
    sent(member, main, 2)

    polls([member])
    untaken = list(member.records)
    member.log.commit({main: Committed(1, "epoch=1")})
    member.take([main])
    until([member], lambda: len(member.records) >= 1, what="it is read")

    assert untaken == []
    assert member.offsets(main) == [1]


def partition_that_was_not_taken_can_be_given_to_another(cluster: Cluster) -> None:
    first = joined(cluster, takes=False)
    sent(first, cluster.mains[0], 1)
    sent(first, cluster.mains[1], 1)

    second = cluster.member()
    until(
        [first, second],
        lambda: len(first.owned) == len(second.owned) == 1 and len(second.records) == 1,
        what="they share",
    )

    assert first.owned | second.owned == set(cluster.mains)
    assert first.records == []
    assert {each[:2] for each in second.records} == second.owned


def commit_inside_revoke_is_accepted_and_is_where_the_next_owner_starts(cluster: Cluster) -> None:
    first = joined(cluster)
    for main in cluster.mains:
        sent(first, main, 4)
    until([first], lambda: len(first.records) == 8, what="all are read")

    def commit(partitions: Sequence[Partition]) -> None:
        first.log.commit({each: Committed(3, "epoch=1") for each in partitions})

    first.on_revoke = commit
    second = cluster.member()
    until(
        [first, second],
        lambda: len(first.owned) == len(second.owned) == 1 and len(second.records) >= 1,
        what="they share",
    )
    first.on_revoke = lambda partitions: None

    (moved,) = second.owned
    assert ("revoked", [moved]) in [(event, [moved]) for event, each in first.told if moved in each]
    assert second.offsets(moved) == [3]
    assert second.log.committed([moved]) == {moved: Committed(3, "epoch=1")}
    assert first.owned.isdisjoint(second.owned)


def expelled_member_s_commit_is_refused_and_it_is_told_that_all_is_lost(cluster: Cluster) -> None:
    first = joined(cluster)
    main = cluster.mains[0]
    sent(first, main, 2)
    until([first], lambda: first.offsets(main) == [0, 1], what="it is read")

    expel(first, {main: Committed(1, "epoch=1")})
    second = cluster.member()
    until([second], owns_all(second), what="the second is given all")
    second.log.commit({main: Committed(1, "epoch=2")})
    with pytest.raises(CommitRefused):
        first.log.commit({main: Committed(2, "epoch=1")})
    kept = second.log.committed([main])
    told_before = len(first.told)
    until([first, second], lambda: len(first.told) > told_before, what="it is told")

    assert kept == {main: Committed(1, "epoch=2")}
    event, partitions = first.told[told_before]
    assert (event, sorted(partitions)) == ("lost", cluster.mains)


def member_that_leaves_gives_its_partitions_back(cluster: Cluster) -> None:
    first = joined(cluster)
    sent(first, cluster.mains[0], 2)
    second = cluster.member()
    until([first, second], lambda: len(first.owned) == len(second.owned) == 1, what="they share")
    mine = sorted(first.owned)
    first.log.commit({each: Committed(0, "bye") for each in mine})

    first.log.close()
    cluster.members.remove(first)
    until([second], owns_all(second), what="the second is given all")

    assert first.told[-1] == ("revoked", mine)
    assert second.log.committed(mine) == dict.fromkeys(mine, Committed(0, "bye"))


CHECKS: list[Callable[[Cluster], None]] = [
    first_member_is_given_every_main_partition_and_no_satellite,
    records_are_read_in_order_from_where_they_were_assigned,
    no_more_records_are_given_than_asked_for,
    bytes_and_headers_come_back_as_they_were_sent,
    record_without_a_partition_goes_to_its_keys,
    append_waits_for_its_answers_and_keeps_those_of_others,
    scan_reads_a_range_beside_what_is_read,
    commits_keep_offset_and_note_of_main_and_satellite,
    bounds_are_the_first_offset_and_the_end,
    ends_are_told_in_time_and_as_they_grow,
    paused_partition_gives_nothing_and_loses_nothing,
    partition_given_up_and_taken_again_is_read_from_where_it_is_told,
    partition_that_was_not_taken_is_not_read_until_it_is,
    partition_that_was_not_taken_can_be_given_to_another,
    commit_inside_revoke_is_accepted_and_is_where_the_next_owner_starts,
    expelled_member_s_commit_is_refused_and_it_is_told_that_all_is_lost,
    member_that_leaves_gives_its_partitions_back,
]
# Those that depend on how the group shares its partitions out.
GROUP_CHECKS = CHECKS[-6:]
