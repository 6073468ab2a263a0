"""`processor status`: how a job ended."""

from __future__ import annotations

import sys

import click

from processor.cli import output

COLUMNS = (
    "job_id",
    "job_type",
    "state",
    "attempts",
    "at",
    "result",
    "error_message",
    "duplicate_of",
)


@click.command()
@click.argument("job_id", metavar="JOB_ID")
@click.option("--topic", "topic_name", help="The main topic; default: all declared ones.")
@output.json_option
def status(job_id: str, topic_name: str | None, as_json: bool) -> None:
    """Tell how a job ended. Exit 3: no outcome is kept (it has not ended, or is long past).

    \b
      processor status 01927f0e-8a5c-7cc3-9d5a-1f7f0f4c2b11
    """
    from processor.cli.declared import declared_topics
    from processor.settings import load_settings
    from processor.status import StatusReader

    settings = load_settings()
    topics = declared_topics(settings, (topic_name,) if topic_name else ())
    for topic in topics:
        if not topic.status.publish and not topic_name:
            continue
        found = StatusReader(settings, topic).find(job_id)
        if found is not None:
            output.emit([found], COLUMNS, as_json=as_json)
            return
    output.say(
        f"no outcome of job {job_id} is kept; `processor why {job_id}` tells whether it waits"
    )
    sys.exit(3)
