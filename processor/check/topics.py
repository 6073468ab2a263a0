"""The topics against their files: missing ones, partitions, replicas, and what deletes jobs."""

from __future__ import annotations

from collections.abc import Iterator

from processor.check.facts import Cluster, Facts
from processor.check.finding import Finding, Rule
from processor.contracts.topic import Topic, TopicSpec
from processor.contracts.topic_plan import (
    Create,
    ExistingTopic,
    Refuse,
    Remark,
    SetConfig,
    plan,
)

_APPLY = "processor topics apply {topic}"

MISSING = Rule(
    "topic.missing", "error",
    "a declared topic that the cluster does not have",
    "workers do not start without it, and its jobs are refused",
    _APPLY,
)  # fmt: skip
PARTITIONS = Rule(
    "topic.partitions", "error",
    "a main, retry or dead-letter topic whose partition count is not the declared one",
    "job p is retried and buried on partition p: where there is none its partition stands still;"
    " and a count that changes moves keys: a key's later jobs run before its earlier ones are done",
    "drain the topic, then: " + _APPLY + " --allow-partition-change",
)  # fmt: skip
STATUS_PARTITIONS = Rule(
    "status.partitions", "warning",
    "a status topic whose partition count is not the declared one",
    "a job's statuses go to different partitions, where the earlier one is never compacted away",
    _APPLY + " --allow-partition-change",
)  # fmt: skip
REPLICATION = Rule(
    "topic.replication", "error",
    "a partition with fewer replicas than are declared, or with one where there are more brokers",
    "acknowledged jobs are lost with the disk that they are on",
    "kafka-reassign-partitions (Kafka's own tool), and `replication` in the topic's file",
)  # fmt: skip
INSYNC = Rule(
    "topic.min-insync-replicas", "error",
    "a `min.insync.replicas` that is over the replicas, as many as them, or 1 of 3",
    "too many refuse every write, or do while one broker is down; with 1 an acknowledged job may be"
    " on a single broker, and is lost with it",
    _APPLY,
)  # fmt: skip
CLEANUP = Rule(
    "topic.cleanup-policy", "error",
    "a main, retry or dead-letter topic that is compacted",
    "compaction deletes all but a key's latest job, worked or not",
    _APPLY,
)  # fmt: skip
STATUS_CLEANUP = Rule(
    "status.cleanup-policy", "warning",
    "a status topic that is not compacted and deleted as declared",
    "statuses of jobs fill it, or are looked through for longer than need be",
    _APPLY,
)  # fmt: skip
RETENTION_BYTES = Rule(
    "topic.retention-bytes", "error",
    "a main, retry or dead-letter topic with a limit of its size",
    "Kafka deletes the oldest jobs at the limit, worked or not, long before their retention",
    _APPLY,
)  # fmt: skip
UNCLEAN = Rule(
    "topic.unclean-leader-election", "error",
    "a topic that lets a replica lead which is not in sync",
    "it takes the lead without the latest acknowledged jobs, and they are gone",
    _APPLY,
)  # fmt: skip
MESSAGE_BYTES = Rule(
    "topic.max-message-bytes", "error",
    "a topic that takes smaller records than `message_max` with its headers needs",
    "a job is refused at submission; a copy that its retry topic refuses stops its partition",
    _APPLY,
)  # fmt: skip
UNDECLARED = Rule(
    "topic.undeclared", "error",
    "a retry topic that exists and is not declared any more, with jobs in it",
    "no worker reads it: the jobs that wait in it are never run",
    "declare its delay again in the topic's file until `processor lag` shows that it is empty",
)  # fmt: skip
LEFT_OVER = Rule(
    "topic.left-over", "warning",
    "a retry topic that exists and is not declared any more, with nothing in it",
    "if its delay is declared again, it is used with its old settings",
    "kafka-topics --delete --topic {topic} (Kafka's own tool)",
)  # fmt: skip
CONFIG = Rule(
    "topic.config", "warning",
    "a setting of a topic that differs from its file and loses no job",
    "the next `topics apply` changes it, wanted or not",
    _APPLY,
)  # fmt: skip

RULES = (
    MISSING, PARTITIONS, STATUS_PARTITIONS, REPLICATION, INSYNC, CLEANUP, STATUS_CLEANUP,
    RETENTION_BYTES, UNCLEAN, MESSAGE_BYTES, UNDECLARED, LEFT_OVER, CONFIG,
)  # fmt: skip

# Settings that have a rule of their own: here, or (retention) in retention.py.
_RULED = {
    "cleanup.policy", "max.message.bytes", "min.insync.replicas", "retention.bytes",
    "retention.ms", "unclean.leader.election.enable",
}  # fmt: skip


def find(facts: Facts) -> Iterator[Finding]:
    """Compare the declared topics with the cluster's."""
    if facts.cluster is None:
        return
    for topic in facts.topics:
        yield from _differences(topic, facts, facts.cluster)
        for spec in topic.all_topics(facts.cluster.brokers):
            found = facts.cluster.topics.get(spec.name)
            if found is not None:
                yield from _replicas(topic, spec, found, facts.cluster)
                yield from _deleting(topic, spec, found)


def sibling_fault(topic: str, count: int, sibling: str, found: int) -> str | None:
    """Say it when a retry or dead-letter topic has too few partitions for its main topic."""
    if found >= count:
        return None
    return (
        f"topic `{topic}` has {count} partitions, `{sibling}` has {found}: job p is retried and"
        " buried on partition p"
    )


def _broken(rule: Rule, topic: Topic, subject: str, what: str, mend: str | None = None) -> Finding:
    told = (rule.mend if mend is None else mend).replace("{topic}", topic.name)
    return rule.broken(subject, what, mend=told)


def _differences(topic: Topic, facts: Facts, cluster: Cluster) -> Iterator[Finding]:
    """Judge what `topics plan` tells: what loses jobs is an error."""
    changes = plan([topic], cluster.topics, brokers=cluster.brokers)
    missing = [change.spec.name for change in changes if isinstance(change, Create)]
    if missing:
        what = f"the cluster does not have {', '.join(f'`{name}`' for name in missing)}"
        yield _broken(MISSING, topic, topic.name, what)
    for change in changes:
        match change:
            case Refuse(name, reason, hint) if name not in cluster.topics:
                yield _broken(MISSING, topic, name, reason, hint)
            case Refuse(name, reason, hint):
                yield _partitions(topic, name, reason, hint, cluster)
            case Remark(name, _) if name not in topic.all_names:
                yield _undeclared(topic, name, facts)
            case SetConfig(name, setting, before, after) if setting not in _RULED:
                what = f"{setting} is {before}, declared is {after}"
                yield _broken(CONFIG, topic, name, what)
            case _:
                pass  # Judged below, or in retention.py, by what the cluster has.


def _partitions(topic: Topic, name: str, reason: str, hint: str, cluster: Cluster) -> Finding:
    main, found = cluster.topics.get(topic.name), cluster.topics[name]
    rule = STATUS_PARTITIONS if name == topic.status_topic else PARTITIONS
    mend = hint if found.partitions > topic.partitions else None
    if main is not None and rule is PARTITIONS:
        fault = sibling_fault(topic.name, main.partitions, name, found.partitions)
        reason = fault or reason
    return _broken(rule, topic, name, reason, mend)


def _undeclared(topic: Topic, name: str, facts: Facts) -> Finding:
    mine = [at for partition, at in (facts.offsets or {}).items() if partition.topic == name]
    waiting = sum(each.waiting for each in mine)
    if waiting:
        what = f"`{name}` is not declared, and {waiting} records wait in it"
        return _broken(UNDECLARED, topic, name, what)
    if not mine:
        what = f"`{name}` is not declared, and jobs may wait in it"
        return _broken(UNDECLARED, topic, name, what)
    mend = LEFT_OVER.mend.replace("{topic}", name)
    return _broken(LEFT_OVER, topic, name, f"`{name}` is not declared, and is empty", mend)


def _replicas(
    topic: Topic, spec: TopicSpec, found: ExistingTopic, cluster: Cluster
) -> Iterator[Finding]:
    if found.replication < spec.replication:
        what = f"{found.replication} replicas, declared are {spec.replication}"
        yield _broken(REPLICATION, topic, spec.name, what)
    elif found.replication == 1 and cluster.brokers > 1:
        what = f"1 replica, and the cluster has {cluster.brokers} brokers"
        yield _broken(REPLICATION, topic, spec.name, what)
    insync = int(found.config.get("min.insync.replicas", "1"))
    wanted = int(spec.config.get("min.insync.replicas", "1"))
    what = f"min.insync.replicas is {insync} of {found.replication} replicas"
    mend = None
    if "min.insync.replicas" not in spec.config or wanted > found.replication:
        mend = f"set min.insync.replicas={min(wanted, found.replication)} with kafka-configs"
        mend += " (Kafka's own tool)"
    if insync > found.replication:
        yield _broken(INSYNC, topic, spec.name, f"{what}: every write is refused", mend)
    elif insync == found.replication > 1:
        yield _broken(INSYNC, topic, spec.name, f"{what}: no broker may be down", mend)
    elif found.replication >= 3 and insync < wanted:
        yield _broken(INSYNC, topic, spec.name, f"{what}, declared is {wanted}")


def _deleting(topic: Topic, spec: TopicSpec, found: ExistingTopic) -> Iterator[Finding]:
    """Find settings by which Kafka deletes or refuses what it should keep."""
    config = found.config
    policy = config.get("cleanup.policy", "delete")
    wanted = spec.config["cleanup.policy"]
    if set(policy.split(",")) != set(wanted.split(",")):
        rule = STATUS_CLEANUP if spec.name == topic.status_topic else CLEANUP
        yield _broken(rule, topic, spec.name, f"cleanup.policy is {policy}, expected is {wanted}")
    limit = int(config.get("retention.bytes", "-1"))
    if limit >= 0 and spec.name != topic.status_topic:
        what = f"retention.bytes is {limit} for each partition, expected is -1: no limit"
        own = "retention.bytes" in topic.config
        yield _broken(
            RETENTION_BYTES, topic, spec.name, what,
            "take `retention.bytes` out of `config` in the topic's file" if own else None,
        )  # fmt: skip
    if config.get("unclean.leader.election.enable") == "true":
        what = "unclean.leader.election.enable is true, expected is false"
        yield _broken(UNCLEAN, topic, spec.name, what)
    bytes_max, needed = config.get("max.message.bytes"), int(spec.config["max.message.bytes"])
    if bytes_max is not None and int(bytes_max) < needed:
        what = f"max.message.bytes is {bytes_max}, needed is {needed}"
        yield _broken(MESSAGE_BYTES, topic, spec.name, what)
