"""What has to change in a cluster for it to be as the topic files declare: pure comparison.

Rule 1: partitions are never added unasked. A key's partition is its hash modulo their number: with
another number keys move, and a key's later jobs run beside its earlier ones.
Rule 2: partitions are never taken away; Kafka cannot.
Rule 3: a retry record keeps its job's partition number, so all of a topic's partition counts agree.
Rule 4: what only a person can mend (replication, a tier no longer declared) is told, not touched.
Rule 5: what would lose jobs is set right although no file names it, unless a topic's own `config`
asks for it. It is not asked for at creation: some hosted clusters refuse to be told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from processor.contracts.topic import Topic, TopicSpec


@dataclass(frozen=True, slots=True)
class ExistingTopic:
    """A topic as the cluster has it. `replication` is the lowest of its partitions."""

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Create:
    """A topic that is not there."""

    spec: TopicSpec


@dataclass(frozen=True, slots=True)
class AddPartitions:
    """Partitions to add, which was asked for explicitly."""

    topic: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class SetConfig:
    """A topic setting that differs."""

    topic: str
    name: str
    before: str | None
    after: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """A difference that is not mended unasked, or not at all: nothing is applied beside it."""

    topic: str
    reason: str
    hint: str


@dataclass(frozen=True, slots=True)
class Remark:
    """Something a person should know; it stops nothing."""

    topic: str
    reason: str


Change = Create | AddPartitions | SetConfig | Refuse | Remark


_SAFE = {"retention.bytes": "-1", "unclean.leader.election.enable": "false"}


def plan(
    topics: Sequence[Topic],
    existing: Mapping[str, ExistingTopic],
    *,
    brokers: int,
    allow_partition_change: bool = False,
) -> list[Change]:
    """Compare the declared topics with the cluster's, the main topic of each first."""
    changes: list[Change] = []
    for topic in topics:
        for spec in topic.all_topics(brokers):
            found = existing.get(spec.name)
            if found is None:
                changes.extend(_create(topic, spec, brokers))
                continue
            changes.extend(_partition_changes(topic, spec, found, existing, allow_partition_change))
            changes.extend(_replication_remarks(topic, spec, found))
            changes.extend(_config_changes(spec, found))
            changes.extend(_unsafe_settings(spec, found))
        changes.extend(_undeclared_tiers(topic, existing))
    return changes


def _create(topic: Topic, spec: TopicSpec, brokers: int) -> Iterator[Change]:
    if spec.replication > brokers:
        yield Refuse(
            spec.name,
            f"replication {spec.replication} is declared, the cluster has {brokers} brokers",
            f"lower `replication` of topic `{topic.name}`, or leave it out",
        )
    else:
        yield Create(spec)


def _partition_changes(
    topic: Topic,
    spec: TopicSpec,
    found: ExistingTopic,
    existing: Mapping[str, ExistingTopic],
    allowed: bool,
) -> Iterator[Change]:
    main = existing.get(topic.name)
    if found.partitions > spec.partitions:
        yield Refuse(
            spec.name,
            f"topic `{spec.name}` has {found.partitions} partitions, {spec.partitions} are"
            " declared; Kafka cannot take partitions away",
            f"set `partitions: {found.partitions}`, or drain and delete the topic first",
        )
    elif found.partitions < spec.partitions:
        if allowed:
            yield AddPartitions(spec.name, found.partitions, spec.partitions)
        elif main is not None and main.partitions != found.partitions:
            yield Refuse(
                spec.name,
                f"topic `{topic.name}` has {main.partitions} partitions, `{spec.name}` has"
                f" {found.partitions}; a retry keeps its job's partition number",
                "run it again with --allow-partition-change to bring them all to"
                f" {spec.partitions}",
            )
        else:
            yield Refuse(
                spec.name,
                f"topic `{spec.name}` has {found.partitions} partitions, {spec.partitions} are"
                " declared; adding them moves keys to other partitions, so a key's later jobs may"
                " run before its earlier ones are done",
                "drain the topic, then run it again with --allow-partition-change",
            )


def _replication_remarks(topic: Topic, spec: TopicSpec, found: ExistingTopic) -> Iterator[Change]:
    if topic.replication is not None and found.replication != topic.replication:
        yield Remark(
            spec.name,
            f"replication is {found.replication}, {spec.replication} is declared: move replicas"
            " with kafka-reassign-partitions",
        )


def _config_changes(spec: TopicSpec, found: ExistingTopic) -> Iterator[Change]:
    for name, value in sorted(spec.config.items()):
        before = found.config.get(name)
        if before == value:
            continue
        if name == "min.insync.replicas" and int(value) > found.replication:
            yield Remark(
                spec.name,
                f"min.insync.replicas={value} needs as many replicas, it has {found.replication}:"
                " every write would be refused; add replicas first",
            )
        else:
            yield SetConfig(spec.name, name, before, value)


def _unsafe_settings(spec: TopicSpec, found: ExistingTopic) -> Iterator[Change]:
    for name, value in _SAFE.items():
        before = found.config.get(name)
        if before is not None and before != value and name not in spec.config:
            yield SetConfig(spec.name, name, before, value)


def _undeclared_tiers(topic: Topic, existing: Mapping[str, ExistingTopic]) -> Iterator[Change]:
    pattern = re.compile(re.escape(topic.name) + r"\.retry\.\d+")
    for name in sorted(existing):
        if pattern.fullmatch(name) and name not in topic.retry_topics:
            yield Remark(
                name,
                "it exists but is not declared any more: no worker reads it, and jobs may wait in"
                " it; declare the delay again until it is empty",
            )
