"""`processor topics`: what is declared against what the cluster has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_never

import click

from processor.cli.output import dry_run_option, emit, json_option, say
from processor.errors import UsageError

if TYPE_CHECKING:
    from processor.adapters.topic_admin import TopicAdmin
    from processor.contracts.topic_plan import Change

CHECK_FOUND_A_PROBLEM = 3
COLUMNS = ("action", "topic", "setting", "before", "after", "reason")

_partition_option = click.option(
    "--allow-partition-change",
    is_flag=True,
    help="Add declared partitions. Keys move to other partitions: drain the topic first.",
)


@click.group()
def topics() -> None:
    """Plan and apply the declared topics.

    Each topics/*.yaml declares a main topic with its retry, dead-letter and status topics.

      See what would change, then change it.

    \b
        processor topics plan
        processor topics apply
    """


@topics.command()
@click.argument("names", metavar="[TOPIC]...", nargs=-1)
@click.option("--check", is_flag=True, help="Exit 3 if anything differs.")
@_partition_option
@json_option
def plan(names: tuple[str, ...], check: bool, allow_partition_change: bool, as_json: bool) -> int:
    """Show how the cluster differs from the topic files; changes nothing.

      Fail a pipeline when the cluster has drifted.

    \b
        processor topics plan --check
    """
    changes, _ = _compare(names, allow_partition_change)
    emit((_row(change) for change in changes), COLUMNS, as_json=as_json)
    if not changes:
        say("the cluster is as declared")
    return CHECK_FOUND_A_PROBLEM if check and changes else 0


@topics.command()
@click.argument("names", metavar="[TOPIC]...", nargs=-1)
@_partition_option
@dry_run_option
@json_option
def apply(
    names: tuple[str, ...], allow_partition_change: bool, dry_run: bool, as_json: bool
) -> None:
    """Create missing topics and set settings that differ. A refusal leaves everything as it is.

    Never deletes a topic or a partition. Adds partitions only with --allow-partition-change.

      Prepare the cluster for one topic.

    \b
        processor topics apply copy --dry-run
        processor topics apply copy
    """
    from processor.contracts.topic_plan import Refuse, Remark

    changes, admin = _compare(names, allow_partition_change)
    refusals = [change for change in changes if isinstance(change, Refuse)]
    if refusals:
        reasons = "".join(f"\n  {refusal.reason}" for refusal in refusals)
        raise UsageError(f"nothing was changed:{reasons}", hint=refusals[0].hint)
    emit((_row(change) for change in _applied(admin, changes, dry_run)), COLUMNS, as_json=as_json)
    if all(isinstance(change, Remark) for change in changes):
        say("the cluster is as declared")
    elif dry_run:
        say("dry run: nothing was changed")


def _compare(
    names: tuple[str, ...], allow_partition_change: bool
) -> tuple[list[Change], TopicAdmin]:
    from processor.adapters.topic_admin import TopicAdmin
    from processor.contracts.builtin import schema_directories, topic_directories
    from processor.contracts.schemas import SchemaSet
    from processor.contracts.topic_plan import plan as compare
    from processor.contracts.topics import TopicSet
    from processor.settings import load_settings

    settings = load_settings()
    schemas = SchemaSet.load(schema_directories(settings))
    declared = TopicSet.load(topic_directories(settings), schemas)
    chosen = [declared.get(name) for name in dict.fromkeys(names)] or list(declared)
    admin = TopicAdmin(settings.kafka)
    changes = compare(
        chosen,
        admin.describe(),
        brokers=admin.brokers(),
        allow_partition_change=allow_partition_change,
    )
    return changes, admin


def _applied(admin: TopicAdmin, changes: list[Change], dry_run: bool) -> list[Change]:
    """Carry the changes out, each main topic last: whoever sees it finds its retry topics too."""
    from processor.contracts.topic_plan import AddPartitions, Create, Refuse, Remark, SetConfig

    if dry_run:
        return changes
    for change in reversed(changes):
        match change:
            case Create(spec):
                admin.create(spec)
            case AddPartitions(topic, _, after):
                admin.add_partitions(topic, after)
            case SetConfig(topic, name, _, after):
                admin.set_config(topic, {name: after})
            case Remark() | Refuse():
                pass
            case _:
                assert_never(change)
    return changes


def _row(change: Change) -> dict[str, Any]:
    from processor.contracts.topic_plan import AddPartitions, Create, Refuse, Remark, SetConfig

    match change:
        case Create(spec):
            return {
                "action": "create",
                "topic": spec.name,
                "after": f"{spec.partitions} partitions, replication {spec.replication}",
                "partitions": spec.partitions,
                "replication": spec.replication,
                "config": dict(spec.config),
            }
        case AddPartitions(topic, before, after):
            return {
                "action": "add partitions",
                "topic": topic,
                "before": before,
                "after": after,
                "reason": "keys move to other partitions",
            }
        case SetConfig(topic, name, before, after):
            return {
                "action": "set",
                "topic": topic,
                "setting": name,
                "before": before,
                "after": after,
            }
        case Refuse(topic, reason, hint):
            return {"action": "refuse", "topic": topic, "reason": reason, "hint": hint}
        case Remark(topic, reason):
            return {"action": "remark", "topic": topic, "reason": reason}
        case _:
            assert_never(change)
