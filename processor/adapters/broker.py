"""Reach the brokers: make a client, hear what it says beside its answers, and tell its faults."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient, TopicMetadata

from processor.adapters.logins import CREDENTIALS, logged_in
from processor.errors import BrokerUnavailable, ProcessorError, UsageError
from processor.model import Outgoing

REACH_SECONDS = 10.0
ASK_SECONDS = 2.0  # One question; between two of them a refusal is noticed.
RIGHTS_HINT = (
    "`processor acls plan` tells which rights each role needs and which are missing;"
    " `processor acls apply` grants them"
)

_RIGHTS = {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED,
           KafkaError.CLUSTER_AUTHORIZATION_FAILED}  # fmt: skip
_UNKNOWN = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC,
            KafkaError._UNKNOWN_PARTITION}  # fmt: skip
_AWAY = {KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._ALL_BROKERS_DOWN,
         KafkaError._RESOLVE, KafkaError._WAIT_COORD, KafkaError.REQUEST_TIMED_OUT}  # fmt: skip

_Client = TypeVar("_Client", Consumer, Producer, AdminClient)


class TopicMissing(UsageError):
    """The cluster has no topic of that name."""


class Need(NamedTuple):
    """The right that a call needs: a broker that refuses it does not say which it was."""

    operation: str
    resource: str
    name: str = ""

    def __str__(self) -> str:
        named = f" `{self.name}`" if self.name else ""
        return f"{self.operation} on {self.resource}{named}"


def to_read(topic: str | None) -> Need:
    """What fetching from a topic, and committing its offsets, needs."""
    return Need("Read", "topic", topic or "")


def to_write(topic: str) -> Need:
    """What appending to a topic needs."""
    return Need("Write", "topic", topic)


def to_describe(topic: str) -> Need:
    """What asking for a topic's partitions and offsets needs; Read and Write imply it."""
    return Need("Describe", "topic", topic)


class Heard:
    """What a client says in the background (its `error_cb`); a call's own answer is `timed out`."""

    def __init__(self) -> None:
        self.latest: KafkaError | None = None
        self.refusal: KafkaError | None = None  # Credentials that the brokers do not take.
        self.fatal: KafkaError | None = None  # Why the client has ended; its `poll` raises it once.

    def __call__(self, error: KafkaError) -> None:
        """Keep it; "all brokers down" only where nothing says why."""
        if error.code() in CREDENTIALS:
            self.refusal = error
        if error.code() != KafkaError._ALL_BROKERS_DOWN or self.latest is None:
            self.latest = error

    def told(
        self,
        error: KafkaError,
        settings: Mapping[str, Any],
        what: str,
        *,
        need: Need | None = None,
    ) -> ProcessorError:
        """Tell a call's fault, by its cause where the client has named one."""
        if self.refusal is not None:
            return fault_of(self.refusal, settings, what)
        if self.latest is not None and error.code() in _AWAY:
            error = self.latest
        return fault_of(error, settings, what, need=need)


def made(kind: type[_Client], settings: Mapping[str, Any]) -> _Client:
    """Make a client; UsageError when it does not know a setting or its value."""
    try:
        return logged_in(kind, settings)
    except KafkaException as fault:
        raise UsageError(
            f"the [kafka] settings do not fit: {kafka_error(fault).str()}",
            hint="`processor config show` tells where each one comes from",
        ) from None


def topics_found(
    client: Consumer | Producer | AdminClient,
    settings: Mapping[str, Any],
    heard: Heard,
    *,
    topic: str | None = None,
) -> dict[str, int]:
    """Ask for every topic, or one, and its partitions, again and again for `REACH_SECONDS`.

    Raises BrokerUnavailable, UsageError when the credentials are refused, and TopicMissing when the
    one asked for does not exist.
    """
    asked = "list the topics" if topic is None else f"find topic `{topic}`"
    started = time.monotonic()
    while True:
        left = started + REACH_SECONDS - time.monotonic()
        try:
            found = _ask(client, topic, min(ASK_SECONDS, max(left, 0.1)))
        except KafkaException as fault:
            client.poll(0)  # Serves `heard`.
            seconds = time.monotonic() - started
            if seconds < REACH_SECONDS and heard.refusal is None:
                continue
            what = f"tried to {asked} for {seconds:.0f} s"
            raise heard.told(kafka_error(fault), settings, what) from None
        heard.latest = heard.refusal = None
        for each in found.values():
            if each.error is not None and each.error.code() in _UNKNOWN:
                raise TopicMissing(
                    f"topic `{topic}` does not exist on Kafka at {servers_of(settings)}",
                    hint="run `processor topics apply`",
                )
            if each.error is not None and each.topic == topic:
                raise fault_of(each.error, settings, asked, need=to_describe(topic or ""))
        return {name: len(each.partitions) for name, each in found.items()}


def _ask(
    client: Consumer | Producer | AdminClient, topic: str | None, seconds: float
) -> dict[str, TopicMetadata]:
    if topic is None:  # The client takes no None for "all".
        return client.list_topics(timeout=seconds).topics
    return client.list_topics(topic, timeout=seconds).topics


def knows_no_topic(error: KafkaError) -> bool:
    """Whether a topic is said not to exist."""
    return error.code() in _UNKNOWN


def lacks_right(error: KafkaError) -> bool:
    """Whether a broker refuses it since the principal may not do that."""
    # The client gives a producer up that may write to no topic at all, and tells why in words.
    ended = error.code() == KafkaError._FATAL and "authorization failed" in error.str()
    return error.code() in _RIGHTS or ended


def fault_of(
    error: KafkaError, settings: Mapping[str, Any], what: str, *, need: Need | None = None
) -> ProcessorError:
    """Turn a Kafka error into ours. `what` was being done, which needs the right `need`."""
    servers = servers_of(settings)
    code = error.code()
    if code in CREDENTIALS:
        return UsageError(
            f"Kafka at {servers} refuses the credentials: {error.str()}",
            hint="check security.protocol, sasl.* and ssl.* in [kafka]",
        )
    if lacks_right(error):
        # Its own words may hold a whole request; those of its code say enough.
        return UsageError(
            f"Kafka at {servers} does not allow {principal_of(settings)} {need or 'it'} ({what}):"
            f" {KafkaError(code).str() if code in _RIGHTS else error.str()}",
            hint=RIGHTS_HINT,
        )
    if code in _UNKNOWN:
        return TopicMissing(
            f"Kafka at {servers} has no such topic ({what})", hint="run `processor topics apply`"
        )
    if code == KafkaError.MSG_SIZE_TOO_LARGE:
        return UsageError(
            f"Kafka at {servers} refuses so large a record ({what}): {error.str()}",
            hint="lower message_max in the topic's file, so that the value goes to the claim store",
        )
    trouble = "does not answer" if code in _AWAY else "failed"
    return BrokerUnavailable(
        f"Kafka at {servers} {trouble} ({what}): {error.str()}",
        hint="is it running, and is kafka.bootstrap.servers right?",
    )


def fault_while_serving(
    error: KafkaError, settings: Mapping[str, Any], what: str, *, need: Need | None = None
) -> ProcessorError:
    """Turn a Kafka error of a running worker into ours.

    Every topic was there when the worker started: one that a broker does not know it does not know
    yet, as just after its own start.
    """
    fault = fault_of(error, settings, what, need=need)
    if isinstance(fault, TopicMissing):
        return BrokerUnavailable(fault.message, hint=fault.hint)
    return fault


def principal_of(settings: Mapping[str, Any]) -> str:
    """Name who this client is for the brokers, as far as it is known here."""
    user = settings.get("sasl.username")
    return "this client" if user is None else f"User:{user}"


def servers_of(settings: Mapping[str, Any]) -> str:
    """Name the brokers, for messages."""
    return str(settings.get("bootstrap.servers", "none set"))


def kafka_error(fault: KafkaException) -> KafkaError:
    """Take the error out of the exception that carries it."""
    error = fault.args[0]
    assert isinstance(error, KafkaError)
    return error


def produce(producer: Producer, outgoing: Outgoing, answered: Any) -> None:
    """Hand bytes to a producer; `answered(error, message)` is called when it is polled."""
    if outgoing.partition is None:
        producer.produce(
            outgoing.topic,
            value=outgoing.value,
            key=outgoing.key,
            headers=outgoing.headers,  # type: ignore[arg-type]
            on_delivery=answered,
        )
    else:
        producer.produce(
            outgoing.topic,
            value=outgoing.value,
            key=outgoing.key,
            partition=outgoing.partition,
            headers=outgoing.headers,  # type: ignore[arg-type]
            on_delivery=answered,
        )


@contextmanager
def telling() -> Iterator[None]:
    """Have an interrupt be one, where a client's call tells answers: it is a SystemError there."""
    try:
        yield
    except SystemError:
        raise KeyboardInterrupt from None


def why_ended(producer: Producer, error: KafkaError) -> KafkaError:
    """Tell why a producer takes nothing any more: its own answer says only that it has ended."""
    if error.code() == KafkaError._FATAL:
        try:
            producer.poll(0)
        except KafkaException as fault:
            return kafka_error(fault)
    return error


def produce_all(
    producer: Producer,
    outgoing: Sequence[Outgoing],
    *,
    until: float,
    fault: Callable[[KafkaError, str], ProcessorError],
) -> list[int] | None:
    """Append, wait for every answer and give the offsets; None: not all came until monotonic time.

    Raises what `fault(error, topic)` makes of the first refusal.
    """
    offsets: dict[int, int] = {}
    failed: list[tuple[KafkaError, str]] = []

    def answering(number: int) -> Any:
        def answered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                failed.append((error, outgoing[number].topic))
            offsets[number] = message.offset() or 0

        return answered

    for number, each in enumerate(outgoing):
        while True:
            try:
                produce(producer, each, answering(number))
                break
            except BufferError:  # Full of copies that are not answered yet.
                if time.monotonic() >= until:
                    return None
                producer.poll(0.05)
            except KafkaException as refused:
                raise fault(why_ended(producer, kafka_error(refused)), each.topic) from None
    while len(offsets) < len(outgoing) and time.monotonic() < until:
        producer.poll(0.05)
    if failed:
        raise fault(*failed[0])
    if len(offsets) < len(outgoing):
        return None
    return [offsets[number] for number in range(len(outgoing))]
