"""An app's handlers against the declared topics, and what they need of the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from processor.check.facts import Facts
from processor.check.finding import Finding, Rule
from processor.contracts.topic import Topic
from processor.engine.job import JobSpec
from processor.engine.ports import TransactionalSink
from processor.settings import NO_LEDGER

MISSING = Rule(
    "handler.missing", "error",
    "a job type of a topic that the app works, and has no handler for",
    "its jobs would go to the dead-letter topic: the worker does not start",
    "register a handler, or take the job type out of the topic's file",
)  # fmt: skip
UNDECLARED = Rule(
    "handler.undeclared", "error",
    "a handler for a job type that no topic takes",
    "nobody can submit such a job, and the worker does not start",
    "add the job type to `jobs` of a topic's file",
)  # fmt: skip
SINK = Rule(
    "handler.sink", "error",
    "a Kafka sink whose schema is not registered",
    "no result could be written: the worker does not start",
    "register the schema of the sink",
)  # fmt: skip
LEDGER = Rule(
    "ledger.none", "error",
    "`ledger.url = \"none\"` with a topic or a sink that needs a ledger",
    "which keys are held, and whether an effect was written, is kept there: the worker does not"
    " start",
    "set ledger.url",
)  # fmt: skip

RULES = (MISSING, UNDECLARED, SINK, LEDGER)


def find(facts: Facts) -> Iterator[Finding]:
    """Judge the app, where one was given, and what goes without a ledger."""
    if facts.settings.ledger.url == NO_LEDGER:
        for subject, what, hint in without_ledger(facts.topics, facts.jobs or {}):
            yield LEDGER.broken(subject, what, mend=hint)
    if facts.jobs is None:
        return
    for topic in facts.topics:
        if topic.name in facts.served and (missing := missing_handlers(topic, facts.jobs)):
            jobs = ", ".join(f"`{job}`" for job in missing)
            yield MISSING.broken(topic.name, f"it takes {jobs}, and the app has no handler for it")
    for job in facts.undeclared_jobs:
        yield UNDECLARED.broken(job, f"no topic takes `{job}`")
    for job, fault in facts.sink_faults:
        yield SINK.broken(job, fault)


def missing_handlers(topic: Topic, jobs: Mapping[str, JobSpec]) -> list[str]:
    """Name the job types that a topic takes and that have no handler."""
    return [job for job in topic.jobs if job not in jobs]


def without_ledger(
    topics: Sequence[Topic], jobs: Mapping[str, JobSpec]
) -> Iterator[tuple[str, str, str]]:
    """Tell what cannot be promised where `ledger.url` is `none`: what of, why, and what to do."""
    hint = "set ledger.url, such as sqlite:///.processor/ledger.db"
    for topic in topics:
        if topic.dead_letter.policy == "hold":
            what = (
                f"topic `{topic.name}` has `dead_letter.policy: hold`, and ledger.url is `none`: "
                "which keys are held is kept in the ledger"
            )
            yield topic.name, what, f"{hint}, or use the policy `continue`"
        for job in topic.jobs:
            if job in jobs and any(isinstance(s, TransactionalSink) for s in jobs[job].sinks):
                what = (
                    f"the sink of `{job}` writes in the ledger's transaction, and ledger.url is "
                    "`none`"
                )
                yield job, what, f"{hint}, or use a sink that writes under the job's own name"
