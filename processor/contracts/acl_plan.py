"""The least rights that each role needs on a cluster with ACLs, and what of them is there.

Rule 1: no right is planned that another planned one implies (Read, Write and Alter imply Describe,
AlterConfigs implies DescribeConfigs): each of them is needed, and taking it away breaks something.
Rule 2: names are literal, never prefixes: a worker of `mail` has no right on `mail-archive`.
Rule 3: rights are compared as they are written. A wider one that would do is beyond the plan.
Rule 4: where topics, roles or a group were chosen, nothing else of a principal is beyond the plan.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from processor.contracts.topic import Topic

Role = Literal["producer", "worker", "relay", "operator", "provisioner"]
ROLES: tuple[Role, ...] = get_args(Role)

CLUSTER = "kafka-cluster"  # What Kafka calls the one resource of the kind `cluster`.


@dataclass(frozen=True, slots=True)
class Acl:
    """One entry of the cluster's access list, in Kafka's own words."""

    principal: str
    operation: str
    resource: str
    name: str
    pattern: str = "literal"
    permission: str = "allow"
    host: str = "*"


@dataclass(frozen=True, slots=True)
class Right:
    """An entry that a role needs, and what for."""

    role: Role
    acl: Acl
    why: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """The planned rights that are there and those that are not, and what is there beyond them."""

    granted: tuple[Right, ...]
    missing: tuple[Right, ...]
    beyond: tuple[Acl, ...]


@dataclass(frozen=True, slots=True)
class Deployment:
    """What rights depend on beside the topics.

    `remembers`: workers have a ledger; without one they read the dead letters. `result_topics`:
    what handlers' `KafkaSink`s write to.
    """

    group: str
    remembers: bool = True
    result_topics: Sequence[str] = ()


def rights_of(
    principals: Mapping[Role, Sequence[str]], topics: Sequence[Topic], deployment: Deployment
) -> list[Right]:
    """List what each role's principals need, each entry once."""
    found: dict[Acl, Right] = {}
    for role, mine in principals.items():
        for principal in mine:
            for operation, resource, name, why in _needs(role, topics, deployment):
                acl = Acl(principal, operation, resource, name)
                found.setdefault(acl, Right(role, acl, why))
    return list(found.values())


def compare(
    rights: Sequence[Right], existing: Collection[Acl], spared: Collection[Acl] = ()
) -> Comparison:
    """Compare what is planned with what the cluster has of the same principals."""
    planned = {right.acl for right in rights}
    principals = {acl.principal for acl in planned}
    passed = planned.union(spared)
    beyond = [a for a in existing if a.principal in principals and a not in passed]
    return Comparison(
        granted=tuple(right for right in rights if right.acl in existing),
        missing=tuple(right for right in rights if right.acl not in existing),
        beyond=tuple(sorted(beyond, key=lambda a: (a.principal, a.resource, a.name, a.operation))),
    )


def spared(
    rights: Sequence[Right],
    existing: Collection[Acl],
    *,
    roles: Collection[Role],
    topics: Sequence[Topic],
    deployment: Deployment,
) -> set[Acl]:
    """Name the entries of which a choice of roles, topics and group says nothing.

    They lie on other resources, or another role of the principal may need them. A wider entry, a
    prefix or `*`, is not among them where it reaches a chosen topic.
    """
    chosen = {(right.acl.resource, right.acl.name) for right in rights}
    chosen |= {("topic", name) for topic in topics for name in topic.all_names}
    others: dict[Role, Sequence[str]] = {role: ("",) for role in ROLES if role not in roles}
    needed = {right.acl for right in rights_of(others, topics, deployment)}
    return {
        acl
        for acl in existing
        if replace(acl, principal="") in needed
        or not any(_reaches(acl, resource, name) for resource, name in chosen)
    }


def _reaches(acl: Acl, resource: str, name: str) -> bool:
    if acl.resource != resource:
        return False
    return name.startswith(acl.name) if acl.pattern == "prefixed" else acl.name in (name, "*")


_Need = tuple[str, str, str, str]  # Operation, resource, name, why.


def _needs(role: Role, topics: Sequence[Topic], deployment: Deployment) -> Iterable[_Need]:
    match role:
        case "producer":
            return _producer(topics)
        case "worker":
            return _worker(topics, deployment)
        case "relay":
            return _relay(topics)
        case "operator":
            return _operator(topics, deployment.group)
        case "provisioner":
            return _provisioner(topics)


def _producer(topics: Sequence[Topic]) -> Iterator[_Need]:
    for topic in topics:
        yield "Write", "topic", topic.name, "submits jobs"
        if topic.status.publish:
            yield "Read", "topic", topic.status_topic, "waits for outcomes (`submit --wait`)"


def _relay(topics: Sequence[Topic]) -> Iterator[_Need]:
    for topic in topics:
        yield "Write", "topic", topic.name, "submits the jobs of the outbox"


def _worker(topics: Sequence[Topic], deployment: Deployment) -> Iterator[_Need]:
    yield "Read", "group", deployment.group, "joins the group, commits what is settled"
    for topic in topics:
        yield "Read", "topic", topic.name, "reads jobs"
        for tier in topic.retry_topics:
            yield "Read", "topic", tier, "reads jobs that are tried again"
            yield "Write", "topic", tier, "appends jobs to be tried again, and its takeover marker"
        yield "Write", "topic", topic.dead_letter_topic, "appends dead letters"
        if not deployment.remembers:
            why = "looks for dead letters at a takeover: there is no ledger"
            yield "Read", "topic", topic.dead_letter_topic, why
        if topic.status.publish:
            yield "Write", "topic", topic.status_topic, "publishes outcomes"
    for name in deployment.result_topics:
        yield "Write", "topic", name, "appends results (`KafkaSink`)"


def _operator(topics: Sequence[Topic], group: str) -> Iterator[_Need]:
    yield "Describe", "group", group, "reads the group's offsets and members (`lag`, `why`)"
    for topic in topics:
        yield "Read", "topic", topic.name, "looks for a job (`why`)"
        yield "Write", "topic", topic.name, "replays dead jobs (`dead replay`)"
        for tier in topic.retry_topics:
            yield "Read", "topic", tier, "looks for a job that is tried again (`why`, `lag`)"
        yield "Read", "topic", topic.dead_letter_topic, "reads dead letters (`dead list`)"
        if topic.status.publish:
            yield "Read", "topic", topic.status_topic, "reads outcomes (`status`)"


def _provisioner(topics: Sequence[Topic]) -> Iterator[_Need]:
    yield "Describe", "cluster", CLUSTER, "reads the access list (`acls plan`)"
    for topic in topics:
        for spec in topic.all_topics(brokers=1):
            yield "Create", "topic", spec.name, "creates the topic (`topics apply`)"
            yield "Alter", "topic", spec.name, "adds partitions, where told to (`topics apply`)"
            yield "AlterConfigs", "topic", spec.name, "compares and sets its settings"
