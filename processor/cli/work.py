"""`processor work`: run a worker, or several, until told to stop."""

from __future__ import annotations

import click


@click.command()
@click.argument("target", metavar="MODULE:APP")
@click.option("--topic", "topics", multiple=True, help="Serve this topic; default: all of the app.")
@click.option("--group", help="The consumer group.  [env: PROCESSOR_WORKER_GROUP]")
@click.option(
    "--concurrency",
    type=click.IntRange(1, 1000),
    help="Threads for handlers.  [env: PROCESSOR_WORKER_CONCURRENCY]",
)
@click.option(
    "--processes", type=click.IntRange(1, 256), default=1, show_default=True, help="Workers to run."
)
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    help="Serve /metrics, /healthz, /readyz; 0: any.  [env: PROCESSOR_WORKER_METRICS_PORT]",
)
def work(
    target: str,
    topics: tuple[str, ...],
    group: str | None,
    concurrency: int | None,
    processes: int,
    metrics_port: int | None,
) -> None:
    """Run the handlers of an app on the jobs of its topics.

    SIGTERM finishes or hands back what runs, commits and leaves the group; a second one ends the
    worker at once.

    \b
      processor work processor.jobs:app --topic copy --processes 2
    """
    from processor.serve import Served, load_app
    from processor.settings import load_settings

    overrides = {
        "worker.group": group,
        "worker.concurrency": concurrency,
        "worker.metrics_port": metrics_port,
    }
    settings = load_settings(overrides=overrides)
    if processes == 1:
        Served(load_app(target), settings, topics=topics).run()
        return
    from processor.supervisor import supervise

    load_app(target)  # A fault of the module is told once, here.
    arguments = ["work", target]
    for topic in topics:
        arguments += ["--topic", topic]
    for flag, value in (("--group", group), ("--concurrency", concurrency)):
        if value is not None:
            arguments += [flag, str(value)]
    supervise(arguments, processes=processes, settings=settings)
