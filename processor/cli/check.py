"""`processor check`: whether a deployment would lose or delay jobs, before it is made."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from processor.cli.acls import ROLES
from processor.cli.output import say

if TYPE_CHECKING:
    from processor.check.finding import Finding
    from processor.contracts.acl_plan import Role
    from processor.errors import ProcessorError
    from processor.settings import Settings
    from processor.survey import Survey

FOUND_A_PROBLEM = 3
Unreachable = list[tuple[str, "ProcessorError"]]


@click.command()
@click.argument("target", metavar="[MODULE:APP]", required=False)
@click.option("--topic", "topics", multiple=True, help="Look at this topic; default: all in use.")
@click.option("--group", help="The consumer group.  [env: PROCESSOR_WORKER_GROUP]")
@click.option(
    "--role",
    "roles",
    multiple=True,
    type=click.Choice(ROLES),
    help="Look at the rights of this role's credentials. May be repeated, for all of its roles.",
)
@click.option("--only", multiple=True, metavar="ID", help="Only this check, or all of its area.")
@click.option("--ignore", multiple=True, metavar="ID", help="Accept what this check finds.")
@click.option("--strict", is_flag=True, help="Exit 3 on warnings, too.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
def check(
    target: str | None,
    topics: tuple[str, ...],
    group: str | None,
    roles: tuple[Role, ...],
    only: tuple[str, ...],
    ignore: tuple[str, ...],
    strict: bool,
    as_json: bool,
) -> int:
    """Compare settings, files, Kafka, registry, claim store and handlers; changes nothing.

    Each finding tells what is wrong, why that loses or delays jobs, and what mends it. Exits 3 on
    errors (with --strict on warnings, too), else 1 where a part did not answer, else 0. All checks
    and their ids: docs/check.md. An ID is such as `topic.partitions`, or `topic` for all of them.

      Refuse a deployment in a pipeline, but for one accepted finding.

    \b
        processor check mail:app --strict --ignore claims.expiry

      With a worker's credentials: may it do what it will do?

    \b
        processor check mail:app --role worker
    """
    from processor.check.areas import RULES, chosen_ids
    from processor.errors import UsageError

    if not roles and any(each.partition(".")[0] == "acl" for each in only):
        raise UsageError("rights are looked at with --role alone", hint="name whose: --role worker")
    wanted = chosen_ids(only) if only else frozenset(rule.id for rule in RULES)
    accepted = chosen_ids(ignore)
    found, unreachable = _found(target, topics, group, roles)
    chosen = [each for each in found if each.rule.id in wanted]
    findings = [each for each in chosen if each.rule.id not in accepted]
    ignored = [each for each in chosen if each.rule.id in accepted]
    if as_json:
        click.echo(json.dumps(_document(findings, ignored, unreachable), ensure_ascii=False))
    else:
        for finding in findings:
            click.echo(_told(finding))
    for part, fault in unreachable:
        say(f"not checked, {part}: {fault.message}")
    errors = sum(each.rule.severity == "error" for each in findings)
    warnings = len(findings) - errors
    say(f"{errors} error(s), {warnings} warning(s), {len(ignored)} ignored")
    if errors or (warnings and strict):
        return FOUND_A_PROBLEM
    return 1 if unreachable else 0


def _found(
    target: str | None, topics: tuple[str, ...], group: str | None, roles: tuple[Role, ...]
) -> tuple[list[Finding], Unreachable]:
    """Find everything, or what keeps the settings and files from being read at all."""
    from processor.check.areas import find_all
    from processor.check.clients import FILES, REFUSED
    from processor.cli.config import client_faults
    from processor.contracts.faults import FaultyFiles
    from processor.errors import UsageError
    from processor.settings import load_settings

    try:
        settings = load_settings(overrides={"worker.group": group})
    except UsageError as fault:
        return [REFUSED.broken("settings", fault.message)], []
    if faults := list(client_faults(settings.kafka)):
        return [REFUSED.broken("settings", each) for each in faults], []
    try:
        survey = _survey(settings, topics, target, roles)
    except FaultyFiles as fault:
        return [FILES.broken(each.place, each.what) for each in fault.faults], []
    return find_all(survey.facts()), survey.unreachable


def _survey(
    settings: Settings, topics: tuple[str, ...], target: str | None, roles: tuple[Role, ...]
) -> Survey:
    from processor.serve import load_app
    from processor.survey import Survey

    app = load_app(target) if target is not None else None
    return Survey(settings, topics, app=app, roles=roles)


def _document(
    findings: list[Finding], ignored: list[Finding], unreachable: Unreachable
) -> dict[str, Any]:
    return {
        "errors": sum(each.rule.severity == "error" for each in findings),
        "warnings": sum(each.rule.severity == "warning" for each in findings),
        "findings": [each.row() for each in findings],
        "ignored": [each.row() for each in ignored],
        "unreachable": [
            {"part": part, "message": fault.message, "hint": fault.hint}
            for part, fault in unreachable
        ],
    }


def _told(finding: Finding) -> str:
    return (
        f"{finding.rule.severity}: {finding.rule.id}: {finding.subject}: {finding.what}\n"
        f"  why: {finding.rule.why}\n"
        f"  mend: {finding.mend}"
    )
