"""`processor acls`: the rights that the roles need, against those that the cluster grants."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from processor.cli.output import confirm, dry_run_option, emit, json_option, say, yes_option
from processor.errors import UsageError

if TYPE_CHECKING:
    from processor.adapters.acl_admin import AclAdmin
    from processor.contracts.acl_plan import Acl, Comparison, Right, Role

CHECK_FOUND_A_PROBLEM = 3
ROLES: tuple[Role, ...] = ("producer", "worker", "relay", "operator", "provisioner")
COLUMNS = ("state", "role", "principal", "operation", "resource", "name", "why")

_Command = TypeVar("_Command", bound=Callable[..., Any])
_PRINCIPAL = re.compile(r"[A-Za-z]+:.+")


def _choice_options(command: _Command) -> _Command:
    """Add what says whose rights, and on what: topics, roles, principals, group."""
    command = click.option(
        "--result-topic",
        "result_topics",
        multiple=True,
        metavar="TOPIC",
        help="A topic that a KafkaSink of the workers writes to. May be repeated.",
    )(command)
    command = click.option("--group", help="The workers' group. Default: worker.group.")(command)
    for role in reversed(ROLES):
        command = click.option(
            f"--{role}",
            multiple=True,
            metavar="PRINCIPAL",
            help=f"Who has the role {role}. May be repeated. Default: User:{role}.",
        )(command)
    command = click.option(
        "--role",
        "roles",
        multiple=True,
        type=click.Choice(ROLES),
        help="Only this role. May be repeated. Default: all.",
    )(command)
    return click.argument("names", metavar="[TOPIC]...", nargs=-1)(command)


@click.group()
def acls() -> None:
    """Plan and apply the least rights of each role on a cluster with ACLs.

    They follow from the topic files, the group and the roles: producer, worker, relay, operator and
    provisioner. docs/security.md tells what each right is for.

      See what is missing, and grant it as an administrator.

    \b
        processor acls plan
        processor acls apply
    """


@acls.command()
@_choice_options
@click.option("--check", is_flag=True, help="Exit 3 if anything is missing or beyond the plan.")
@json_option
def plan(check: bool, as_json: bool, **chosen: Any) -> int:
    """Show each right that is needed, whether it is granted, and what is granted beyond.

    With topics, --role or --group only what is granted on those, but for what another role needs.
    Changes nothing. Reading the access list needs Describe on the cluster.

      The rights of one team's workers on their topic.

    \b
        processor acls plan mail --role worker --worker User:mail-worker --group mail
    """
    found, _ = _compare(**chosen)
    emit(_rows(found), COLUMNS, as_json=as_json)
    say(
        f"{len(found.granted)} granted, {len(found.missing)} missing,"
        f" {len(found.beyond)} beyond the plan"
    )
    return CHECK_FOUND_A_PROBLEM if check and (found.missing or found.beyond) else 0


@acls.command()
@_choice_options
@click.option("--prune", is_flag=True, help="Also remove what the principals have beyond the plan.")
@yes_option
@dry_run_option
@json_option
def apply(prune: bool, yes: bool, dry_run: bool, as_json: bool, **chosen: Any) -> None:
    """Grant what is missing; with --prune also remove what is beyond the plan.

    With topics, --role or --group nothing else of the principals is removed. Needs Alter on the
    cluster, which none of the roles has: run it as an administrator.

      Grant, look at what is left over, and remove it.

    \b
        processor acls apply
        processor acls apply --prune --dry-run
        processor acls apply --prune
    """
    found, admin = _compare(**chosen)
    beyond = found.beyond if prune else ()
    if beyond and not dry_run:
        if not yes:
            for acl in beyond:
                say(_told(acl))
        confirm(f"Remove {_counted(len(beyond))} beyond the plan?", yes=yes)
    if not dry_run:
        admin.add([right.acl for right in found.missing])
        admin.remove(beyond)
    added = (_right_row("grant", right) for right in found.missing)
    removed = (_acl_row("remove", acl) for acl in beyond)
    emit([*added, *removed], COLUMNS, as_json=as_json)
    if dry_run:
        say("dry run: nothing was changed")
    elif not found.missing and not beyond:
        say("every right of the plan is granted")
    if found.beyond and not prune:
        say(f"{_counted(len(found.beyond))} beyond the plan stay; --prune removes them")


def _compare(
    names: Sequence[str],
    roles: Sequence[Role],
    group: str | None,
    result_topics: Sequence[str],
    **principals: Sequence[str],
) -> tuple[Comparison, AclAdmin]:
    from processor.adapters.acl_admin import AclAdmin
    from processor.contracts.acl_plan import Deployment, compare, rights_of, spared
    from processor.contracts.builtin import topic_directories
    from processor.contracts.topics import TopicSet
    from processor.settings import NO_LEDGER, load_settings

    settings = load_settings()
    declared = TopicSet.load(topic_directories(settings))
    topics = [declared.get(name) for name in dict.fromkeys(names)] or list(declared)
    chosen: dict[Role, Sequence[str]] = {
        role: _checked(role, principals[role]) or (f"User:{role}",) for role in roles or ROLES
    }
    deployment = Deployment(
        group or settings.worker.group,
        remembers=settings.ledger.url != NO_LEDGER,
        result_topics=result_topics,
    )
    rights = rights_of(chosen, topics, deployment)
    admin = AclAdmin(settings.kafka)
    existing = admin.of({right.acl.principal for right in rights})
    if not (names or roles or group):
        return compare(rights, existing), admin
    left = spared(rights, existing, roles=tuple(chosen), topics=topics, deployment=deployment)
    return compare(rights, existing, left), admin


def _checked(role: str, principals: Sequence[str]) -> Sequence[str]:
    for principal in principals:
        if not _PRINCIPAL.fullmatch(principal):
            raise UsageError(
                f"--{role} `{principal}` is no principal",
                hint=f"write it as Kafka does, such as User:{principal or role}",
            )
    return principals


def _rows(found: Comparison) -> list[dict[str, Any]]:
    return [
        *(_right_row("granted", right) for right in found.granted),
        *(_right_row("missing", right) for right in found.missing),
        *(_acl_row("beyond", acl) for acl in found.beyond),
    ]


def _right_row(state: str, right: Right) -> dict[str, Any]:
    return {**_acl_row(state, right.acl), "role": right.role, "why": right.why}


def _acl_row(state: str, acl: Acl) -> dict[str, Any]:
    return {
        "state": state,
        "role": None,
        "principal": acl.principal,
        "operation": acl.operation,
        "resource": acl.resource,
        "name": acl.name,
        "pattern": acl.pattern,
        "permission": acl.permission,
        "host": acl.host,
        "why": _unusual(acl),
    }


def _told(acl: Acl) -> str:
    more = _unusual(acl)
    what = f"{acl.principal} {acl.operation} on {acl.resource} `{acl.name}`"
    return f"beyond the plan: {what}{f' ({more})' if more else ''}"


def _unusual(acl: Acl) -> str | None:
    plain = (acl.pattern, acl.permission, acl.host) == ("literal", "allow", "*")
    return None if plain else f"{acl.permission}, {acl.pattern}, from host {acl.host}"


def _counted(count: int) -> str:
    return f"{count} right{'' if count == 1 else 's'}"
