"""The group: where its reading begins, where it is, and which ledger its members share."""

from __future__ import annotations

from collections.abc import Iterator

from processor.check.facts import Facts
from processor.check.finding import Finding, Rule
from processor.contracts.topic import Topic

LOST = Rule(
    "group.offset-lost", "error",
    "a committed offset that is no longer on its topic",
    "jobs were deleted before they were worked, and workers stop when they come to it",
    'see "Records were lost to retention" in docs/deploying.md',
)  # fmt: skip
SKIPPED = Rule(
    "group.start-from", "error",
    "jobs on a topic where the group has committed nothing, with `worker.start_from = \"latest\"`",
    "the group begins behind them: they are never run",
    'set worker.start_from = "earliest", the default',
)  # fmt: skip
SHARED = Rule(
    "ledger.shared", "error",
    "members of the group on several machines with a ledger in a SQLite file",
    "each machine has a ledger of its own: jobs take effect twice, and held keys go on",
    "set ledger.url to a PostgreSQL database that all of them reach",
)  # fmt: skip

RULES = (LOST, SKIPPED, SHARED)


def find(facts: Facts) -> Iterator[Finding]:
    """Judge what the group has committed, and who is in it."""
    for topic in facts.topics:
        yield from _lost(topic, facts)
        yield from _skipped(topic, facts)
    if facts.settings.ledger.url.startswith("sqlite") and len(set(facts.hosts)) > 1:
        what = f"ledger.url is a file, and group `{facts.settings.worker.group}` has members at "
        yield SHARED.broken("ledger.url", what + ", ".join(sorted(set(facts.hosts))))


def _lost(topic: Topic, facts: Facts) -> Iterator[Finding]:
    for partition, at in (facts.offsets or {}).items():
        if partition.topic not in (topic.name, *topic.retry_topics) or at.committed is None:
            continue
        if at.committed < at.first:
            what = f"offset {at.committed} is committed, the first that is there is {at.first}"
        elif at.committed > at.end:
            what = f"offset {at.committed} is committed, and the topic ends at {at.end}"
        else:
            continue
        yield LOST.broken(str(partition), what)


def _skipped(topic: Topic, facts: Facts) -> Iterator[Finding]:
    if facts.settings.worker.start_from != "latest":
        return
    mine = [
        at
        for partition, at in (facts.offsets or {}).items()
        if partition.topic == topic.name and at.committed is None
    ]
    jobs = sum(each.end - each.first for each in mine)
    if jobs:
        what = f"group `{facts.settings.worker.group}` has committed nothing on {len(mine)}"
        yield SKIPPED.broken(topic.name, f"{what} partitions, which hold {jobs} records")
