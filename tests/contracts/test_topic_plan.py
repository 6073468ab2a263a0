from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from processor.contracts.topic_plan import (
    AddPartitions,
    Create,
    ExistingTopic,
    Refuse,
    Remark,
    SetConfig,
    plan,
)
from processor.contracts.topics import Topic


def topic(**more: Any) -> Topic:
    return Topic.model_validate(
        {"name": "copy", "jobs": ["a.b"], "partitions": 6, "retry": {"delays": ["1s"]}, **more}
    )


def cluster(declared: Topic, brokers: int = 3) -> dict[str, ExistingTopic]:
    return {
        spec.name: ExistingTopic(spec.name, spec.partitions, spec.replication, spec.config)
        for spec in declared.all_topics(brokers)
    }


def with_partitions(existing: dict[str, ExistingTopic], **counts: int) -> dict[str, ExistingTopic]:
    changed = {name.replace("__", "."): count for name, count in counts.items()}
    return {
        name: replace(each, partitions=changed.get(name, each.partitions))
        for name, each in existing.items()
    }


def test_empty_cluster_needs_every_topic():
    changes = plan([topic()], {}, brokers=3)

    names = [change.spec.name for change in changes if isinstance(change, Create)]
    assert names == ["copy", "copy.retry.1", "copy.dlt", "copy.status"]
    assert len(changes) == len(names)


def test_cluster_as_declared_needs_nothing():
    assert plan([topic()], cluster(topic()), brokers=3) == []


def test_setting_that_differs_is_set():
    changes = plan([topic(retention="1d")], cluster(topic(retention="2d")), brokers=3)

    assert changes == [
        SetConfig("copy", "retention.ms", "172800000", "86400000"),
        SetConfig("copy.retry.1", "retention.ms", "172800000", "86400000"),
    ]


def test_more_partitions_are_refused_unasked_and_the_reason_is_order():
    changes = plan([topic(partitions=7)], cluster(topic()), brokers=3)

    assert len(changes) == 4
    for change in changes:
        assert isinstance(change, Refuse)
        assert "moves keys to other partitions" in change.reason
        assert "--allow-partition-change" in change.hint


def test_more_partitions_are_added_when_asked_for():
    changes = plan([topic(partitions=7)], cluster(topic()), brokers=3, allow_partition_change=True)

    assert changes[:2] == [AddPartitions("copy", 6, 7), AddPartitions("copy.retry.1", 6, 7)]
    assert len(changes) == 4


@pytest.mark.parametrize("allowed", [False, True])
def test_fewer_partitions_are_refused_always(allowed: bool):
    changes = plan(
        [topic(partitions=5)], cluster(topic()), brokers=3, allow_partition_change=allowed
    )

    assert len(changes) == 4
    assert all(
        isinstance(change, Refuse) and "cannot take partitions away" in change.reason
        for change in changes
    )


def test_retry_topic_with_another_partition_count_is_refused():
    existing = with_partitions(cluster(topic()), copy__retry__1=3)

    (change,) = plan([topic()], existing, brokers=3)

    assert isinstance(change, Refuse)
    assert change.topic == "copy.retry.1"
    assert "topic `copy` has 6 partitions, `copy.retry.1` has 3" in change.reason


def test_replication_over_the_number_of_brokers_is_refused():
    changes = plan([topic(replication=3)], {}, brokers=1)

    assert all(isinstance(change, Refuse) for change in changes)
    assert "the cluster has 1 brokers" in getattr(changes[0], "reason", "")


def test_replication_that_differs_is_told_and_not_touched():
    changes = plan([topic(replication=2)], cluster(topic(replication=1)), brokers=3)

    assert [type(change) for change in changes] == [Remark] * 4


def test_insync_replicas_are_never_set_beyond_the_replicas_there_are():
    existing = cluster(topic(), brokers=1)

    changes = plan([topic()], existing, brokers=3)

    assert [type(change) for change in changes] == [Remark] * 4
    assert all("every write would be refused" in getattr(each, "reason", "") for each in changes)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("retention.bytes", "1000000", "-1"),
        ("unclean.leader.election.enable", "true", "false"),
    ],
)
def test_setting_that_loses_jobs_is_set_right_unless_the_file_asks_for_it(
    name: str, before: str, after: str
):
    existing = cluster(topic())
    found = {**existing["copy"].config, name: before}
    existing["copy"] = replace(existing["copy"], config=found)

    assert plan([topic()], existing, brokers=3) == [SetConfig("copy", name, before, after)]
    assert plan([topic(config={name: before})], existing, brokers=3) == []


def test_tier_that_is_no_longer_declared_is_told():
    existing = cluster(topic(retry={"delays": ["1s", "2s"]}))

    (change,) = plan([topic()], existing, brokers=3)

    assert isinstance(change, Remark)
    assert change.topic == "copy.retry.2"


def test_topics_of_others_are_left_alone():
    existing = {**cluster(topic()), "copy-else": ExistingTopic("copy-else", 1, 1, {})}

    assert plan([topic()], existing, brokers=3) == []
