"""`processor dead`: look at dead letters, replay, release and purge them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import click

from processor.cli import output

if TYPE_CHECKING:
    from processor.dead import Filter
    from processor.engine.operations import OperatorLedger
    from processor.settings import Settings

COLUMNS = ("job_id", "job_type", "key", "state", "attempts", "error_class", "error_message",
           "failed_at")  # fmt: skip
GROUP_FIELDS = ("fingerprint", "error_class", "job_type", "key")

_Command = TypeVar("_Command", bound=Callable[..., Any])


@click.group()
def dead() -> None:
    """Look at dead letters; replay, release and purge them.

    \b
      processor dead list copy --group-by fingerprint
      processor dead replay copy --error-class ConnectionError --since 2h --dry-run
    """


def filter_options(command: _Command) -> _Command:
    """Add the options that choose letters; `filter_of` takes them."""
    for option in (
        click.option("--until", metavar="TIME", help="Failed before: 2h (ago) or an ISO time."),
        click.option("--since", metavar="TIME", help="Failed since: 2h (ago) or an ISO time."),
        click.option("--origin", metavar="POSITION", help="Only this job: topic-partition-offset."),
        click.option("--job-id", help="Only this job."),
        click.option("--fingerprint", help="Only this fingerprint of failures."),
        click.option("--error-class", help="Only this class of failure."),
        click.option("--key", help="Only this ordering key."),
        click.option("--job-type", help="Only this job type."),
    ):
        command = option(command)
    return command


def filter_of(*, state: str | None = None, **given: str | None) -> Filter:
    """Make a filter of the options' values. Raises UsageError for a time that is none."""
    from processor.dead import Filter

    since, until = given.pop("since", None), given.pop("until", None)
    return Filter(state=state, since=_time(since), until=_time(until), **given)


def ledger_of(settings: Settings, *, needed: bool = False) -> OperatorLedger | None:
    """Open the workers' ledger; None where they have none, or where it is not here and not needed.

    It must exist: one made here would be empty, and tell that nothing was ever done.
    """
    from processor.errors import UsageError
    from processor.preflight import open_ledger
    from processor.settings import NO_LEDGER

    if settings.ledger.url == NO_LEDGER:
        return None
    try:
        return open_ledger(settings, existing=True)
    except UsageError as missing:
        if needed:
            raise
        output.say(f"{missing.message}: what became of dead jobs since is not known")
        return None


def _kept_in(settings: Settings) -> OperatorLedger | None:
    """Open the workers' ledger, which must be here where they have one."""
    ledger = ledger_of(settings, needed=True)
    if ledger is None:
        output.say("ledger.url is `none`: no key is held, and nothing is kept of what was done")
    return ledger


@dead.command("list")
@click.argument("topic_names", nargs=-1, metavar="[TOPIC]...")
@filter_options
@click.option("--state", type=click.Choice(["dead", "held", "done", "purged"]),
              help="Only these; default: dead and held.")  # fmt: skip
@click.option("--all", "all_states", is_flag=True, help="Also those done since, and purged ones.")
@click.option("--group-by", type=click.Choice(GROUP_FIELDS), help="Count them by this.")
@click.option("--limit", type=click.IntRange(1), help="At most so many.")
@output.json_option
def list_(
    topic_names: tuple[str, ...],
    state: str | None,
    all_states: bool,
    group_by: str | None,
    limit: int | None,
    as_json: bool,
    **given: str | None,
) -> None:
    """List the jobs that are dead, or held behind a dead one of their key.

    \b
      processor dead list copy --error-class ContractError
      processor dead list --group-by fingerprint
    """
    from processor.cli.declared import declared_topics
    from processor.dead import dead_letters, grouped
    from processor.settings import load_settings

    settings = load_settings()
    wanted = filter_of(state=state, **given)
    states = ("dead", "held", "done", "purged") if all_states or state else ("dead", "held")
    topics = declared_topics(settings, topic_names)
    ledger = ledger_of(settings)
    found = (
        letter
        for topic in topics
        for letter in dead_letters(settings, topic, ledger)
        if letter.state in states and wanted.takes(letter)
    )
    if group_by is not None:
        columns = (group_by, "jobs", "keys", "last_failed_at", "example", "example_job")
        output.emit(islice(grouped(found, group_by), limit), columns, as_json=as_json)
        return
    output.emit((letter.row() for letter in islice(found, limit)), COLUMNS, as_json=as_json)


@dead.command()
@click.argument("job_id", metavar="JOB_ID")
@click.option("--topic", "topic_name", help="The main topic; default: all declared ones.")
@output.json_option
def show(job_id: str, topic_name: str | None, as_json: bool) -> None:
    """Show a dead letter whole: headers, and its original bytes in base64. Exit 3: none.

    \b
      processor dead show 01927f0e-8a5c-7cc3-9d5a-1f7f0f4c2b11
    """
    from dataclasses import replace

    from processor.cli.declared import declared_topics
    from processor.dead import dead_letters, fetched
    from processor.settings import load_settings

    settings = load_settings()
    topics = declared_topics(settings, (topic_name,) if topic_name else ())
    ledger = ledger_of(settings)
    found = [
        replace(dead, letter=letter).details()
        for topic in topics
        for dead in dead_letters(settings, topic, ledger)
        if dead.job.job_id == job_id
        for letter in fetched(settings, [dead.letter])
    ]
    if not found:
        output.say(f"no dead letter of job {job_id} is kept")
        sys.exit(3)
    if as_json or not output.stdout_is_terminal():
        output.emit(found, (), as_json=True)
        return
    for details in found:
        output.emit(_named(details), ("name", "value"))


@dead.command()
@click.argument("topic_names", nargs=-1, metavar="[TOPIC]...")
@output.json_option
def keys(topic_names: tuple[str, ...], as_json: bool) -> None:
    """List the keys that are held since a job of theirs died (`dead_letter.policy: hold`).

    \b
      processor dead keys orders
    """
    from processor.cli.declared import declared_topics
    from processor.model import iso
    from processor.settings import load_settings

    settings = load_settings()
    topics = declared_topics(settings, topic_names)
    ledger = _kept_in(settings)
    rows = [
        {
            "topic": topic.name,
            "partition": each.partition,
            "key": each.key.decode(errors="replace"),
            "held": each.held,
            "since": iso(round(each.at * 1000)),
            "dead_job": f"{topic.name}-{each.partition}-{each.offset}",
            "replay": each.replay,
        }
        for topic in topics
        for each in (ledger.closed_keys(settings.worker.group, topic.name) if ledger else ())
    ]
    output.emit(rows, ("topic", "partition", "key", "held", "since", "dead_job"), as_json=as_json)


@dead.command()
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="The newest.")
@output.json_option
def audit(limit: int, as_json: bool) -> None:
    """List what operators did: who replayed, released or purged what, and how far it came.

    \b
      processor dead audit --limit 10
    """
    from processor.model import iso
    from processor.settings import load_settings

    ledger = _kept_in(load_settings())
    rows = [
        {
            "number": each.number,
            "action": each.action,
            "topic": each.topic,
            "group": each.group,
            "who": each.who,
            "filters": dict(each.filters),
            "state": each.state,
            "jobs": each.jobs,
            "keys": each.keys,
            "at": iso(round(each.at * 1000)),
            "ended_at": iso(round(each.ended_at * 1000)) if each.ended_at else None,
        }
        for each in (ledger.operations(limit) if ledger else ())
    ]
    columns = ("number", "at", "action", "topic", "who", "filters", "state", "jobs", "keys")
    output.emit(rows, columns, as_json=as_json)


def _time(text: str | None) -> float | None:
    from processor.errors import UsageError
    from processor.settings import parse_duration

    if text is None:
        return None
    now = datetime.now(UTC)
    try:
        return now.timestamp() - parse_duration(text)
    except ValueError:
        pass
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"`{text}` is no time", hint="write 2h or 7d (ago), or 2026-01-31T12:00:00+00:00"
        ) from None
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()


def _named(details: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Turn a letter on its side: one row for each field and each header."""
    for name, value in details.items():
        if isinstance(value, dict):
            yield from ({"name": f"{name}: {key}", "value": each} for key, each in value.items())
        else:
            yield {"name": name, "value": value}


from processor.cli import dead_actions  # noqa: E402,F401 - adds its commands to the group.
