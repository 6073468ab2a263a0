"""Look at dead letters: what died, of what, what is held behind it, and the untouched bytes."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from processor.adapters.reader import TopicReader
from processor.contracts.topics import Topic
from processor.engine.operations import OperatorLedger
from processor.engine.ports import row_among
from processor.engine.replay import Letter, in_order, letter_of
from processor.errors import ProcessorError
from processor.model import Hop, JobHeaders, Partition, Record, iso
from processor.settings import Settings

LOOKUP_MAX = 1000

State = Literal["dead", "held", "done", "purged"]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One job's letter. `state`: what the ledger says of it now; `size` is its value's, in bytes.

    Where many are listed the record comes without its value: `fetched` reads those of some.
    """

    letter: Letter
    size: int
    state: State

    @property
    def record(self) -> Record:
        """As it is on the dead-letter topic."""
        return self.letter.record

    @property
    def job(self) -> JobHeaders:
        """What its own headers say."""
        return self.letter.job

    @property
    def hop(self) -> Hop:
        """Its way to the dead-letter topic."""
        return self.letter.hop

    def row(self) -> dict[str, Any]:
        """Its place and its failure; never its payload."""
        return {
            "job_id": self.job.job_id,
            "job_type": self.job.job_type,
            "key": _text(self.record.key),
            "state": self.state,
            "attempts": self.hop.attempt,
            "replays": self.hop.replays,
            "error_class": self.hop.error_class,
            "error_message": self.hop.error_message,
            "fingerprint": self.hop.fingerprint,
            "failed_at": iso(self.hop.last_failure_ms),
            "first_failed_at": iso(self.hop.first_failure_ms),
            "held_behind": self.hop.held_behind,
            "origin": str(self.hop.origin),
            "position": f"{self.record.topic}-{self.record.partition}-{self.record.offset}",
            "bytes": self.size,
        }

    def details(self) -> dict[str, Any]:
        """All of it: headers as text, and the original value in base64."""
        value = self.record.value
        return {
            **self.row(),
            "headers": {name: _text(each) for name, each in self.record.headers},
            "value_base64": None if value is None else base64.b64encode(value).decode(),
        }


@dataclass(frozen=True, slots=True)
class Filter:
    """Which letters are meant. What is None does not matter. Times are seconds since the epoch.

    `since` and `until` compare a letter's last failure, of a held job the time of its letter.
    """

    job_type: str | None = None
    key: str | None = None
    error_class: str | None = None
    fingerprint: str | None = None
    job_id: str | None = None
    origin: str | None = None
    state: str | None = None
    since: float | None = None
    until: float | None = None

    def takes(self, dead: DeadLetter) -> bool:
        """Tell whether a letter is meant."""
        at = (dead.hop.last_failure_ms or dead.record.timestamp_ms) / 1000
        wanted = (
            (self.job_type, dead.job.job_type),
            (self.key, _text(dead.record.key)),
            (self.error_class, dead.hop.error_class),
            (self.fingerprint, dead.hop.fingerprint),
            (self.job_id, dead.job.job_id),
            (self.origin, str(dead.hop.origin)),
            (self.state, dead.state),
        )
        if any(want is not None and want != found for want, found in wanted):
            return False
        return (self.since is None or at >= self.since) and (self.until is None or at < self.until)

    def words(self) -> dict[str, str]:
        """What is asked for, for the audit trail."""
        return {
            name: str(value)
            for name in self.__slots__
            if (value := getattr(self, name)) is not None
        }


def dead_letters(
    settings: Settings, topic: Topic, ledger: OperatorLedger | None = None, *, values: bool = False
) -> list[DeadLetter]:
    """Read each job's letter of a topic once, by partition and origin.

    With a ledger, `state` tells what became of each since. Without one all are dead or held.
    Values are dropped unless asked for: a dead-letter topic can be larger than memory.
    """
    sizes: dict[tuple[int, int], int] = {}
    found: dict[int, list[Letter]] = {}
    with TopicReader(settings.kafka) as reader:
        for record in reader.read_all(reader.partitions(topic.dead_letter_topic)):
            letter = letter_of(record)
            if letter is None:
                continue
            sizes[record.partition, record.offset] = len(record.value or b"")
            if not values:
                letter = replace(letter, record=record._replace(value=None))
            found.setdefault(record.partition, []).append(letter)
    letters = [letter for number in sorted(found) for letter in in_order(found[number])]
    states = _states(letters, ledger)
    return [
        DeadLetter(each, sizes[each.record.partition, each.record.offset], state)
        for each, state in zip(letters, states, strict=True)
    ]


def fetched(settings: Settings, letters: Sequence[Letter]) -> Iterator[Letter]:
    """Read these letters again, with their values, in the order given.

    ProcessorError, before the first is given: one of them has fallen to its topic's retention.
    """
    wanted = {(each.record.partition, each.record.offset) for each in letters}
    if not wanted:
        return
    topic = letters[0].record.topic
    starts = {
        Partition(topic, number): min(at for p, at in wanted if p == number)
        for number in {number for number, _ in wanted}
    }
    values: dict[tuple[int, int], bytes | None] = {}
    with TopicReader(settings.kafka) as reader:
        for record in reader.read_all(list(starts), starts=starts):
            if (record.partition, record.offset) in wanted:
                values[record.partition, record.offset] = record.value
    yield from with_values(letters, values)


def with_values(
    letters: Sequence[Letter], values: Mapping[tuple[int, int], bytes | None]
) -> list[Letter]:
    """Give listed letters the values that were read of them, by partition and offset."""
    gone = [each for each in letters if each.record[1:3] not in values]
    if gone:
        topic, partition, offset, *_ = gone[0].record
        raise ProcessorError(
            f"{len(gone)} dead letter(s) fell to the retention of `{topic}` since they were listed,"
            f" the first of job {gone[0].job.job_id} at {topic}-{partition}-{offset}",
            hint="what is left can be listed, and replayed, by the same command again",
        )
    return [
        replace(each, record=each.record._replace(value=values[each.record[1:3]]))
        for each in letters
    ]


def grouped(letters: Iterable[DeadLetter], by: str) -> list[dict[str, Any]]:
    """Count letters by one field of their rows, the most frequent first."""
    groups: dict[Any, list[dict[str, Any]]] = {}
    for each in letters:
        row = each.row()
        groups.setdefault(row[by], []).append(row)
    found = [
        {
            by: value,
            "jobs": len(rows),
            "keys": len({row["key"] for row in rows}),
            "first_failed_at": min((r["failed_at"] for r in rows if r["failed_at"]), default=None),
            "last_failed_at": max((r["failed_at"] for r in rows if r["failed_at"]), default=None),
            "example": rows[0]["error_message"],
            "example_job": rows[0]["job_id"],
        }
        for value, rows in groups.items()
    ]
    return sorted(found, key=lambda group: -group["jobs"])


def _states(letters: Sequence[Letter], ledger: OperatorLedger | None) -> list[State]:
    rows: dict[str, Any] = {}
    if ledger is not None:
        identities = [name for each in letters for name in each.identities]
        for start in range(0, len(identities), LOOKUP_MAX):
            rows |= ledger.lookup(identities[start : start + LOOKUP_MAX])
    return [_state(each, rows) for each in letters]


def _state(letter: Letter, rows: Mapping[str, Any]) -> State:
    row = row_among(rows, letter.identities)
    if row is not None and row.state == "done":
        return "done"
    if row is not None and row.state == "purged":
        return "purged"
    return "held" if letter.held else "dead"


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="replace")
