"""How long things are kept: jobs, dead letters, the group's offsets and the ledger's rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from processor.check.facts import Cluster, Facts
from processor.check.finding import Finding, Rule
from processor.contracts.topic import Topic
from processor.pruning import too_short
from processor.settings import NO_LEDGER

_APPLY = "processor topics apply {topic}"

RETENTION = Rule(
    "topic.retention", "error",
    "a main, retry or dead-letter topic that keeps records for a shorter time than declared",
    "Kafka deletes jobs that have not been worked, and dead letters nobody has looked at",
    _APPLY,
)  # fmt: skip
STATUS_RETENTION = Rule(
    "status.retention", "warning",
    "a status topic that keeps statuses for a shorter time than declared",
    "`processor status` does not know jobs that it should",
    _APPLY,
)  # fmt: skip
DELAYS = Rule(
    "topic.retention-delays", "error",
    "a main, retry or dead-letter topic that keeps records no longer than all delays together",
    "a job that waits for its next attempt, or behind one that does, is deleted before it",
    "lengthen `retention`, `retry.retention` or `dead_letter.retention` in the topic's file, or"
    " shorten the delays; then: " + _APPLY,
)  # fmt: skip
OFFSETS = Rule(
    "group.offsets-retention", "error",
    "brokers that forget a group's offsets sooner than a topic forgets its records",
    "after workers were away for longer, every job that the topic still has is run again, or with"
    " `worker.start_from = \"latest\"` those that wait are skipped",
    "set offsets.retention.minutes of the brokers to at least the retention",
)  # fmt: skip
LEDGER = Rule(
    "ledger.retention", "error",
    "a `ledger.retention` shorter than a job may come again, or a dead letter be replayed",
    "a job that comes again after its row is forgotten takes effect twice",
    "lengthen ledger.retention, or shorten `retention` in the topic's file",
)  # fmt: skip

RULES = (RETENTION, STATUS_RETENTION, DELAYS, OFFSETS, LEDGER)


def find(facts: Facts) -> Iterator[Finding]:
    """Compare the times for which things are kept."""
    if facts.cluster is not None:
        for topic in facts.topics:
            yield from _topics(topic, facts.cluster)
        yield from _offsets(facts, facts.cluster)
    yield from _ledger(facts)


def _topics(topic: Topic, cluster: Cluster) -> Iterator[Finding]:
    delays_seconds = sum(topic.delays_seconds) * (1 + topic.retry.jitter)
    for spec in topic.all_topics(cluster.brokers):
        declared = int(spec.config["retention.ms"])
        found = int(cluster.topics[spec.name].config.get("retention.ms", "-1")) if (
            spec.name in cluster.topics
        ) else declared  # fmt: skip
        status = spec.name == topic.status_topic
        mend = None
        if not status and 0 <= found / 1000 <= delays_seconds:
            rule = DELAYS
            what = f"it keeps records for {found / 1000:g} s, all delays together are"
            what += f" {delays_seconds:g} s"
            if declared < 0 or declared / 1000 > delays_seconds:  # The topic's file is right.
                mend = RETENTION.mend
        elif found >= 0 and (declared < 0 or found < declared):
            rule = STATUS_RETENTION if status else RETENTION
            what = f"retention.ms is {found}, declared is {declared}"
        else:
            continue
        yield rule.broken(spec.name, what, mend=(mend or rule.mend).replace("{topic}", topic.name))


def _offsets(facts: Facts, cluster: Cluster) -> Iterator[Finding]:
    minutes = cluster.settings.get("offsets.retention.minutes")
    if minutes is None:
        return
    for topic in facts.topics:
        read = [name for name in (topic.name, *topic.retry_topics) if name in cluster.kept]
        kept = [cluster.kept[name] for name in read]
        longest = None if None in kept else max((s for s in kept if s is not None), default=0.0)
        if longest is None or int(minutes) * 60 < longest:
            long = "for ever" if longest is None else f"for {longest / 60:.0f} minutes"
            what = f"offsets.retention.minutes is {minutes}, and it keeps records {long}"
            yield OFFSETS.broken(topic.name, what)


def _ledger(facts: Facts) -> Iterator[Finding]:
    if facts.settings.ledger.url == NO_LEDGER:
        return
    kept = facts.cluster.kept if facts.cluster is not None else {}
    for topic in facts.topics:
        fault = too_short(facts.settings.ledger.retention, [topic], kept=kept)
        if fault is not None:
            yield LEDGER.broken(topic.name, fault.partition(": ")[0])
        yield from _letters(topic, facts.settings.ledger.retention, kept)


def _letters(
    topic: Topic, ledger_seconds: float, kept: Mapping[str, float | None]
) -> Iterator[Finding]:
    """Rows of jobs with a letter are kept as long as the file says that the letter is."""
    declared = topic.dead_letter.retention_seconds
    if declared is None or topic.dead_letter_topic not in kept:
        return
    remembered = max(ledger_seconds, declared)
    found = kept[topic.dead_letter_topic]
    if found is None or found > remembered:
        long = "for ever" if found is None else f"for {found:.0f} s"
        what = f"it keeps dead letters {long}, and the ledger knows their jobs for {remembered:.0f}"
        mend = f"processor topics apply {topic.name}"
        yield LEDGER.broken(topic.dead_letter_topic, f"{what} s", mend=mend)
