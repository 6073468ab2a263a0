"""Replay: dead letters go back to the tail of their main topic, and a key's hold ends behind them.

Rule 1: a replay has a number larger than every earlier one. The ledger lets a dead job run again
        for a replay that is newer than its death, and a closed key lets its records pass.
Rule 2: a record keeps its origin: the job's id, the order of letters and the ledger's row rest on
        it. Its attempts begin anew.
Rule 3: a key's jobs are appended in the order of their origins, and behind the last one its end
        record. What died or was held meanwhile keeps the key closed: then it is replayed again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from processor.contracts import headers
from processor.errors import ContractError
from processor.model import Hop, JobHeaders, Outgoing, Record


@dataclass(frozen=True, slots=True)
class Letter:
    """One record of a dead-letter topic, with what its headers say."""

    record: Record
    job: JobHeaders
    hop: Hop

    @property
    def held(self) -> bool:
        """Whether the job was never run, but held behind a dead one of its key."""
        return self.hop.held_behind is not None

    @property
    def identity(self) -> str:
        """What the ledger knows the job's effect by."""
        return self.job.identity(self.job.job_type or "")

    @property
    def identities(self) -> tuple[str, ...]:
        """What the ledger knows the job by: its effect, then itself."""
        return self.job.identities(self.job.job_type or "")


def letter_of(record: Record) -> Letter | None:
    """Read a letter; None for a takeover marker. Of malformed headers only the place is told."""
    if headers.read_marker(record) is not None:
        return None
    try:
        hop = headers.read_hop(record) or headers.first_hop(record)
    except ContractError:
        hop = headers.first_hop(record)
    return Letter(record, headers.job_of(record, hop), hop)


def in_order(letters: Iterable[Letter]) -> list[Letter]:
    """Each job's letter once, by origin: the newest that tells of a death, else of a hold."""
    newest: dict[tuple[str, int, int], Letter] = {}
    for letter in letters:
        known = newest.get(letter.hop.origin)
        if known is None or known.held or not letter.held:
            newest[letter.hop.origin] = letter
    return [newest[origin] for origin in sorted(newest)]


def replayed(letter: Letter, *, topic: str, replay: int, trace: str | None = None) -> Outgoing:
    """Build the record that runs a letter's job again. `trace` is the replay's own context."""
    hop = Hop(
        origin=letter.hop.origin,
        origin_timestamp_ms=letter.hop.origin_timestamp_ms,
        replay=replay,
        replays=letter.hop.replays + 1,
        trace=trace,
    )
    record = letter.record
    return Outgoing(
        topic=topic,
        partition=record.partition,
        key=record.key,
        value=record.value,
        headers=headers.write_hop(record.headers, hop),
    )


def replay_end(*, topic: str, partition: int, key: bytes, replay: int) -> Outgoing:
    """Build the end record of a key's replay."""
    return Outgoing(topic, partition, key, None, headers.write_replay_end(replay))
