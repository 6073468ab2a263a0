"""What producers do, by the latest records of the main topics; and clocks."""

from __future__ import annotations

from collections.abc import Iterator

from processor.check.facts import Facts
from processor.check.finding import Finding, Rule
from processor.contracts.partitioner import partition_of

SKEW_SECONDS_MAX = 30.0

PARTITIONER = Rule(
    "producer.partitioner", "error",
    "records whose key is not on the partition that murmur2 gives it",
    "a producer with another partitioner, or from before partitions were added: jobs of one key are"
    " on two partitions, and run side by side",
    "set `partitioner=murmur2_random` in that producer (docs/contracts.md)",
)  # fmt: skip
FUTURE = Rule(
    "clock.producer", "error",
    "records that were made in the future",
    "the clock of their producer is wrong: their start times and deadlines are, too, and the topic"
    " keeps them and all before them for longer",
    "set that machine's clock",
)  # fmt: skip
SKEW = Rule(
    "clock.skew", "error",
    f"a clock here that is {SKEW_SECONDS_MAX:g} s or more off the registry's or the store's",
    "jobs start late or early, deadlines pass unseen, and S3 refuses requests that are 15 minutes"
    " off",
    "set this machine's clock",
)  # fmt: skip

RULES = (PARTITIONER, FUTURE, SKEW)


def find(facts: Facts) -> Iterator[Finding]:
    """Judge the sample, and the clocks that told their time."""
    ordered = {each.name for each in facts.topics if each.ordering != "none"}
    wrong: dict[str, list[str]] = {}
    future: dict[str, list[float]] = {}
    for each in facts.sample:
        topic, number = each.partition
        if facts.cluster is not None and each.key is not None and topic in ordered:
            right = partition_of(each.key, facts.cluster.topics[topic].partitions)
            if right != number:
                told = f"offset {each.offset} of {each.partition} belongs to partition {right}"
                wrong.setdefault(topic, []).append(told)
        if each.at > facts.now + SKEW_SECONDS_MAX:
            future.setdefault(topic, []).append(each.at - facts.now)
    for topic, told_of in wrong.items():
        what = f"{len(told_of)} of the latest records, such as: {told_of[-1]}"
        yield PARTITIONER.broken(topic, what)
    for topic, ahead in future.items():
        what = f"{len(ahead)} of the latest records are up to {max(ahead):.0f} s ahead of our clock"
        yield FUTURE.broken(topic, what)
    for clock in facts.clocks:
        if abs(clock.ahead_seconds) >= SKEW_SECONDS_MAX:
            way = "ahead of" if clock.ahead_seconds > 0 else "behind"
            what = f"it is {abs(clock.ahead_seconds):.0f} s {way} ours"
            yield SKEW.broken(clock.of, what)
