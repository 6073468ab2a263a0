"""`processor lag`: what waits, by partition."""

from __future__ import annotations

from dataclasses import asdict

import click

from processor.cli import output

COLUMNS = ("topic", "partition", "end", "committed", "lag", "in_flight", "retrying", "dead")


@click.command()
@click.argument("topic_names", nargs=-1, metavar="[TOPIC]...")
@click.option("--group", help="The consumer group.  [env: PROCESSOR_WORKER_GROUP]")
@output.json_option
def lag(topic_names: tuple[str, ...], group: str | None, as_json: bool) -> None:
    """Show for each partition its end, what is committed, in flight, retrying and dead.

    lag: not committed on the main topic. in_flight: of these, with a worker at its last commit.
    retrying: records in the retry tiers, parked and delayed ones included. dead: records on the
    dead-letter topic, held, replayed and purged ones included; `processor dead list` tells what is
    open.

    \b
      processor lag copy
    """
    from processor.cli.declared import declared_topics
    from processor.lag import lag_of
    from processor.settings import load_settings

    settings = load_settings(overrides={"worker.group": group})
    topics = declared_topics(settings, topic_names)
    rows = [asdict(row) for t in topics for row in lag_of(settings, t, settings.worker.group)]
    output.emit(rows, COLUMNS, as_json=as_json)
