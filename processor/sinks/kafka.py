"""Results as records of a Kafka topic, each under an id that the job alone decides.

A record is appended before the ledger's row is written, so a crash in between appends it again: a
reader that knows the ids it has seen (`ce_id`) has each result exactly once, and the results of a
key in the order of its jobs. Nothing else makes that of a topic: Kafka's transactions cannot take
the ledger in.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from processor.adapters.broker import Heard, fault_while_serving, kafka_error, made, produce
from processor.adapters.kafka_settings import client_id, producer_settings
from processor.adapters.registry import Registry
from processor.contracts import headers
from processor.contracts.avro import Encoder, subject_for
from processor.contracts.builtin import schema_directories
from processor.contracts.schemas import SchemaSet
from processor.errors import PermanentError, SinkUnavailable
from processor.model import Effect, Outgoing
from processor.settings import Settings, load_settings

ANSWER_SECONDS = 30.0
_REFUSED = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD}


class KafkaSink:
    """Appends what a handler returns, a mapping (one record) or a list of them, to a topic.

    `schema` is the full name of a record in the project's schemas: results are Avro in Confluent
    wire format, with the job's key. `ce_id` is `<job id>` of one record, and `<job id>-<n>` of the
    n-th of a list; jobs with an idempotency key have its SHA-256 in place of their id, as two of
    them may run side by side. The settings are the worker's own where none are given. Safe for
    threads.
    """

    def __init__(self, topic: str, *, schema: str, settings: Settings | None = None) -> None:
        self._topic = topic
        self._schema = schema
        self._settings = settings
        self._making = threading.Lock()
        self._made: tuple[Producer, Encoder, Mapping[str, Any]] | None = None
        self._heard = Heard()

    def write(self, effects: Sequence[Effect]) -> list[str]:
        """Append each result and wait for the brokers. Gives the ids, one for each effect.

        SinkUnavailable: some may be on the topic, and writing all again is safe. PermanentError: a
        result does not fit its schema, or its topic; nothing of it is there.
        """
        producer, encoder, kafka = self._way()
        records = [each for effect in effects for each in self._records(effect, encoder)]
        errors: list[KafkaError | None] = []

        def answered(error: KafkaError | None, _: Message) -> None:
            errors.append(error)

        for record in records:
            self._produce(producer, record, answered)
        until = time.monotonic() + ANSWER_SECONDS
        while len(errors) < len(records) and time.monotonic() < until:
            producer.poll(0.02)
        for error in errors:
            if error is not None and error.code() in _REFUSED:
                raise PermanentError(f"topic `{self._topic}` refuses the result: {error.str()}")
            if error is not None:
                fault = fault_while_serving(error, kafka, f"results to `{self._topic}`")
                raise SinkUnavailable(fault.message, hint=fault.hint)
        if len(errors) < len(records):
            why = self._heard.latest.str() if self._heard.latest is not None else "no answer"
            raise SinkUnavailable(
                f"Kafka did not acknowledge a result for `{self._topic}` within "
                f"{ANSWER_SECONDS:.0f} s: {why}"
            )
        return [_id_of(effect) for effect in effects]

    def _records(self, effect: Effect, encoder: Encoder) -> list[Outgoing]:
        many = isinstance(effect.result, list)
        rows = effect.result if many else [effect.result]
        job_id = _id_of(effect)
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        return [
            Outgoing(
                self._topic,
                None,
                None if effect.key is None else effect.key.encode(),
                encoder.encode(self._row(row)),
                headers.write_job(
                    job_id=f"{job_id}-{number}" if many else job_id,
                    job_type=self._schema,
                    source=effect.job_type,
                    time=now,
                ),
            )
            for number, row in enumerate(rows)
        ]

    def _row(self, row: Any) -> Mapping[str, Any]:
        if not isinstance(row, Mapping):
            raise PermanentError(
                f"a result for topic `{self._topic}` must be a mapping, or a list of them; it is a "
                f"{type(row).__name__}"
            )
        return row

    def _produce(self, producer: Producer, record: Outgoing, answered: Any) -> None:
        while True:
            try:
                produce(producer, record, answered)
                return
            except BufferError:
                producer.poll(0.05)
            except KafkaException as fault:
                error = kafka_error(fault)
                if error.code() in _REFUSED:
                    raise PermanentError(
                        f"topic `{self._topic}` refuses the result: {error.str()}"
                    ) from None
                raise SinkUnavailable(f"results to `{self._topic}`: {error.str()}") from fault

    def _way(self) -> tuple[Producer, Encoder, Mapping[str, Any]]:
        with self._making:
            if self._made is None:
                settings = load_settings() if self._settings is None else self._settings
                schema = SchemaSet.load(schema_directories(settings)).get(self._schema)
                subject = subject_for(self._topic, self._schema)
                schema_id = Registry(settings.registry).id_of(subject, schema.text)
                mine = producer_settings(settings.kafka, client_id("sink"))
                # Never given up: what came after it must not land without it.
                mine.setdefault("message.timeout.ms", 0)
                mine["error_cb"] = self._heard
                producer = made(Producer, mine)
                self._made = (producer, Encoder(schema, schema_id), settings.kafka)
            return self._made

    def check(self) -> None:
        """Reach the registry now, not at the first result. UsageError: the schema is not there."""
        self._way()


def _id_of(effect: Effect) -> str:
    """Name a result: alike for all jobs of one identity, and no longer than an id may be."""
    kind, _, job_id = effect.identity.partition(":")
    return job_id if kind == "job" else hashlib.sha256(effect.identity.encode()).hexdigest()
