"""Kafka's access list, over confluent-kafka's AdminClient: read it, add to it, take from it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ConfigResource,
    ResourcePatternType,
    ResourceType,
)

from processor.adapters.broker import (
    Heard,
    Need,
    kafka_error,
    lacks_right,
    made,
    servers_of,
    topics_found,
)
from processor.contracts.acl_plan import CLUSTER, Acl
from processor.errors import BrokerUnavailable, ProcessorError, UsageError

if TYPE_CHECKING:
    from concurrent.futures import Future

CALL_SECONDS = 15.0
SHOWN_POLL_SECONDS = 0.05
_RESOURCES = {"broker": "cluster"}  # The client's name for it, and Kafka's.

_ASKED: dict[str, Any] = {
    "include_authorized_operations": True, "request_timeout": CALL_SECONDS,
}  # fmt: skip
_ABSENT = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.GROUP_ID_NOT_FOUND)

_T = TypeVar("_T")


class AclAdmin:
    """One cluster's access list. `kafka` is the `[kafka]` table of the settings.

    Every call may raise BrokerUnavailable, or UsageError when the credentials or rights lack. A
    change returns when the brokers show it.
    """

    def __init__(self, kafka: Mapping[str, Any]) -> None:
        self._kafka = dict(kafka)
        self._readable = False
        self._heard = Heard()
        config = {**kafka, "error_cb": self._heard, "log_level": 0}
        self._client = made(AdminClient, config)

    def of(self, principals: Collection[str]) -> set[Acl]:
        """Read every entry of these principals."""
        self._check_readable()
        found: set[Acl] = set()
        for principal in sorted(principals):
            asked = self._client.describe_acls(_filter(principal), request_timeout=CALL_SECONDS)
            entries = self._call("read the access list", Need("Describe", "cluster"), asked)
            found.update(_acl(entry) for entry in entries)
        return found

    def mine(self, topics: Sequence[str], group: str) -> dict[tuple[str, str], frozenset[str]]:
        """Tell what these credentials may do on the cluster, on topics and on a group.

        By kind and name of the resource. What does not exist is left out; what may not even be
        described allows nothing.
        """
        answers: Any = {("cluster", CLUSTER): self._client.describe_cluster(**_ASKED)}
        if topics:
            found = self._client.describe_topics(TopicCollection(list(topics)), **_ASKED)
            answers |= {("topic", name): answer for name, answer in found.items()}
        groups = self._client.describe_consumer_groups([group], **_ASKED)
        answers[("group", group)] = groups[group]
        allowed = {each: self._allowed(each, answer) for each, answer in answers.items()}
        return {each: may for each, may in allowed.items() if may is not None}

    def _allowed(self, resource: tuple[str, str], asked: Future[Any]) -> frozenset[str] | None:
        """What may be done there; None: it does not exist."""
        kind, name = resource
        try:
            answer = asked.result(CALL_SECONDS * 2)
        except KafkaException as fault:
            error = kafka_error(fault)
            if lacks_right(error) and kind != "cluster":
                return frozenset()
            if error.code() in _ABSENT:
                return None
            self._client.poll(0)  # Serves `_heard`.
            raise self._fault(
                error, f"describe {kind} {name}", Need("Describe", kind, name)
            ) from None
        return frozenset(_camel(each.name) for each in answer.authorized_operations or ())

    def add(self, acls: Sequence[Acl]) -> None:
        """Add entries; one that is there already stays."""
        bindings = [_binding(acl) for acl in acls]
        if not bindings:
            return
        answers = self._client.create_acls(bindings, request_timeout=CALL_SECONDS)
        for answer in answers.values():
            self._call("add to the access list", Need("Alter", "cluster"), answer)
        self._await(acls, lambda shown: set(acls) <= shown)

    def remove(self, acls: Sequence[Acl]) -> None:
        """Remove exactly these entries."""
        if not acls:
            return
        filters = [_exact(acl) for acl in acls]
        answers = self._client.delete_acls(filters, request_timeout=CALL_SECONDS)
        for answer in answers.values():
            self._call("take from the access list", Need("Alter", "cluster"), answer)
        self._await(acls, lambda shown: not set(acls) & shown)

    def _check_readable(self) -> None:
        """Raise what the client conceals: a list that may not be read is an empty one for it."""
        if self._readable:
            return
        topics_found(self._client, self._kafka, self._heard)  # Credentials are refused at once.
        asked: Any = self._client.describe_cluster(
            include_authorized_operations=True, request_timeout=CALL_SECONDS
        )
        what, need = "read the access list", Need("Describe", "cluster")
        may: Sequence[AclOperation] = self._call(what, need, asked).authorized_operations or []
        if AclOperation.DESCRIBE not in may:
            raise self._fault(KafkaError(KafkaError.CLUSTER_AUTHORIZATION_FAILED), what, need)
        if AclOperation.DESCRIBE_CONFIGS in may and not self._has_authorizer():
            raise self._without_list()
        self._readable = True

    def _has_authorizer(self) -> bool:
        brokers = self._client.list_topics(timeout=CALL_SECONDS).brokers
        asked = ConfigResource(ResourceType.BROKER, str(next(iter(brokers))))
        answers = self._client.describe_configs([asked], request_timeout=CALL_SECONDS)
        need = Need("DescribeConfigs", "cluster")
        settings = self._call("read a broker's settings", need, answers[asked])
        return bool(settings["authorizer.class.name"].value)

    def _without_list(self) -> UsageError:
        return UsageError(
            f"Kafka at {servers_of(self._kafka)} has no access list: everyone may do everything",
            hint="set authorizer.class.name for its brokers, or do without `processor acls`",
        )

    def _await(self, acls: Sequence[Acl], holds: Callable[[set[Acl]], bool]) -> None:
        """Ask until an accepted change is shown: who was granted something may use it then."""
        principals = {acl.principal for acl in acls}
        until = time.monotonic() + CALL_SECONDS
        while not holds(self.of(principals)):
            if time.monotonic() > until:
                raise BrokerUnavailable(
                    f"Kafka at {servers_of(self._kafka)} accepted the change of the access list,"
                    f" but does not show it after {CALL_SECONDS:.0f} s"
                )
            time.sleep(SHOWN_POLL_SECONDS)

    def _call(self, what: str, need: Need, asked: Future[_T]) -> _T:
        try:
            return asked.result(CALL_SECONDS * 2)
        except KafkaException as fault:
            error = kafka_error(fault)
            if error.code() == KafkaError.SECURITY_DISABLED:
                raise self._without_list() from None
            self._client.poll(0)  # Serves `_heard`.
            raise self._fault(error, what, need) from None

    def _fault(self, error: KafkaError, what: str, need: Need) -> ProcessorError:
        fault = self._heard.told(error, self._kafka, what, need=need)
        if lacks_right(error):
            fault.hint = "run it as an administrator, or as a provisioner where it changes nothing"
        return fault


def _filter(principal: str) -> AclBindingFilter:
    return AclBindingFilter(
        ResourceType.ANY,
        None,  # type: ignore[arg-type]  # Any name; what the stubs say is what a binding takes.
        ResourcePatternType.ANY,
        principal,
        None,  # type: ignore[arg-type]  # Any host.
        AclOperation.ANY,
        AclPermissionType.ANY,
    )


def _binding(acl: Acl) -> AclBinding:
    return AclBinding(*_words(acl))


def _exact(acl: Acl) -> AclBindingFilter:
    return AclBindingFilter(*_words(acl))


def _words(acl: Acl) -> tuple[Any, ...]:
    client_names = {kafka: client for client, kafka in _RESOURCES.items()}
    resource = client_names.get(acl.resource, acl.resource)
    return (
        ResourceType[_upper(resource)],
        acl.name,
        ResourcePatternType[_upper(acl.pattern)],
        acl.principal,
        acl.host,
        AclOperation[_upper(acl.operation)],
        AclPermissionType[_upper(acl.permission)],
    )


def _acl(entry: AclBinding) -> Acl:
    resource = _lower(entry.restype.name)
    return Acl(
        principal=str(entry.principal),
        operation=_camel(entry.operation.name),
        resource=_RESOURCES.get(resource, resource),
        name=str(entry.name),
        pattern=_lower(entry.resource_pattern_type.name),
        permission=_lower(entry.permission_type.name),
        host=str(entry.host),
    )


def _camel(name: str) -> str:
    return "".join(part.title() for part in name.split("_"))


def _lower(name: str) -> str:
    return name.lower().replace("_", "-")


def _upper(name: str) -> str:
    """DescribeConfigs, transactional-id -> DESCRIBE_CONFIGS, TRANSACTIONAL_ID."""
    spaced = "".join(f"_{c}" if c.isupper() else c for c in name).lstrip("_")
    return spaced.replace("-", "_").upper()
