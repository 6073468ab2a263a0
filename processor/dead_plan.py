"""Choose what is done to dead letters: pure.

A plan is a list of units in the order of their origins, partition by partition: one dead job, or
the whole sequence of a closed key, which is never cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from processor.dead import DeadLetter, Filter
from processor.engine.operations import Action, ClosedKey
from processor.errors import ProcessorError, UsageError

Key = tuple[int, bytes | None]  # A partition and an ordering key.


@dataclass(frozen=True, slots=True)
class Unit:
    """What is done at once: these jobs, in this order. `closed`: their key is, and is to open."""

    partition: int
    key: bytes | None
    letters: tuple[DeadLetter, ...]
    closed: ClosedKey | None

    @property
    def cursor(self) -> str:
        """Where it stands among all units: partition and first origin offset."""
        first = self.letters[0].hop.origin.offset if self.letters else 0
        offset = first if self.closed is None else self.closed.offset
        return f"{self.partition}-{offset}"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A letter that is meant but not touched, and why."""

    dead: DeadLetter
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What an action would do."""

    action: Action
    units: tuple[Unit, ...]
    skipped: tuple[Skipped, ...]

    @property
    def jobs(self) -> int:
        """How many jobs are touched."""
        return sum(len(unit.letters) for unit in self.units)


def plan(
    action: Action,
    letters: Sequence[DeadLetter],
    closed: Sequence[ClosedKey],
    wanted: Filter,
    *,
    replays_max: int,
    jobs_max: int | None = None,
    after: str | None = None,
) -> Plan:
    """Choose what an action touches: the dead that are meant, and of a closed key all of it.

    UsageError where a job in the middle of a held sequence is meant alone, or where a closed key's
    dead job has no letter yet.
    """
    open_ = [each for each in letters if each.state in ("dead", "held")]
    by_key: dict[Key, list[DeadLetter]] = {}
    for each in open_:
        by_key.setdefault((each.record.partition, each.record.key), []).append(each)
    origins = {(each.record.partition, each.hop.origin.offset) for each in letters}
    shut: dict[Key, ClosedKey] = {(each.partition, each.key): each for each in closed}
    units: list[Unit] = []
    skipped: list[Skipped] = []
    for key, mine in by_key.items():
        meant = [each for each in mine if wanted.takes(each)]
        if not meant:
            continue
        if key in shut:
            found = _sequence(shut[key], mine, meant, origins, wanted, action)
        elif action == "release":
            continue  # Nothing is held.
        else:
            found = meant
        capped = [each for each in found if each.hop.replays >= replays_max]
        if capped and action == "replay":
            why = f"it has been replayed {capped[0].hop.replays} times; --replays-max allows more"
            skipped += [Skipped(each, why) for each in (found if key in shut else capped)]
            found = [] if key in shut else [each for each in found if each not in capped]
        if key not in shut:
            units += [Unit(*key, (each,), None) for each in found]
        elif found or not capped:
            units.append(Unit(*key, tuple(found), shut[key]))
    units += [
        Unit(each.partition, each.key, (), each)
        for key, each in shut.items()
        if key not in by_key and _is_meant(each, wanted)
    ]
    return Plan(action, tuple(_cut(units, jobs_max, after)), tuple(skipped))


def _is_meant(closed: ClosedKey, wanted: Filter) -> bool:
    """A closed key whose jobs are all done: only its end record is missing."""
    return wanted == Filter(key=closed.key.decode(errors="replace")) or wanted == Filter()


def _sequence(
    closed: ClosedKey,
    mine: Sequence[DeadLetter],
    meant: Sequence[DeadLetter],
    origins: set[tuple[int, int]],
    wanted: Filter,
    action: Action,
) -> list[DeadLetter]:
    name = closed.key.decode(errors="replace")
    whole = [each for each in mine if each.hop.origin.offset >= closed.offset]
    one_of_many = wanted.job_id is not None or wanted.origin is not None
    if one_of_many and len(whole) > 1:
        raise UsageError(
            f"job {meant[0].job.job_id} is one of {len(whole)} that key `{name}` holds since a job"
            " died: alone it would run out of order",
            hint=f"the whole sequence: processor dead {action} TOPIC --key {name}",
        )
    if (closed.partition, closed.offset) not in origins:
        raise ProcessorError(
            f"the letter of the dead job that holds key `{name}` has not landed yet",
            hint="try again in a moment; is a worker running?",
        )
    return [each for each in whole if each.state == "held"] if action == "release" else whole


def _cut(units: Sequence[Unit], jobs_max: int | None, after: str | None) -> Iterator[Unit]:
    """Put units in order, go on behind a cursor, and stop at the limit; the first is whole."""
    jobs = 0
    for unit in sorted(units, key=lambda unit: _place(unit.cursor)):
        if after is not None and _place(unit.cursor) <= _place(after):
            continue
        if jobs_max is not None and jobs > 0 and jobs + len(unit.letters) > jobs_max:
            return
        jobs += len(unit.letters)
        yield unit


def _place(cursor: str) -> tuple[int, int]:
    partition, _, offset = cursor.partition("-")
    if not (partition.isdigit() and offset.isdigit()):
        raise UsageError(f"`{cursor}` is no cursor", hint="give back what the last run printed")
    return int(partition), int(offset)


def shown(unit: Unit) -> dict[str, Any]:
    """A unit as `--dry-run` tells it."""
    return {
        "partition": unit.partition,
        "key": None if unit.key is None else unit.key.decode(errors="replace"),
        "closed": unit.closed is not None,
        "jobs": len(unit.letters),
        "first_job": unit.letters[0].job.job_id if unit.letters else None,
        "error_class": unit.letters[0].hop.error_class if unit.letters else None,
        "cursor": unit.cursor,
    }
