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

    \b
      processor lag copy
    """
    from processor.contracts.builtin import topic_directories
    from processor.contracts.topics import TopicSet
    from processor.lag import lag_of
    from processor.settings import load_settings

    settings = load_settings(overrides={"worker.group": group})
    topics = TopicSet.load(topic_directories(settings))
    chosen = [topics.get(name) for name in topic_names or topics.names()]
    rows = [asdict(row) for t in chosen for row in lag_of(settings, t, settings.worker.group)]
    output.emit(rows, COLUMNS, as_json=as_json)
