"""The relay: brings rows of the outbox to Kafka, then forgets them.

One turn takes a slot, sends its first rows, waits for every acknowledgement, deletes what is
acknowledged, and gives the slot back. A relay that ends in between leaves rows that are sent
again, with the same job ids: the ledger settles them as duplicates.

What cannot be sent at all holds its own key back, is told again and again, and nobody else waits
for it. Rows that were refused together are sent again one by one: so it is found which.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from processor.adapters.appends import Answers, Appends
from processor.contracts import headers
from processor.errors import BrokerUnavailable, OutageError, UsageError
from processor.model import Outgoing
from processor.outbox.rows import Backlog, Rows
from processor.outbox.table import Name, Row

if TYPE_CHECKING:
    from processor.adapters.tracing import OpenTelemetry

BATCH_ROWS_MAX = 500
TURNS_MAX = 10  # Of one slot, before another relay may have it.
AGAIN_SECONDS = 1.0
BACKLOG_SECONDS = 5.0
TOLD_SECONDS = 10.0  # Between two words about an outage that lasts.
HELD_SECONDS = 10.0  # Before a key is tried again of which a row could not be sent.
HELD_KEYS_MAX = 1000  # At this many the topic of the next one waits whole.
ALONE_ROWS_MAX = 10_000  # At this many it is forgotten which rows to send alone.
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
        tracing: OpenTelemetry | None = None,
    ) -> None:
        self._rows = rows
        self._appends = Appends(kafka, "relay")
        self._logger = logger
        self._relayed = relayed
        self._backlog = backlog
        self._poll_seconds = poll_seconds
        self._tracing = tracing
        self._stopping = False
        self._held: dict[Name, float] = {}
        self._alone: set[int] = set()  # The numbers of rows that were refused, maybe with others.
        self._backlog_at = 0.0
        self._told_at = 0.0
        self.turned_at = time.monotonic()
        self.waits_since: float | None = None  # For Kafka or the database, since when.

    def stop(self) -> None:
        """Ask `run` to end after the batch in progress. Safe in a signal handler."""
        self._stopping = True

    def run(self, *, once: bool = False) -> None:
        """Relay until `stop`; with `once` until nothing is left that may be sent."""
        while not self._stopping:
            try:
                sent = self.turn()
                self._tell_backlog()
                self.waits_since = None
                if not sent:
                    if once:
                        break
                    self._wait_for_rows()
            except OutageError as outage:
                away = "Kafka" if isinstance(outage, BrokerUnavailable) else "the outbox's database"
                self._logger.warning(f"waiting for {away}", why=outage.message)
                self._waits()
                self._wait(AGAIN_SECONDS)
        self._appends.close()
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
                    rows = self._rows.read(slot, BATCH_ROWS_MAX, self._held_names())
                    sent += self._send(rows)
                    if self._stopping or len(rows) < BATCH_ROWS_MAX:
                        break
            finally:
                self._rows.give_back(slot)
        return sent

    def _send(self, rows: list[Row]) -> int:
        """Send rows in order, and forget those that are on the log; give their number."""
        left, count = self._records(rows), 0
        while left and not self._stopping:
            together = list(takewhile(lambda each: each[0].number not in self._alone, left))
            together = together or left[:1]
            self._waits()
            self._told_at = time.monotonic() + TOLD_SECONDS
            answers = self._appended(together)
            if answers.acknowledged:
                self.waits_since = None
                self._forget([together[at][0] for at in sorted(answers.acknowledged)])
                count += len(answers.acknowledged)
            elif not answers.refused:
                break
            for at, error, of_topic in answers.refused:
                row = together[at][0]
                if of_topic:
                    self._hold_topic(row, self._appends.told(error, row.aggregatetype))
                elif len(together) == 1:
                    self._hold(row, error.str())
                else:
                    self._send_alone(row)
            sent = {together[at][0].number for at in answers.acknowledged}
            left = [
                each for each in left if each[0].number not in sent and not self._holds(each[0])
            ]
        return count

    def _appended(self, together: list[tuple[Row, Outgoing]]) -> Answers:
        """Append rows' records, each with a span of its own where they are traced."""
        if self._tracing is None:
            return self._appends.append([record for _, record in together], self._goes_on)
        spans = [
            self._tracing.send(row.aggregatetype, after=record.headers) for row, record in together
        ]
        records = [
            span.carried_by(record, job_id=row.id, job_type=row.type)
            for span, (row, record) in zip(spans, together, strict=True)
        ]
        answers = Answers(set(), [])
        try:
            answers = self._appends.append(records, self._goes_on)
        finally:
            for at, span in enumerate(spans):
                if at in answers.acknowledged:
                    span.ended()
                else:
                    span.failed("BrokerUnavailable")
        return answers

    def _records(self, rows: list[Row]) -> list[tuple[Row, Outgoing]]:
        """Make the records of rows; one that stands for none is refused."""
        found = []
        for row in rows:
            if not self._holds(row):
                try:
                    found.append((row, outgoing_of(row)))
                except UsageError as fault:
                    self._hold(row, fault.message)
        return found

    def _goes_on(self, unanswered: int) -> bool:
        """Be seen alive while answers are waited for. False: wait no more."""
        self.turned_at = time.monotonic()
        self._appends.check()
        self._tell_backlog()
        if self.turned_at >= self._told_at:
            self._told_at = self.turned_at + TOLD_SECONDS
            why = self._appends.why()
            self._logger.warning("waiting for Kafka", unanswered=unanswered, why=why)
        return not self._stopping

    def _forget(self, acknowledged: list[Row]) -> None:
        numbers = [row.number for row in acknowledged]
        self._rows.delete(numbers)
        self._alone.difference_update(numbers)
        for topic in {row.aggregatetype for row in acknowledged}:
            self._relayed(topic, sum(row.aggregatetype == topic for row in acknowledged))

    def _hold(self, row: Row, why: str) -> None:
        """Hold back the key of a row that cannot be sent."""
        if len(self._held) >= HELD_KEYS_MAX:
            self._hold_topic(row, f"{HELD_KEYS_MAX} keys wait already; {why}")
            return
        self._held[row.name] = time.monotonic() + HELD_SECONDS
        self._logger.error(
            "row of the outbox cannot be sent; its key waits", number=row.number, job_id=row.id,
            topic=row.aggregatetype, why=why,
        )  # fmt: skip

    def _hold_topic(self, row: Row, why: str) -> None:
        if (row.aggregatetype, None) not in self._held:
            self._held[row.aggregatetype, None] = time.monotonic() + HELD_SECONDS
            self._logger.error(
                "topic takes no rows of the outbox; they wait", topic=row.aggregatetype, why=why
            )

    def _send_alone(self, row: Row) -> None:
        """Remember to do so: it was refused with others, and one of them may be why."""
        if len(self._alone) >= ALONE_ROWS_MAX:
            self._alone.clear()
        self._alone.add(row.number)

    def _holds(self, row: Row) -> bool:
        return row.name in self._held or (row.aggregatetype, None) in self._held

    def _held_names(self) -> list[Name]:
        """Whose rows could not be sent a moment ago: they are left out until then."""
        now = time.monotonic()
        self._held = {name: until for name, until in self._held.items() if until > now}
        return list(self._held)

    def _waits(self) -> None:
        if self.waits_since is None:
            self.waits_since = time.monotonic()

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
            time.sleep(0.1)
            self.turned_at = time.monotonic()


def outgoing_of(row: Row) -> Outgoing:
    """The record that a row stands for: the same at every try. UsageError: it stands for none."""
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
    if row.traceparent is not None:
        written.append((headers.TRACEPARENT, row.traceparent.encode()))
    key = None if row.aggregateid is None else row.aggregateid.encode()
    return Outgoing(row.aggregatetype, None, key, row.payload, written)
