"""What people and clocks do to a world from outside: replays, and the ledger's pruning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from processor.contracts import headers
from processor.engine.replay import in_order, letter_of, replay_end, replayed
from processor.model import Record

if TYPE_CHECKING:
    from tests.simulation.world import World

GROUP = "g"


def operate(world: World) -> bool:
    """Replay a key's dead letters, as an operator does; the command may break off.

    Returns whether something is left to be replayed.
    """
    rows = world.store.rows
    number = world.random.randrange(world.partitions)
    places = [(number + each) % world.partitions for each in range(world.partitions)]
    for number in places:
        closed = world.store.closed.get((GROUP, "t", number), {})
        letters = in_order(
            letter
            for record in world.broker.records("t.dlt")
            if record.partition == number and (letter := letter_of(record)) is not None
        )
        waiting = [
            each
            for each in letters
            if each.identity not in rows or rows[each.identity].state != "done"
        ]
        keys = sorted(closed if world.hold else {each.record.key or b"" for each in waiting})
        if keys:
            break
    else:
        return False
    key = world.random.choice(keys)
    if world.hold:
        first = closed[key].offset
        if first not in {each.hop.origin.offset for each in letters}:
            return True  # Its letter has not landed yet.
        waiting = [each for each in waiting if each.hop.origin.offset >= first]
    world.told.replays += 1
    world.replay += 1
    mine = [each for each in waiting if each.record.key == key]
    records = [replayed(each, topic="t", replay=world.replay) for each in mine]
    if world.hold:
        records.append(replay_end(topic="t", partition=number, key=key, replay=world.replay))
    if world.happens(0.2):
        records = records[: world.random.randint(0, len(records))]
    for each in records:
        world.broker.land(each)
        world.told.replayed += 1
    return True


def prune(world: World) -> None:
    """Let the ledger forget what cannot come again (rule I of the order protocol).

    Main is committed past the origin, no copy that an owner would run waits in a tier or in a
    producer, and no letter can be replayed.
    """
    waits = {_identity(record) for record in _waiting(world)}
    for place, n in world.told.numbers.items():
        identity = f"job:job-{n}"
        row = world.store.rows.get(identity)
        if row is None or row.state != "done" or identity in waits:
            continue
        position = world.group.committed.get(world.main(place.partition))
        if position is not None and place.offset < (position.offset or 0):
            del world.store.rows[identity]


def _waiting(world: World) -> list[Record]:
    """Every record that may still be run: uncommitted copies, sent ones, replays and letters."""
    found = list(world.broker.records("t.dlt"))
    for topic in ("t", *world.topic.retry_topics):
        for partition in world.broker.partitions_of(topic):
            position = world.group.committed.get(partition)
            start = 0 if position is None or position.offset is None else position.offset
            floor = 0
            for record in world.broker.read(partition, 0, 10**9):
                floor = max(floor, headers.read_marker(record) or 0)
                hop = world.hop_of(record)
                void = topic != "t" and hop is not None and hop.epoch < floor
                if record.offset >= start and not void:
                    found.append(record)
    return found


def _identity(record: Record) -> str | None:
    found = dict(record.headers).get(headers.JOB_ID)
    return None if found is None else f"job:{found.decode()}"
