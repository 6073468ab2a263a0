"""`processor outbox`: the transactional outbox's table and its relay."""

from __future__ import annotations

import click

from processor.cli import output

_url = click.option(
    "--url", help="The database: postgresql://… or sqlite:///…  [env: PROCESSOR_OUTBOX_URL]"
)


@click.group()
def outbox() -> None:
    """Submit jobs with your own transactions: make the table, relay its rows.

    \b
      processor outbox create --url postgresql://app@db/orders
      processor outbox relay --url postgresql://app@db/orders
    """


@outbox.command()
@_url
def create(url: str | None) -> None:
    """Make the table processor_outbox where there is none.

    \b
      processor outbox create --url sqlite:///app.db
    """
    from processor.outbox.rows import open_rows

    rows = open_rows(_settings_of(url)[1])
    rows.create()
    rows.close()
    output.say("the table processor_outbox is there")


@outbox.command()
@click.option("--sqlite", is_flag=True, help="For SQLite; default: for PostgreSQL.")
def sql(sqlite: bool) -> None:
    """Print the table's statements, for your own migrations.

    \b
      processor outbox sql > migrations/007_outbox.sql
    """
    from processor.outbox.table import POSTGRES, SQLITE

    click.echo((SQLITE if sqlite else POSTGRES).strip())


@outbox.command()
@_url
@click.option("--once", is_flag=True, help="End when nothing is left that may be sent.")
@click.option("--poll-seconds", type=click.FloatRange(0.05, 60), default=1.0, show_default=True,
              help="How often to look where nobody tells of new rows.")  # fmt: skip
@click.option("--metrics-port", type=click.IntRange(0, 65535),
              help="Serve /metrics, /healthz, /readyz; 0: any.")  # fmt: skip
def relay(url: str | None, once: bool, poll_seconds: float, metrics_port: int | None) -> None:
    """Bring committed rows to Kafka, each key in order. Several relays share the work.

    \b
      processor outbox relay --url postgresql://app@db/orders
    """
    from processor.outbox.serve import serve

    settings, found = _settings_of(url)
    serve(settings, found, once=once, poll_seconds=poll_seconds, metrics_port=metrics_port)


def _settings_of(url: str | None):  # type: ignore[no-untyped-def]
    from processor.errors import UsageError
    from processor.settings import load_settings

    settings = load_settings(overrides={"outbox.url": url})
    if settings.outbox.url is None:
        raise UsageError(
            "no database is named whose outbox is meant",
            hint="give --url, or set outbox.url in processor.toml",
        )
    return settings, settings.outbox.url
