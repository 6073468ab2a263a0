"""`processor dead list | show`: look at dead letters."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from processor.cli import output

if TYPE_CHECKING:
    from processor.contracts.topics import Topic
    from processor.settings import Settings

COLUMNS = ("job_id", "job_type", "key", "attempts", "error_class", "error_message", "failed_at")


@click.group()
def dead() -> None:
    """List and show dead letters."""


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
    from processor.dead import dead_letters

    settings, topics = _chosen(topic_names)
    wanted = {"job_type": job_type, "key": key, "error_class": error_class}
    rows: list[dict[str, Any]] = []
    for topic in topics:
        for letter in dead_letters(settings, topic):
            row = letter.row()
            if all(value is None or row[name] == value for name, value in wanted.items()):
                rows.append(row)
            if limit is not None and len(rows) >= limit:
                break
    output.emit(rows[:limit], COLUMNS, as_json=as_json)


@dead.command()
@click.argument("job_id", metavar="JOB_ID")
@click.option("--topic", "topic_name", help="The main topic; default: all declared ones.")
def show(job_id: str, topic_name: str | None) -> None:
    """Show a dead letter whole: headers, and its original bytes in base64. Exit 3: none.

    \b
      processor dead show 01927f0e-8a5c-7cc3-9d5a-1f7f0f4c2b11
    """
    from processor.dead import dead_letters

    settings, topics = _chosen((topic_name,) if topic_name else ())
    found = [
        letter.details()
        for topic in topics
        for letter in dead_letters(settings, topic)
        if letter.job.job_id == job_id
    ]
    if not found:
        output.say(f"no dead letter of job {job_id} is kept")
        sys.exit(3)
    output.emit(found, tuple(found[0]), as_json=True)


def _chosen(names: tuple[str, ...]) -> tuple[Settings, list[Topic]]:
    from processor.contracts.builtin import topic_directories
    from processor.contracts.topics import TopicSet
    from processor.settings import load_settings

    settings = load_settings()
    topics = TopicSet.load(topic_directories(settings))
    return settings, [topics.get(name) for name in names or topics.names()]
