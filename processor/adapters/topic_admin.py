"""Kafka's topic administration, over confluent-kafka's AdminClient: read the cluster, change it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from processor.contracts.topic import TopicSpec
from processor.contracts.topic_plan import ExistingTopic
from processor.errors import BrokerUnavailable, ProcessorError, UsageError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from confluent_kafka.admin import AdminClient

_T = TypeVar("_T")
_SHOWN_POLL_SECONDS = 0.05


class TopicAdmin:
    """One cluster's topics. `kafka` is the `[kafka]` table of the settings.

    Every call may raise BrokerUnavailable, or UsageError when the credentials or rights lack. A
    change returns when the brokers show it, not only when the controller has accepted it.
    """

    def __init__(self, kafka: Mapping[str, Any], *, timeout_seconds: float = 10.0) -> None:
        from confluent_kafka.admin import AdminClient

        from processor.adapters.broker import Heard, made

        self._kafka = dict(kafka)
        self._servers = str(kafka.get("bootstrap.servers", ""))
        self._timeout_seconds = timeout_seconds
        self._change_seconds = timeout_seconds * 3  # A busy controller takes its time.
        self._heard = Heard()
        config = {**kafka, "error_cb": self._heard, "log_level": 0}
        self._client: AdminClient = made(AdminClient, config)

    def brokers(self) -> int:
        """Count the brokers."""
        metadata = self._call("list the brokers", self._metadata)
        return len(metadata.brokers)

    def describe(self) -> dict[str, ExistingTopic]:
        """Read every topic's partitions and replication, and the settings set on it."""
        metadata = self._call("list the topics", self._metadata)
        names = [name for name in metadata.topics if not name.startswith("__")]
        configs = self._configs(names)
        return {
            name: ExistingTopic(
                name,
                len(metadata.topics[name].partitions),
                min(
                    (len(part.replicas) for part in metadata.topics[name].partitions.values()),
                    default=0,
                ),
                configs[name],
            )
            for name in names
            if name in configs
        }

    def broker_settings(self) -> dict[str, str]:
        """Read the settings of one broker: those of groups are the same on all."""
        from confluent_kafka.admin import ConfigResource, ResourceType

        broker = min(self._call("list the brokers", self._metadata).brokers)
        futures = self._client.describe_configs(
            [ConfigResource(ResourceType.BROKER, str(broker))],
            request_timeout=self._timeout_seconds,
        )
        (future,) = futures.values()
        what, need = "read the settings of a broker", ("DescribeConfigs", "")
        entries = self._wait(what, future, need=need, of="cluster") or {}
        return {name: entry.value for name, entry in entries.items() if entry.value is not None}

    def create(self, spec: TopicSpec) -> None:
        """Create a topic; one that has appeared meanwhile is a ProcessorError."""
        from confluent_kafka.admin import NewTopic

        new = NewTopic(
            spec.name,
            num_partitions=spec.partitions,
            replication_factor=spec.replication,
            config=dict(spec.config),
        )
        futures = self._client.create_topics(
            [new], operation_timeout=self._change_seconds, request_timeout=self._change_seconds
        )
        self._wait(f"create topic `{spec.name}`", futures[spec.name], need=("Create", spec.name))
        self._await_partitions(spec.name, spec.partitions)

    def add_partitions(self, topic: str, partitions: int) -> None:
        """Bring a topic up to so many partitions in all."""
        from confluent_kafka.admin import NewPartitions

        futures = self._client.create_partitions(
            [NewPartitions(topic, partitions)],
            operation_timeout=self._change_seconds,
            request_timeout=self._change_seconds,
        )
        self._wait(f"add partitions to `{topic}`", futures[topic], need=("Alter", topic))
        self._await_partitions(topic, partitions)

    def set_config(self, topic: str, config: Mapping[str, str]) -> None:
        """Set these settings of a topic, and leave its others as they are."""
        from confluent_kafka.admin import (
            AlterConfigOpType,
            ConfigEntry,
            ConfigResource,
            ResourceType,
        )

        entries = [
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
            for name, value in config.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
        futures = self._client.incremental_alter_configs(
            [resource], request_timeout=self._change_seconds
        )
        what = f"set {', '.join(config)} of `{topic}`"
        self._wait(what, futures[resource], need=("AlterConfigs", topic))
        self._await(
            lambda: config.items() <= self._configs([topic]).get(topic, {}).items(),
            f"the new settings of `{topic}`",
        )

    def _await_partitions(self, topic: str, partitions: int) -> None:
        def shown() -> bool:
            found = self._metadata().topics.get(topic)
            return found is not None and len(found.partitions) == partitions

        self._await(shown, f"the {partitions} partitions of `{topic}`")

    def _await(self, shown: Callable[[], bool], what: str) -> None:
        """Ask until an accepted change is shown: a worker started now would else not find it."""
        deadline = time.monotonic() + self._change_seconds
        while not self._call(f"see {what}", shown):
            if time.monotonic() > deadline:
                raise BrokerUnavailable(
                    f"Kafka at {self._servers} accepted the change, but does not show {what} after"
                    f" {self._change_seconds:.0f} s"
                )
            time.sleep(_SHOWN_POLL_SECONDS)

    def _metadata(self) -> Any:
        return self._client.list_topics(timeout=self._timeout_seconds)

    def _configs(self, names: list[str]) -> dict[str, dict[str, str]]:
        """Read the settings in force, defaults included, so that equal is equal however it came."""
        from confluent_kafka import KafkaError
        from confluent_kafka.admin import ConfigResource, ResourceType

        if not names:
            return {}
        futures = self._client.describe_configs(
            [ConfigResource(ResourceType.TOPIC, name) for name in names],
            request_timeout=self._timeout_seconds,
        )
        configs: dict[str, dict[str, str]] = {}
        for resource, future in futures.items():
            entries = self._wait(
                f"read the settings of `{resource.name}`",
                future,
                need=("DescribeConfigs", resource.name),
                ignored=KafkaError.UNKNOWN_TOPIC_OR_PART,  # Deleted since it was listed.
            )
            if entries is not None:
                configs[resource.name] = {
                    name: entry.value for name, entry in entries.items() if entry.value is not None
                }
        return configs

    def _wait(
        self,
        what: str,
        future: Future[_T],
        *,
        need: tuple[str, str],
        of: str = "topic",
        ignored: int | None = None,
    ) -> _T | None:
        # librdkafka ends every request at its own timeout; this one is for a librdkafka that hangs.
        wait_seconds = self._timeout_seconds * 4 + 60
        answer: _T | None = self._call(
            what, lambda: future.result(wait_seconds), need=need, of=of, ignored=ignored
        )
        return answer

    def _call(
        self,
        what: str,
        call: Callable[[], Any],
        *,
        need: tuple[str, str] = ("Describe", ""),
        of: str = "topic",
        ignored: int | None = None,
    ) -> Any:
        from confluent_kafka import KafkaError, KafkaException

        from processor.adapters.broker import Need, fault_of, lacks_right

        started = time.monotonic()
        try:
            return call()
        except KafkaException as fault:
            error: Any = fault.args[0]
            self._client.poll(0)  # Serves `_heard`: the client's own answer is only `timed out`.
            if error.code() == ignored:
                return None
            heard = self._heard.refusal or self._heard.latest
            told = f"{error.str()}{f'; {heard.str()}' if heard is not None else ''}"
            if lacks_right(error):
                needed = Need(need[0], of, need[1])
                raise fault_of(error, self._kafka, what, need=needed) from None
            if self._heard.refusal is not None:
                raise UsageError(
                    f"Kafka at {self._servers} refused to {what}: {told}",
                    hint="check the user and the password in the [kafka] table",
                ) from None
            if error.code() in (
                KafkaError._TRANSPORT,
                KafkaError._TIMED_OUT,
                KafkaError._ALL_BROKERS_DOWN,
                KafkaError._RESOLVE,
                KafkaError.REQUEST_TIMED_OUT,
            ):
                seconds = time.monotonic() - started
                raise BrokerUnavailable(
                    f"Kafka at {self._servers} does not answer: tried to {what}"
                    f" for {seconds:.1f} s ({told})",
                    hint="is it running, and is kafka.bootstrap.servers right?",
                ) from None
            raise ProcessorError(f"Kafka refused to {what}: {error.str()}") from None
