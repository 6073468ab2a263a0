"""The relay: brings rows of the outbox to Kafka, then forgets them.

One turn takes a slot, sends its first rows, waits for every acknowledgement, deletes what is
acknowledged, and gives the slot back. A relay that ends in between leaves rows that are sent
again, with the same job ids: the ledger settles them as duplicates.

An append is never given up by itself: what came after it must not land without it. What cannot be
sent at all holds its own key back, is told again and again, and nobody else waits for it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from processor.adapters.broker import Heard, fault_while_serving, kafka_error, made, produce
from processor.adapters.kafka_settings import client_id, producer_settings
from processor.contracts import headers
from processor.errors import OutageError, UsageError
from processor.model import Outgoing
from processor.outbox.rows import Backlog, Rows
from processor.outbox.table import Row

BATCH_ROWS_MAX = 500
TURNS_MAX = 10  # Of one slot, before another relay may have it.
AGAIN_SECONDS = 1.0
BACKLOG_SECONDS = 5.0
HELD_SECONDS = 10.0  # Before a key is tried again of which a row could not be sent.
HELD_KEYS_MAX = 1000  # More are read, and passed by.
STOP_SECONDS_MAX = 0.5  # A relay that waits hears so late that it is to stop.


class Relay:
    """One relay of an outbox. `told` hears of every acknowledged batch, `backlog` what waits."""

    def __init__(
        self,
        rows: Rows,
        kafka: Mapping[str, Any],
        *,
        logger: Any,
        relayed: Callable[[str, int], None] = lambda _topic, _count: None,
        backlog: Callable[[Backlog], None] = lambda _: None,
        poll_seconds: float = 1.0,
    ) -> None:
        self._rows = rows
        self._kafka = dict(kafka)
        self._logger = logger
        self._relayed = relayed
        self._backlog = backlog
        self._poll_seconds = poll_seconds
        self._heard = Heard()
        settings = producer_settings(kafka, client_id("relay"))
        settings.setdefault("message.timeout.ms", 0)
        settings["error_cb"] = self._heard
        self._producer = made(Producer, settings)
        self._stopping = False
        self._held: dict[tuple[str, str | int], tuple[float, Row]] = {}
        self._backlog_at = 0.0
        self.turned_at = time.monotonic()

    def stop(self) -> None:
        """Ask `run` to end after the batch in progress. Safe in a signal handler."""
        self._stopping = True

    def run(self, *, once: bool = False) -> None:
        """Relay until `stop`; with `once` until nothing is left that may be sent."""
        while not self._stopping:
            try:
                sent = self.turn()
                self._tell_backlog()
                if not sent:
                    if once:
                        break
                    self._wait_for_rows()
            except OutageError as outage:
                self._logger.warning("waiting for the outbox's database", why=outage.message)
                self._wait(AGAIN_SECONDS)
        self._producer.flush(5.0)
        self._rows.close()

    def turn(self) -> int:
        """Serve the slots in which rows wait and that no other relay serves; give the rows sent."""
        self.turned_at = time.monotonic()
        slots = self._rows.slots()
        random.shuffle(slots)  # Relays that begin at the same time are not to race for each.
        sent = 0
        for slot in slots:
            if self._stopping or not self._rows.take(slot):
                continue
            try:
                for _ in range(TURNS_MAX):
                    rows = self._rows.read(slot, BATCH_ROWS_MAX, self._held_rows())
                    acknowledged = self._send(rows)
                    if acknowledged:
                        self._rows.delete([row.number for row in acknowledged])
                    sent += len(acknowledged)
                    if self._stopping or len(rows) < BATCH_ROWS_MAX:
                        break
            finally:
                self._rows.give_back(slot)
        return sent

    def _send(self, rows: list[Row]) -> list[Row]:
        """Send rows in order and wait for the answers. Returns those that are on the log."""
        acknowledged: list[Row] = []
        answered: set[int] = set()
        sent: list[Row] = []

        def answering(row: Row) -> Callable[[KafkaError | None, Message], None]:
            def answer(error: KafkaError | None, _: Message) -> None:
                answered.add(row.number)
                if error is None:
                    acknowledged.append(row)
                else:
                    self._refused(row, error)

            return answer

        for row in rows:
            if _name(row) in self._held:
                continue
            try:
                self._produce(row, answering(row))
                sent.append(row)
            except KafkaException as fault:
                self._refused(row, kafka_error(fault))
        told_at = time.monotonic() + 10.0
        while len(answered) < len(sent) and not self._gives_up():
            self._producer.poll(0.05)
            self.turned_at = time.monotonic()
            if self.turned_at >= told_at:
                told_at += 10.0
                self._logger.warning(
                    "waiting for Kafka", unanswered=len(sent) - len(answered),
                    why=self._heard.latest.str() if self._heard.latest else "no answer",
                )  # fmt: skip
        for topic in {row.aggregatetype for row in acknowledged}:
            self._relayed(topic, sum(row.aggregatetype == topic for row in acknowledged))
        return acknowledged

    def _gives_up(self) -> bool:
        if self._heard.refusal is not None:
            raise fault_while_serving(self._heard.refusal, self._kafka, "relay")
        return self._stopping

    def _produce(self, row: Row, answer: Callable[[KafkaError | None, Message], None]) -> None:
        while True:
            try:
                produce(self._producer, outgoing_of(row), answer)
                return
            except BufferError:
                self._producer.poll(0.05)

    def _held_rows(self) -> list[Row]:
        """The rows that could not be sent a moment ago: their keys are left out until then."""
        now = time.monotonic()
        for name in [name for name, (until, _) in self._held.items() if until <= now]:
            del self._held[name]
        return [row for _, row in self._held.values()][:HELD_KEYS_MAX]

    def _refused(self, row: Row, error: KafkaError) -> None:
        self._held[_name(row)] = (time.monotonic() + HELD_SECONDS, row)
        self._logger.error(
            "row of the outbox cannot be sent; its key waits", number=row.number, job_id=row.id,
            topic=row.aggregatetype, why=error.str(),
        )  # fmt: skip

    def _tell_backlog(self) -> None:
        now = time.monotonic()
        if now >= self._backlog_at:
            self._backlog_at = now + BACKLOG_SECONDS
            self._backlog(self._rows.backlog())

    def _wait_for_rows(self) -> None:
        until = time.monotonic() + self._poll_seconds
        while not self._stopping and (left := until - time.monotonic()) > 0:
            self.turned_at = time.monotonic()
            if self._rows.wait(min(left, STOP_SECONDS_MAX)):
                return

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < until:
            self._producer.poll(0.1)
            self.turned_at = time.monotonic()


def _name(row: Row) -> tuple[str, str | int]:
    """What is held back with a row: its key; one without a key is alone."""
    return row.aggregatetype, row.number if row.aggregateid is None else row.aggregateid


def outgoing_of(row: Row) -> Outgoing:
    """The record that a row stands for: the same at every try."""
    if row.payload is None and row.claim is None:
        raise UsageError(f"row {row.number} of the outbox has neither payload nor claim")
    written = headers.write_job(
        job_id=row.id,
        job_type=row.type,
        source=row.source,
        time=row.created_at,
        idempotency_key=row.idempotency_key,
        not_before_ms=row.not_before,
        deadline_ms=row.deadline,
        claim=row.claim,
    )
    key = None if row.aggregateid is None else row.aggregateid.encode()
    return Outgoing(row.aggregatetype, None, key, row.payload, written)
