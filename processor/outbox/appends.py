"""Append rows to Kafka so that nothing lands behind a row that was refused.

Rule 1: a broker has one request at a time, and a client of which one row was refused sends no more
(`enable.gapless.guarantee`). With several requests under way those behind the refused one land:
a broker takes any sequence number of a producer that it does not know yet.
Rule 2: so after anything but acknowledgements the client is given up, and a new one goes on.
Rule 3: an append is never given up by itself (no `message.timeout.ms`): the next one would land.

A refused request may hold rows that fit: only of a row that was appended alone is it known that it
is the one which is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from processor.adapters.broker import Heard, fault_of, fault_while_serving, kafka_error, made
from processor.adapters.broker import produce
from processor.adapters.kafka_settings import client_id, producer_settings
from processor.contracts import headers
from processor.errors import BrokerUnavailable, UsageError
from processor.model import Outgoing
from processor.outbox.table import Row

# Of none of these was a row's fault: it was not sent, or the client had ended.
_UNSENT = {
    KafkaError._FATAL, KafkaError._GAPLESS_GUARANTEE, KafkaError._PURGE_QUEUE,
    KafkaError._PURGE_INFLIGHT, KafkaError._FENCED, KafkaError._MSG_TIMED_OUT,
    KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._AUTHENTICATION,
    KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, KafkaError.UNKNOWN_PRODUCER_ID,
    KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.INVALID_PRODUCER_ID_MAPPING,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED, KafkaError.SASL_AUTHENTICATION_FAILED,
}  # fmt: skip
_OF_THE_TOPIC = {
    KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.TOPIC_EXCEPTION,
}  # fmt: skip
_PROMISED: dict[str, Any] = {
    "enable.idempotence": True,
    "enable.gapless.guarantee": True,
    "max.in.flight": 1,
    "message.timeout.ms": 0,
}
_OTHER_NAMES = {"max.in.flight.requests.per.connection", "delivery.timeout.ms"}

# It says each refusal again, on stderr and not as we do.
_unheard = logging.getLogger("processor.outbox.client")
_unheard.disabled = True


class Refusal(NamedTuple):
    """Why a row was not taken. With `of_topic` no other of its topic would be."""

    row: Row
    why: str
    of_topic: bool


class Answers(NamedTuple):
    """What became of rows. One that is in neither list was not sent, or may be on the log."""

    acknowledged: list[Row]
    refused: list[Refusal]


class Appends:
    """Appends rows, in order, with a client that is made again whenever one has ended."""

    def __init__(self, kafka: Mapping[str, Any]) -> None:
        self._kafka = dict(kafka)
        self._heard = Heard()
        settings = producer_settings(kafka, client_id("relay"))
        mine = {name: value for name, value in settings.items() if name not in _OTHER_NAMES}
        self._settings = {**mine, **_PROMISED, "error_cb": self._heard, "logger": _unheard}
        self._client: Producer | None = made(Producer, self._settings)
        self._ended: KafkaError | None = None

    def append(self, rows: Sequence[Row], going_on: Callable[[int], bool]) -> Answers:
        """Append rows and wait for every answer, as long as `going_on(unanswered)` says so.

        BrokerUnavailable: the client has ended, and nothing came of these rows.
        """
        answers = Answers([], [])
        sent = answered = 0

        def answering(row: Row) -> Callable[[KafkaError | None, Message], None]:
            def answer(error: KafkaError | None, _: Message) -> None:
                nonlocal answered
                answered += 1
                self._judge(answers, row, error)

            return answer

        def waits() -> bool:
            return going_on(sent - answered)

        if self._client is None:
            self._client = made(Producer, self._settings)
        self._ended = None
        try:
            for row in rows:
                if not self._produce(answers, row, answering(row), waits):
                    break
                sent += 1
            while answered < sent and waits():
                self._serve()
            ended = self._ended
        finally:
            if len(answers.acknowledged) < len(rows):
                self.close()
        if not answers.acknowledged and not answers.refused and ended is not None:
            fault = fault_while_serving(ended, self._kafka, "relay")
            raise BrokerUnavailable(fault.message, hint=fault.hint)
        return answers

    def why(self) -> str:
        """What the brokers, or the way to them, said last."""
        return "no answer" if self._heard.latest is None else self._heard.latest.str()

    def check(self) -> None:
        """UsageError: the brokers do not take the credentials."""
        if self._heard.refusal is not None:
            raise fault_of(self._heard.refusal, self._kafka, "relay")

    def close(self) -> None:
        """Give the client up, with all that it has not sent. Twice does no harm."""
        if self._client is not None:
            self._client.purge()
            with suppress(KafkaException):  # It has ended, which is known.
                self._client.poll(0)
            self._client = None

    def _produce(self, answers: Answers, row: Row, answer: Any, waits: Callable[[], bool]) -> bool:
        """Hand a row to the client. False: it does not take it, and may take none behind it."""
        assert self._client is not None
        while self._ended is None:
            try:
                produce(self._client, outgoing_of(row), answer)
                return True
            except UsageError as fault:
                answers.refused.append(Refusal(row, fault.message, of_topic=False))
                return False
            except KafkaException as fault:
                self._judge(answers, row, kafka_error(fault))
                return False
            except BufferError:
                if not waits():
                    return False
                self._serve()
        return False

    def _judge(self, answers: Answers, row: Row, error: KafkaError | None) -> None:
        if error is None:
            answers.acknowledged.append(row)
        elif error.code() in _UNSENT:
            self._ended = self._ended or error
        else:
            answers.refused.append(
                Refusal(row, error.str(), of_topic=error.code() in _OF_THE_TOPIC)
            )

    def _serve(self) -> None:
        """Take answers for a moment. What waits to be sent does not linger."""
        assert self._client is not None
        try:
            self._client.flush(0.05)
        except KafkaException as fault:  # The client has ended; of what it sent answers may come.
            self._ended = kafka_error(fault)
        if self._ended is not None:
            self._client.purge(in_flight=False)


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
    key = None if row.aggregateid is None else row.aggregateid.encode()
    return Outgoing(row.aggregatetype, None, key, row.payload, written)
