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

from confluent_kafka import KafkaError

from processor.adapters.appends import Appends
from processor.adapters.broker import fault_while_serving, to_write
from processor.adapters.keys import registered_encoder
from processor.adapters.registry import Registry
from processor.contracts import headers
from processor.contracts.avro import Encoder, subject_for
from processor.contracts.builtin import schema_directories
from processor.contracts.schemas import SchemaSet
from processor.errors import BrokerUnavailable, PermanentError, SinkUnavailable
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
        self._made: tuple[Appends, Encoder, Mapping[str, Any]] | None = None
        self._writing = threading.Lock()

    @property
    def topic(self) -> str:
        """Where results go."""
        return self._topic

    def write(self, effects: Sequence[Effect]) -> list[str]:
        """Append each result and wait for the brokers. Gives the ids, one for each effect.

        SinkUnavailable: some may be on the topic, and writing all again is safe. PermanentError: a
        result does not fit its schema, or its topic; no result behind it is there.
        """
        until = time.monotonic() + ANSWER_SECONDS
        appends, encoder, kafka = self._way()
        left = [each for effect in effects for each in self._records(effect, encoder)]
        # One at a time: what was refused was this job's own, and not another's in one request.
        if not self._writing.acquire(timeout=ANSWER_SECONDS):
            raise SinkUnavailable(f"results to `{self._topic}` wait for earlier ones")
        try:
            alone = False
            while left:
                together = left[:1] if alone else left
                answers = appends.append(together, lambda _: time.monotonic() < until)
                if answers.refused:
                    self._check(answers.refused[0].error, kafka, alone=len(together) == 1)
                    alone = True
                elif len(answers.acknowledged) < len(together) and time.monotonic() >= until:
                    raise SinkUnavailable(
                        f"Kafka did not acknowledge a result for `{self._topic}` within "
                        f"{ANSWER_SECONDS:.0f} s: {appends.why()}"
                    )
                left = [each for at, each in enumerate(left) if at not in answers.acknowledged]
        except BrokerUnavailable as fault:
            raise SinkUnavailable(fault.message, hint=fault.hint) from fault
        finally:
            self._writing.release()
        return [_id_of(effect) for effect in effects]

    def _check(self, error: KafkaError, kafka: Mapping[str, Any], *, alone: bool) -> None:
        """Raise what a refusal means. Of several records the next try tells which it is."""
        if error.code() not in _REFUSED:
            what, need = f"results to `{self._topic}`", to_write(self._topic)
            fault = fault_while_serving(error, kafka, what, need=need)
            raise SinkUnavailable(fault.message, hint=fault.hint)
        if alone:
            raise PermanentError(f"topic `{self._topic}` refuses the result: {error.str()}")

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

    def _way(self) -> tuple[Appends, Encoder, Mapping[str, Any]]:
        with self._making:
            if self._made is None:
                settings = load_settings() if self._settings is None else self._settings
                schema = SchemaSet.load(schema_directories(settings)).get(self._schema)
                subject = subject_for(self._topic, self._schema)
                encoder = registered_encoder(
                    Registry(settings.registry), subject, schema, settings.encryption
                )
                appends = Appends(settings.kafka, "sink")
                self._made = (appends, encoder, settings.kafka)
            return self._made

    def check(self) -> None:
        """Reach the registry now, not at the first result. UsageError: the schema is not there."""
        self._way()


def _id_of(effect: Effect) -> str:
    """Name a result: alike for all jobs of one identity, and no longer than an id may be."""
    kind, _, job_id = effect.identity.partition(":")
    return job_id if kind == "job" else hashlib.sha256(effect.identity.encode()).hexdigest()
