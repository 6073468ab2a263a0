"""`processor why`: where a job is, and why it does not run."""

from __future__ import annotations

import sys

import click

from processor.cli import output

COLUMNS = ("job_id", "state", "attempts", "next_try", "why", "source")


@click.command()
@click.argument("key_or_job_id", metavar="KEY|JOB_ID")
@click.option("--topic", "topic_name", help="The main topic; default: all declared ones.")
@click.option("--group", help="The workers' consumer group.  [env: PROCESSOR_WORKER_GROUP]")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most.")
@output.json_option
def why(
    key_or_job_id: str, topic_name: str | None, group: str | None, limit: int, as_json: bool
) -> None:
    """Tell where a job, or each job of a key, is and why it does not run. Exit 3: nothing is known.

    \b
      processor why customer-17 --topic orders
      processor why 01927f0e-8a5c-7cc3-9d5a-1f7f0f4c2b11
    """
    from itertools import islice

    from processor.cli.dead import ledger_of
    from processor.cli.declared import declared_topics
    from processor.settings import load_settings
    from processor.why import Fact, Waiting, remembered

    settings = load_settings(overrides={"worker.group": group})
    topics = declared_topics(settings, (topic_name,) if topic_name else ())
    ledger = ledger_of(settings)
    found: list[Fact] = []
    every = [Waiting(settings, topic, ledger) for topic in topics]
    for waiting in every:
        found += islice(waiting.facts(key_or_job_id), limit)
    if not found:
        ended = (waiting.ended(key_or_job_id) for waiting in every)
        found += islice((fact for fact in ended if fact is not None), 1)
    # The ledger is last: it serves all topics, and knows less of a job than its own.
    if not found and ledger is not None and (fact := remembered(ledger, key_or_job_id)):
        found.append(fact)
    if not found:
        output.say(
            f"nothing is known of `{key_or_job_id}`: no job with this key or id waits, is dead, or"
            " has an outcome that is kept"
        )
        sys.exit(3)
    output.emit((fact.row() for fact in found[:limit]), COLUMNS, as_json=as_json)
