"""`processor dead replay | release | purge`: what changes something."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from processor.cli import output
from processor.cli.dead import dead, filter_of, filter_options, ledger_of

if TYPE_CHECKING:
    from processor.contracts.topics import Topic
    from processor.dead import Filter
    from processor.dead_plan import Plan
    from processor.engine.operations import Action, OperatorLedger
    from processor.revival import Progress
    from processor.settings import Settings

ROUNDS_MAX = 50
DONE: dict[Action, str] = {"replay": "appended", "release": "released", "purge": "purged"}
COLUMNS = ("partition", "key", "closed", "jobs", "first_job", "error_class", "cursor")


def action_options(command: Any) -> Any:
    """Add what all three take."""
    for option in (
        output.json_option,
        output.yes_option,
        output.dry_run_option,
        click.option("--wait/--no-wait", default=True, show_default=True,
                     help="Wait for held keys, and repeat until they are open."),
        click.option("--timeout", type=output.duration, default="5m", show_default=True,
                     help="Wait so long at most."),
        click.option("--cursor", metavar="CURSOR", help="Go on behind what the last run printed."),
        click.option("--limit", type=click.IntRange(1), help="At most so many jobs."),
        filter_options,
        click.argument("topic_name", metavar="TOPIC"),
    ):  # fmt: skip
        command = option(command)
    return command


@dead.command()
@action_options
@click.option("--rate", help="At most so many jobs a second, such as 100/s.")
@click.option("--replays-max", type=click.IntRange(1), default=3, show_default=True,
              help="Leave jobs alone that were replayed so often.")  # fmt: skip
def replay(rate: str | None, replays_max: int, **options: Any) -> None:
    """Run dead jobs again, in the order of their key; of a held key the whole sequence.

    They go to the tail of their main topic. A held key opens behind its last job. With the policy
    `continue` this ends when they are appended. Without a filter all dead jobs are meant.

    \b
      processor dead replay copy --error-class ConnectionError --since 2h --dry-run
      processor dead replay orders --key customer-17 --yes
    """
    _act("replay", rate=rate, replays_max=replays_max, **options)


@dead.command()
@action_options
@click.option("--rate", help="At most so many jobs a second, such as 100/s.")
def release(rate: str | None, **options: Any) -> None:
    """Let held keys go on without their dead job: what was held behind it runs, in order.

    The dead job stays a dead letter.

    \b
      processor dead release orders --key customer-17
    """
    _act("release", rate=rate, replays_max=2**31, **options)


@dead.command()
@action_options
def purge(**options: Any) -> None:
    """Give dead jobs up for good, and what is held behind them: none of them runs again.

    Their letters stay on the topic until its retention ends; they are not listed any more.

    \b
      processor dead purge copy --fingerprint 3f9c0d2a51b7
    """
    _act("purge", rate=None, replays_max=2**31, **options)


def _act(
    action: Action,
    *,
    topic_name: str,
    rate: str | None,
    replays_max: int,
    limit: int | None,
    cursor: str | None,
    timeout: float,
    wait: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    **given: str | None,
) -> None:
    from processor.cli.declared import declared_topics
    from processor.dead_plan import shown
    from processor.errors import UsageError
    from processor.settings import load_settings

    settings = load_settings()
    topic = declared_topics(settings, (topic_name,))[0]
    ledger = ledger_of(settings, needed=True)
    if ledger is None and action != "replay":
        raise UsageError(
            f"`dead {action}` needs a ledger, and ledger.url is `none`: nothing would remember it",
            hint="without a ledger only `dead replay` does anything",
        )
    wanted = filter_of(**given)
    planned = _planned(
        settings, topic, ledger, action, wanted,
        replays_max=replays_max, jobs_max=limit, after=cursor,
    )  # fmt: skip
    for skipped in planned.skipped:
        output.say(f"job {skipped.dead.job.job_id} is left alone: {skipped.why}")
    if dry_run:
        output.emit([shown(unit) for unit in planned.units], COLUMNS, as_json=as_json)
        output.say(f"would {action} {_counted(planned)}; nothing was done")
        return
    if not planned.units:
        output.say(f"nothing to {action}")
        return
    output.confirm(f"{action} {_counted(planned)} of `{topic.name}`?", yes=yes)
    until = time.monotonic() + timeout
    _rounds(settings, topic, ledger, planned, wanted, rate=_rate(rate), until=until, wait=wait)


def _planned(
    settings: Settings,
    topic: Topic,
    ledger: OperatorLedger | None,
    action: Action,
    wanted: Filter,
    **more: Any,
) -> Plan:
    from processor.dead import dead_letters
    from processor.dead_plan import plan

    hold = topic.dead_letter.policy == "hold"
    group = settings.worker.group
    # Keys first: what is held after this is on the topic by the time that it is read.
    closed = ledger.closed_keys(group, topic.name) if ledger is not None and hold else []
    return plan(action, dead_letters(settings, topic, ledger), closed, wanted, **more)


def _rounds(
    settings: Settings,
    topic: Topic,
    ledger: OperatorLedger | None,
    planned: Plan,
    wanted: Filter,
    *,
    rate: float | None,
    until: float,
    wait: bool,
) -> None:
    """Carry a plan out, and again for the keys behind which jobs were held meanwhile."""
    import getpass
    import socket

    from processor.dead_plan import Plan
    from processor.errors import ProcessorError
    from processor.revival import Revival, still_closed

    who = f"{getpass.getuser()}@{socket.gethostname()}"
    revival = Revival(settings, topic, ledger, who=who, rate=rate)
    jobs = 0
    for _ in range(ROUNDS_MAX):
        progress = _carried_out(revival, planned, wanted)
        jobs += progress.jobs
        if ledger is None or not wait or all(unit.closed is None for unit in planned.units):
            break
        assert progress.number is not None
        again, died, late = still_closed(
            planned, progress.number, ledger, group=settings.worker.group, topic=topic.name,
            until=until,
        )  # fmt: skip
        for each in died:
            output.say(f"key `{_text(each.key)}` is held again: a job died in the replay")
        for each in late:
            output.say(f"key `{_text(each.key)}` is still on its way; `processor why` tells where")
        if not again:
            if died or late:
                raise ProcessorError(f"{len(died) + len(late)} key(s) are not open yet")
            break
        from processor.dead import Filter

        more = _planned(settings, topic, ledger, planned.action, Filter(), replays_max=2**31)
        places = {(each.partition, each.key) for each in again}
        units = tuple(u for u in more.units if (u.partition, u.key) in places)
        planned = Plan(planned.action, units, ())
    output.say(f"{planned.action}: {jobs} job(s) of `{topic.name}` {DONE[planned.action]}")


def _carried_out(revival: Any, planned: Plan, wanted: Filter) -> Progress:
    from processor.revival import Progress

    latest = Progress()

    def on_units(progress: Progress) -> None:
        latest.cursor = progress.cursor
        bar.update(task, completed=progress.jobs)

    try:
        with output.progress() as bar:
            task = bar.add_task(planned.action, total=planned.jobs)
            progress: Progress = revival.carry_out(planned, wanted.words(), on_units)
    except BaseException:
        if latest.cursor is not None:
            output.say(f"broken off; to go on: --cursor {latest.cursor}")
        raise
    if progress.cursor is not None:
        output.say(f"cursor: {progress.cursor}")
    return progress


def _counted(planned: Plan) -> str:
    closed = sum(unit.closed is not None for unit in planned.units)
    held = f", of {closed} held key(s) all" if closed else ""
    return f"{planned.jobs} job(s){held}"


def _rate(text: str | None) -> float | None:
    from processor.errors import UsageError

    if text is None:
        return None
    number = text.removesuffix("/s")
    try:
        rate = float(number)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise UsageError(f"`{text}` is no rate", hint="write jobs a second, such as 100/s")
    return rate


def _text(key: bytes) -> str:
    return key.decode(errors="replace")
