"""What operators do to dead letters: replay, release and purge them (rules: engine/replay.py).

Broken off within a unit of a plan, its beginning was appended: its key stays closed, and the next
replay makes it whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from processor.adapters.broker import (
    fault_of,
    kafka_error,
    made,
    produce,
    to_write,
    why_ended,
)
from processor.adapters.kafka_settings import client_id, producer_settings
from processor.adapters.objects.stores import Objects
from processor.contracts.claims import ClaimStore, claim_from_header
from processor.contracts.topics import Topic
from processor.dead import fetched
from processor.dead_plan import Key, Plan, Unit
from processor.engine.operations import Action, ClosedKey, OperatorLedger, PurgedJob
from processor.engine.ports import row_among
from processor.engine.replay import Letter, replay_end, replayed
from processor.errors import BrokerUnavailable, ContractError, ProcessorError
from processor.model import Outgoing
from processor.settings import Settings
from processor.tracing import flush, tracing_of

if TYPE_CHECKING:
    from processor.adapters.tracing import Send

ACKNOWLEDGED_SECONDS = 60.0
UNACKNOWLEDGED_MAX = 1000

LETTERS_AT_ONCE = 500  # Whose values are read together.


@dataclass(slots=True)
class Progress:
    """How far an action has come. `cursor`: behind its last whole unit."""

    jobs: int = 0
    keys: int = 0
    cursor: str | None = None
    number: int | None = None  # The operation's, of its latest round.


class Revival:
    """Carries plans out on one topic."""

    def __init__(
        self,
        settings: Settings,
        topic: Topic,
        ledger: OperatorLedger | None,
        *,
        who: str,
        rate: float | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._settings = settings
        self._topic = topic
        self._ledger = ledger
        self._who = who
        self._rate = rate
        self._sleep = sleep
        self._tracing = tracing_of(settings, service="processor")
        self._began = time.monotonic()
        self._failed: list[KafkaError] = []
        self._unacknowledged = 0
        produced = producer_settings(settings.kafka, client_id("operator"))
        produced["message.timeout.ms"] = 0  # A later record must never land without an earlier one.
        self._producer = made(Producer, produced)
        store = settings.claims.store
        objects = Objects(settings, hasty=True)
        self._claims = ClaimStore(objects, store) if store is not None else None

    def carry_out(
        self, plan: Plan, filters: Mapping[str, str], on_units: Callable[[Progress], None]
    ) -> Progress:
        """Do it, and keep it in the audit trail, also when it is broken off."""
        progress = Progress(number=self._begin(plan.action, filters))
        self._began = time.monotonic()
        state: Literal["ended", "broken off"] = "broken off"
        try:
            for units in _batches(plan.units):
                self._do(plan.action, units, progress)
                on_units(progress)
            state = "ended"
        finally:
            if self._tracing is not None:
                flush()
            if self._ledger is not None and progress.number is not None:
                self._ledger.end(progress.number, state, jobs=progress.jobs, keys=progress.keys)
        return progress

    def _begin(self, action: Action, filters: Mapping[str, str]) -> int:
        if self._ledger is None:
            return int(time.time() * 1000)
        group = self._settings.worker.group
        return self._ledger.begin(
            action, group=group, topic=self._topic.name, who=self._who, filters=filters
        )

    def _do(self, action: Action, units: Sequence[Unit], progress: Progress) -> None:
        """Do some units, and count them when all of it is acknowledged."""
        assert progress.number is not None
        letters = [each.letter for unit in units for each in unit.letters]
        values: Iterator[Letter] = iter(())
        if action != "purge":
            values = fetched(self._settings, letters)
        elif self._ledger is not None:
            self._ledger.purge(self._settings.worker.group, [_purged(each) for each in letters])
        done = progress.jobs
        for unit in units:
            if action != "purge":
                for letter in islice(values, len(unit.letters)):
                    self._keep_to_rate(done)
                    self._renew_claim(letter)
                    self._replay(letter, progress.number)
                    done += 1
            if unit.closed is not None:
                self._send(
                    replay_end(
                        topic=self._topic.name,
                        partition=unit.partition,
                        key=unit.closed.key,
                        replay=progress.number,
                    )
                )
        self._await(0)
        progress.jobs += len(letters)
        progress.keys += len({(unit.partition, unit.key) for unit in units})
        progress.cursor = units[-1].cursor

    def _replay(self, letter: Letter, number: int) -> None:
        topic = self._topic.name
        if self._tracing is None:
            self._send(replayed(letter, topic=topic, replay=number))
            return
        span = self._tracing.replay(letter.record, letter.hop, topic)
        record = replayed(letter, topic=topic, replay=number, trace=span.traceparent)
        self._send(record, span)

    def _keep_to_rate(self, done: int) -> None:
        if self._rate is not None:
            due = self._began + done / self._rate
            self._sleep(max(0.0, due - time.monotonic()))

    def _renew_claim(self, letter: Letter) -> None:
        """See to it that the claim lives as long as the job may from now on."""
        if self._claims is None or letter.job.claim is None:
            return
        with suppress(ContractError):  # The job itself is to fail of it.
            self._claims.renew(claim_from_header(letter.job.claim))

    def _send(self, outgoing: Outgoing, span: Send | None = None) -> None:
        def answered(error: KafkaError | None, message: Message) -> None:
            self._unacknowledged -= 1
            if span is not None and error is None:
                span.landed(message.partition(), message.offset() or 0)
            elif span is not None:
                span.failed("BrokerUnavailable")
            if error is not None:
                self._failed.append(error)

        self._await(UNACKNOWLEDGED_MAX)
        try:
            produce(self._producer, outgoing, answered)
        except KafkaException as fault:
            raise self._refused(why_ended(self._producer, kafka_error(fault))) from None
        self._unacknowledged += 1

    def _refused(self, error: KafkaError) -> ProcessorError:
        need = to_write(self._topic.name)
        return fault_of(error, self._settings.kafka, "replay", need=need)

    def _await(self, unacknowledged_max: int) -> None:
        until = time.monotonic() + ACKNOWLEDGED_SECONDS
        while self._unacknowledged > unacknowledged_max:
            try:
                self._producer.poll(0.05)
            except KafkaException as fault:  # The client has ended: it may write to no topic.
                raise self._refused(kafka_error(fault)) from None
            if self._failed:
                raise self._refused(self._failed[0])
            if time.monotonic() > until:
                raise BrokerUnavailable(
                    f"Kafka has not acknowledged a replay within {ACKNOWLEDGED_SECONDS:.0f} s",
                    hint="what was appended will run; run the command again for the rest",
                )


def _purged(letter: Letter) -> PurgedJob:
    return PurgedJob(
        identity=letter.identity,
        job_id=letter.job.job_id,
        job_type=letter.job.job_type or "unknown",
        key=letter.record.key,
        attempt=letter.hop.attempt,
        origin=letter.hop.origin,
    )


def _batches(units: Sequence[Unit]) -> Iterator[list[Unit]]:
    batch: list[Unit] = []
    for unit in units:
        if batch and sum(len(each.letters) for each in batch) + len(unit.letters) > LETTERS_AT_ONCE:
            yield batch
            batch = []
        batch.append(unit)
    if batch:
        yield batch


def still_closed(
    plan: Plan,
    number: int,
    ledger: OperatorLedger,
    *,
    group: str,
    topic: str,
    until: float,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[list[ClosedKey], list[ClosedKey], list[ClosedKey]]:
    """Wait for the closed keys of a plan, until monotonic seconds.

    Returns those that need another round, since jobs were held meanwhile; those in which a job
    died again; and those that did not come to their end in time.
    """
    again: dict[Key, ClosedKey] = {}
    units = {(unit.partition, unit.key): unit for unit in plan.units if unit.closed is not None}
    while True:
        closed = {(c.partition, c.key): c for c in ledger.closed_keys(group, topic)}
        left = {key: closed[key] for key in units if key in closed}
        died = [each for each in left.values() if each.replay >= number]
        more: dict[Key, ClosedKey] = {
            key: each
            for key, each in left.items()
            if each.replay < number and each.held > 0 and _all_done(units[key], ledger)
        }
        waiting = [c for key, c in left.items() if c.replay < number and key not in more]
        # Seen twice: notes of the replay itself may have been on their way the first time.
        if not waiting and more.keys() == again.keys():
            return list(more.values()), died, []
        if time.monotonic() >= until:
            return list(more.values()), died, waiting
        again = more
        sleep(0.5)


def _all_done(unit: Unit, ledger: OperatorLedger) -> bool:
    rows = ledger.lookup([name for each in unit.letters for name in each.letter.identities])
    return all(
        (row := row_among(rows, each.letter.identities)) is not None
        and row.state in ("done", "purged")
        for each in unit.letters
    )
