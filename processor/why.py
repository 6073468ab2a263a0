"""Why a job does not run: where it is, what it waits for, and where each fact comes from.

Reads only: the group's commits, what is behind them on the main topic and in its tiers, the
dead-letter topic, the status topic and the ledger.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from processor.adapters.groups import owners_of
from processor.adapters.reader import TopicReader
from processor.contracts import headers
from processor.contracts.topics import Topic
from processor.dead import Filter, dead_letters
from processor.engine.journey import hop_of
from processor.engine.operations import ClosedKey, OperatorLedger
from processor.engine.takeover import epoch_of
from processor.model import Hop, Partition, Record, iso
from processor.settings import Settings
from processor.status import StatusReader


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that is known of a job: its state, what it waits for, and who says so."""

    job_id: str
    key: str | None
    state: str
    why: str
    source: str
    attempts: str | None = None
    next_try: str | None = None
    worker: str | None = None  # Whose partition it is on.

    def row(self) -> dict[str, Any]:
        """The fact as it is printed."""
        return {name: getattr(self, name) for name in self.__slots__}


class Waiting:
    """What of one topic has not been committed: the jobs that wait, on main and in its tiers."""

    def __init__(self, settings: Settings, topic: Topic, ledger: OperatorLedger | None) -> None:
        self._settings = settings
        self._topic = topic
        self._ledger = ledger
        self._starts: dict[Partition, int] = {}
        self._floors: dict[Partition, int] = {}

    def facts(self, wanted: str) -> Iterator[Fact]:
        """Tell of each job that waits or is dead and has this key or id."""
        group = self._settings.worker.group
        with TopicReader(self._settings.kafka, group=group) as reader:
            mains = reader.partitions(self._topic.name)
            names = (self._topic.name, *self._topic.retry_topics)
            every = [Partition(name, main.number) for main in mains for name in names]
            bounds, committed = reader.bounds(every), reader.committed(every)
            for each in every:
                offset, note = committed[each]
                self._starts[each] = bounds[each][0] if offset is None else offset
                self._floors[each] = epoch_of(note)
            meant = [each for each in self._read(reader, every) if _meant(*each, wanted)]
            # What is ahead of a job has its key.
            keys = {record.key for record, _ in meant if record.key is not None}
            if keys - {wanted.encode()}:
                alike = [each for each in self._read(reader, every) if each[0].key in keys]
            else:
                alike = meant
        ledger = self._ledger
        closed = ledger.closed_keys(group, self._topic.name) if ledger is not None else []
        owners = owners_of(self._settings.kafka, group)
        waiting = [self._waits(record, hop, alike, closed, owners) for record, hop in meant]
        yield from waiting
        yield from self._dead(wanted, {fact.job_id for fact in waiting})

    def _read(
        self, reader: TopicReader, every: Sequence[Partition]
    ) -> Iterator[tuple[Record, Hop]]:
        """Read every job that is not committed; void copies, markers and end records are none."""
        for record in reader.read_all(every, starts=self._starts):
            place = Partition(record.topic, record.partition)
            if record.topic == self._topic.name:
                hop = headers.main_hop(record)
            elif headers.read_marker(record) is not None:
                self._floors[place] = max(self._floors[place], headers.read_marker(record) or 0)
                continue
            else:
                hop = hop_of(record) or headers.first_hop(record)
                if hop.epoch < self._floors[place]:
                    continue
            if not hop.ends_replay:
                yield record._replace(value=None), hop

    def _waits(
        self,
        record: Record,
        hop: Hop,
        alike: Sequence[tuple[Record, Hop]],
        closed: Sequence[ClosedKey],
        owners: Mapping[Partition, str],
    ) -> Fact:
        job = headers.job_of(record, hop)
        main = Partition(self._topic.name, record.partition)
        fact = Fact(
            job_id=job.job_id,
            key=None if record.key is None else record.key.decode(errors="replace"),
            state="queued",
            why="",
            source=f"{record.topic}-{record.partition}-{record.offset}",
            attempts=f"{hop.attempt} of {self._topic.attempts_max}",
            worker=owners.get(main, f"none: no worker of group {self._settings.worker.group}"),
        )
        identity = job.identity(job.job_type or "")
        row = self._ledger.lookup([identity]).get(identity) if self._ledger is not None else None
        if row is not None and row.state == "done":
            why = "it took effect; its offset is not committed yet"
            return replace(fact, state="succeeded", why=why, source=f"{fact.source}, ledger")
        for each in closed:
            mine = (each.partition, each.key) == (record.partition, record.key)
            if mine and hop.replay <= each.replay and hop.origin.offset != each.offset:
                dead = f"{self._topic.name}-{record.partition}-{each.offset}"
                why = f"its key is held since job {dead} died, with {each.held} behind it"
                return replace(fact, state="held", why=why, source=f"{fact.source}, ledger")
        ahead = [
            each
            for each in alike
            if record.key is not None
            and each[0].key == record.key
            and each[0].topic != self._topic.name
            and each[1].origin.offset < hop.origin.offset
        ]
        if ahead:
            return self._behind(fact, *min(ahead, key=lambda each: each[1].origin.offset))
        if hop.error_class is not None:
            why = f"{hop.error_class}: {hop.error_message}"
            return replace(fact, state="retrying", why=why, next_try=_time(hop))
        asked_ms = hop.not_before_ms or job.not_before_ms
        if asked_ms and asked_ms > time.time() * 1000:
            return replace(fact, state="delayed", why="for its time", next_try=iso(asked_ms))
        place = Partition(record.topic, record.partition)
        start = self._starts[place]
        why = f"{record.offset - start} record(s) are before it in {place}, from offset {start} on"
        group = self._settings.worker.group
        return replace(fact, why=why, source=f"{fact.source}, commits of group {group}")

    def _behind(self, fact: Fact, first: Record, hop: Hop) -> Fact:
        """It waits behind an earlier job of its key."""
        other = headers.job_of(first, hop).job_id
        why = f"behind job {other} in {first.topic}"
        if hop.error_class is not None:
            tried = f"{hop.attempt} of {self._topic.attempts_max}"
            why += f", whose attempt {tried} failed with {hop.error_class}"
        source = f"{fact.source}, {first.topic}-{first.partition}-{first.offset}"
        return replace(fact, state="waiting", why=why, next_try=_time(hop), source=source)

    def _dead(self, wanted: str, replayed: Set[str]) -> Iterator[Fact]:
        """Tell of the dead and the held that have this key or id; some are on their way again."""
        for dead in dead_letters(self._settings, self._topic, self._ledger):
            if dead.state not in ("dead", "held"):
                continue
            if not (Filter(key=wanted).takes(dead) or Filter(job_id=wanted).takes(dead)):
                continue
            row = dead.row()
            why = f"{row['error_class']}: {row['error_message']}"
            which = f"--job-id {row['job_id']}"
            if dead.state == "held":
                why = f"its key is held since job {row['held_behind']} died"
                which = f"--key {row['key']}"
            advice = f"`processor dead replay {self._topic.name} {which}` runs it again"
            if row["job_id"] in replayed:
                advice = "it is on its way again"
            yield Fact(
                job_id=row["job_id"],
                key=row["key"],
                state=dead.state,
                why=f"{why}; {advice}",
                source=row["position"] + (", ledger" if self._ledger is not None else ""),
                attempts=f"{row['attempts']} of {self._topic.attempts_max}",
            )

    def ended(self, job_id: str) -> Fact | None:
        """Tell of a job that has ended, by its id, from the topic's status topic."""
        if not self._topic.status.publish:
            return None
        status = StatusReader(self._settings, self._topic).find(job_id)
        if status is None:
            return None
        why = f"{status['error_class']}: {status['error_message']}"
        return Fact(
            job_id=job_id,
            key=status["key"],
            state=status["state"],
            why=why if status["error_class"] else f"ended at {status['at']}",
            source=self._topic.status_topic,
            attempts=f"{status['attempts']} of {self._topic.attempts_max}",
        )


def remembered(ledger: OperatorLedger, job_id: str) -> Fact | None:
    """Tell what the ledger knows of a job of which no topic tells, by its id."""
    identity = f"job:{job_id}"
    row = ledger.lookup([identity]).get(identity)
    if row is None:
        return None
    state = "succeeded" if row.state == "done" else row.state
    return Fact(job_id, None, state, "the ledger remembers it", "ledger", attempts=str(row.attempt))


def _meant(record: Record, hop: Hop, wanted: str) -> bool:
    return record.key == wanted.encode() or headers.job_of(record, hop).job_id == wanted


def _time(hop: Hop) -> str | None:
    return iso(hop.not_before_ms) if hop.not_before_ms else None
