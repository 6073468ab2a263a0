"""Append records to Kafka so that nothing lands behind one that was refused.

Rule 1: a broker has one request at a time, and a client that was refused a record sends no more
(`enable.gapless.guarantee`). With several requests under way those behind the refused one land:
a broker takes any sequence number of a producer that it does not know yet.
Rule 2: so after anything but acknowledgements the client is given up, and a new one goes on.
Rule 3: an append is never given up by itself (no `message.timeout.ms`): the next one would land.

A refused request may hold records that fit: only of one that was appended alone is it known that
it is the one which is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from processor.adapters.broker import (
    Heard,
    fault_of,
    fault_while_serving,
    kafka_error,
    lacks_right,
    made,
    produce,
    to_write,
    why_ended,
)
from processor.adapters.kafka_settings import client_id, producer_settings
from processor.errors import BrokerUnavailable
from processor.model import Outgoing

# None of these is a record's own fault: it was not sent, or the client had ended.
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
_unheard = logging.getLogger("processor.adapters.appends")
_unheard.disabled = True


class Refusal(NamedTuple):
    """Why the `at`-th record was not taken. With `of_topic` no other of its topic would be."""

    at: int
    error: KafkaError
    of_topic: bool


class Answers(NamedTuple):
    """What became of records, by their place. One in neither was not sent, or may be on the log."""

    acknowledged: set[int]
    refused: list[Refusal]


class Appends:
    """Appends records, in order, with a client that is made again whenever one has ended.

    One thread at a time. `role` names the client for the brokers, and for messages.
    """

    def __init__(self, kafka: Mapping[str, Any], role: str) -> None:
        self._kafka = dict(kafka)
        self._role = role
        self._heard = Heard()
        settings = producer_settings(kafka, client_id(role))
        mine = {name: value for name, value in settings.items() if name not in _OTHER_NAMES}
        self._settings = {**mine, **_PROMISED, "error_cb": self._heard, "logger": _unheard}
        self._client: Producer | None = made(Producer, self._settings)
        self._ended: KafkaError | None = None

    def append(self, records: Sequence[Outgoing], going_on: Callable[[int], bool]) -> Answers:
        """Append and wait for every answer, as long as `going_on(unanswered)` says so.

        BrokerUnavailable: the client has ended, and nothing came of these records.
        """
        answers = Answers(set(), [])
        sent = answered = 0

        def answering(at: int) -> Callable[[KafkaError | None, Message], None]:
            def answer(error: KafkaError | None, _: Message) -> None:
                nonlocal answered
                answered += 1
                self._judge(answers, at, error)

            return answer

        def waits() -> bool:
            return going_on(sent - answered)

        if self._client is None:
            self._client = made(Producer, self._settings)
        self._ended = None
        try:
            for at, record in enumerate(records):
                if not self._produce(answers, at, record, answering(at), waits):
                    break
                sent += 1
            while answered < sent and waits():
                self._serve()
            ended = self._ended
        finally:
            if len(answers.acknowledged) < len(records):
                self.close()
        if not answers.acknowledged and not answers.refused and ended is not None:
            need = to_write(records[0].topic)
            fault = fault_while_serving(ended, self._kafka, self._role, need=need)
            raise BrokerUnavailable(fault.message, hint=fault.hint)
        return answers

    def told(self, error: KafkaError, topic: str) -> str:
        """Say why a topic takes no records, and what to do."""
        if not lacks_right(error):
            return error.str()
        fault = fault_of(error, self._kafka, self._role, need=to_write(topic))
        return f"{fault.message}; hint: {fault.hint}"

    def why(self) -> str:
        """What the brokers, or the way to them, said last."""
        return "no answer" if self._heard.latest is None else self._heard.latest.str()

    def check(self) -> None:
        """UsageError: the brokers do not take the credentials."""
        if self._heard.refusal is not None:
            raise fault_of(self._heard.refusal, self._kafka, self._role)

    def close(self) -> None:
        """Give the client up, with all that it has not sent. Twice does no harm."""
        if self._client is not None:
            self._client.purge()
            with suppress(KafkaException):  # It has ended, which is known.
                self._client.poll(0)
            self._client = None

    def _produce(
        self, answers: Answers, at: int, record: Outgoing, answer: Any, waits: Callable[[], bool]
    ) -> bool:
        """Hand a record to the client. False: it was not taken, and nothing may come behind it."""
        assert self._client is not None
        while self._ended is None:
            try:
                produce(self._client, record, answer)
                return True
            except KafkaException as fault:
                self._judge(answers, at, why_ended(self._client, kafka_error(fault)))
                return False
            except BufferError:
                if not waits():
                    return False
                self._serve()
        return False

    def _judge(self, answers: Answers, at: int, error: KafkaError | None) -> None:
        if error is None:
            answers.acknowledged.add(at)
        elif error.code() in _UNSENT:
            self._ended = self._ended or error
        else:
            answers.refused.append(Refusal(at, error, of_topic=error.code() in _OF_THE_TOPIC))

    def _serve(self) -> None:
        """Take answers for a moment. What waits to be sent does not linger."""
        assert self._client is not None
        try:
            self._client.flush(0.05)
        except KafkaException as fault:  # The client has ended; of what it sent answers may come.
            self._ended = kafka_error(fault)
        if self._ended is not None:
            self._client.purge(in_flight=False)
