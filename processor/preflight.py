"""What must hold before a worker starts: its ledger, its topics, its jobs' sinks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from processor.adapters.reader import TopicReader
from processor.app import App
from processor.check.handlers import missing_handlers, without_ledger
from processor.check.topics import sibling_fault
from processor.contracts.topics import Topic, TopicSet
from processor.engine.job import JobSpec
from processor.engine.ports import Ledger, Prepared, PreparingLedger
from processor.errors import UsageError
from processor.settings import NO_LEDGER, Settings

if TYPE_CHECKING:
    from processor.sinks.sql import SqlLedger


def open_ledger(settings: Settings, *, existing: bool = False) -> SqlLedger:
    """Open the ledger that the settings name; `existing`: not where it would be made anew."""
    scheme, _, rest = settings.ledger.url.partition("://")
    if scheme == "sqlite":
        from processor.sinks.sqlite import SqliteLedger

        path = Path(rest[1:] if rest.startswith("/") else rest)
        if existing and not path.exists():
            raise UsageError(
                f"there is no ledger at {path.absolute()}",
                hint="run it in the workers' folder, or set ledger.url as they have it",
            )
        return SqliteLedger(path)
    from processor.sinks.postgres import PostgresLedger

    return PostgresLedger(settings.ledger.url)


def ledger_of(settings: Settings) -> Ledger:
    """Open what a worker remembers in: a ledger, or none at all."""
    if settings.ledger.url == NO_LEDGER:
        from processor.sinks.no_ledger import NoLedger

        return NoLedger()
    return open_ledger(settings)


def served_topics(app: App, topics: TopicSet, chosen: Sequence[str]) -> list[Topic]:
    """Choose the topics to work: those named, or all that take a job type of the app.

    UsageError when a chosen topic takes a job type that the app has no handler for.
    """
    if chosen:
        served = [topics.get(name) for name in chosen]
    else:
        names = {spec.topic or topics.for_job(job).name for job, spec in app.jobs.items()}
        served = [topics.get(name) for name in sorted(names)]
    for topic in served:
        missing = missing_handlers(topic, app.jobs)
        if missing:
            raise UsageError(
                f"topic `{topic.name}` takes `{missing[0]}`, which this app has no handler for: "
                "its jobs would go to the dead-letter topic",
                hint="register a handler, or take the job type out of the topic's file",
            )
    return served


def check_topics(settings: Settings, topics: Sequence[Topic]) -> None:
    """Refuse to start where a topic is missing or a retry topic's partitions differ.

    Job p of a main topic is retried on partition p of its tiers: too few, and it could not be.
    Only the worker's own topics are asked for, so that it needs no rights on others.
    """
    with TopicReader(settings.kafka) as reader:
        for topic in topics:
            count = len(reader.partitions(topic.name))
            if topic.status.publish:
                reader.partitions(topic.status_topic)
            for name in (*topic.retry_topics, topic.dead_letter_topic):
                found = len(reader.partitions(name))
                if fault := sibling_fault(topic.name, count, name, found):
                    raise UsageError(fault, hint="run `processor topics plan`")


def check_certificates(settings: Settings) -> None:
    """Refuse whom to trust where it cannot be read: each job with an `https` source would die."""
    if settings.http.ca_file is not None:
        from processor.adapters.objects.http import HttpSource

        HttpSource(settings.http).close()


def check_without_ledger(topics: Sequence[Topic], jobs: Mapping[str, JobSpec]) -> None:
    """Refuse what cannot be promised where `ledger.url` is `none`."""
    for _, fault, hint in without_ledger(topics, jobs):
        raise UsageError(fault, hint=hint)


@runtime_checkable
class SharedLedger(Protocol):
    """A ledger that knows which groups have used it."""

    def groups(self, topic: str) -> list[str]:
        """Read which groups have ever owned a partition of a topic."""
        ...


def other_groups(ledger: Ledger, group: str, topics: Sequence[Topic]) -> str | None:
    """Tell when another group has worked one of the topics with this ledger."""
    if not isinstance(ledger, SharedLedger):
        return None
    for topic in topics:
        others = [each for each in ledger.groups(topic.name) if each != group]
        if others:
            return (
                f"group `{others[0]}` has worked topic `{topic.name}` with this ledger too: a job "
                f"that took effect in one group is done for all, and `{group}` does not run it. "
                "Groups that are each to run all jobs need ledgers of their own"
            )
    return None


def prepare_sinks(ledger: Ledger, topics: Sequence[Topic], jobs: Mapping[str, JobSpec]) -> None:
    """Have sinks make or check what they write to. UsageError: results could not be written."""
    from processor.sinks.kafka import KafkaSink

    for job in {job: None for topic in topics for job in topic.jobs}:
        for sink in jobs[job].sinks:
            if isinstance(sink, Prepared):
                if not isinstance(ledger, PreparingLedger):
                    raise UsageError(
                        f"a sink of `{job}` writes to a table in the ledger's database, and the "
                        "ledger has none",
                        hint="set ledger.url to the sink's database",
                    )
                ledger.prepare([sink])
            elif isinstance(sink, KafkaSink):
                sink.check()
