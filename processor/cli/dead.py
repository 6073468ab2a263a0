"""`processor dead list | show`: look at dead letters."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any

import click

from processor.cli import output

COLUMNS = ("job_id", "job_type", "key", "attempts", "error_class", "error_message", "failed_at")


@click.group()
def dead() -> None:
    """List and show dead letters.

    \b
      processor dead list copy
    """


@dead.command("list")
@click.argument("topic_names", nargs=-1, metavar="[TOPIC]...")
@click.option("--job-type", help="Only this job type.")
@click.option("--key", help="Only this ordering key.")
@click.option("--error-class", help="Only this class of failure.")
@click.option("--limit", type=click.IntRange(1), help="At most so many.")
@output.json_option
def list_(
    topic_names: tuple[str, ...],
    job_type: str | None,
    key: str | None,
    error_class: str | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """List the dead letters that are kept.

    \b
      processor dead list copy --error-class ContractError
    """
    from processor.cli.declared import declared_topics
    from processor.dead import dead_letters
    from processor.settings import load_settings

    settings = load_settings()
    wanted = {"job_type": job_type, "key": key, "error_class": error_class}
    rows = (
        letter.row()
        for topic in declared_topics(settings, topic_names)
        for letter in dead_letters(settings, topic)
    )
    found = (
        row
        for row in rows
        if all(value is None or row[name] == value for name, value in wanted.items())
    )
    output.emit(islice(found, limit), COLUMNS, as_json=as_json)


@dead.command()
@click.argument("job_id", metavar="JOB_ID")
@click.option("--topic", "topic_name", help="The main topic; default: all declared ones.")
@output.json_option
def show(job_id: str, topic_name: str | None, as_json: bool) -> None:
    """Show a dead letter whole: headers, and its original bytes in base64. Exit 3: none.

    \b
      processor dead show 01927f0e-8a5c-7cc3-9d5a-1f7f0f4c2b11
    """
    from processor.cli.declared import declared_topics
    from processor.dead import dead_letters
    from processor.settings import load_settings

    settings = load_settings()
    found = [
        letter.details()
        for topic in declared_topics(settings, (topic_name,) if topic_name else ())
        for letter in dead_letters(settings, topic)
        if letter.job.job_id == job_id
    ]
    if not found:
        output.say(f"no dead letter of job {job_id} is kept")
        sys.exit(3)
    if as_json or not output.stdout_is_terminal():
        output.emit(found, (), as_json=True)
        return
    for details in found:
        output.emit(_named(details), ("name", "value"))


def _named(details: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Turn a letter on its side: one row for each field and each header."""
    for name, value in details.items():
        if isinstance(value, dict):
            yield from ({"name": f"{name}: {key}", "value": each} for key, each in value.items())
        else:
            yield {"name": name, "value": value}
