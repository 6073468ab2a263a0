"""`processor schemas`: the Avro contracts, checked, registered and listed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from processor.cli.output import dry_run_option, emit, json_option, say
from processor.errors import ProcessorError, RegistryUnavailable, UsageError

if TYPE_CHECKING:
    from processor.adapters.registry import Registry
    from processor.contracts.schemas import Schema, SchemaSet

CHECK_FOUND_A_PROBLEM = 3
CHECK_COLUMNS = ("schema", "problem", "direction", "against")


@click.group()
def schemas() -> None:
    """Check, register and list the Avro contracts.

    Each schemas/*.avsc is the contract of one job type.

      Check the files, then make them known to producers and workers.

    \b
        processor schemas check
        processor schemas register
    """


@schemas.command()
@click.option(
    "--against",
    type=click.Choice(["registry", "git", "none"]),
    help="Compare with registered versions, with git's or not at all. Default: the registry, or git"
    " where it does not answer.",
)
@click.option("--base", default="HEAD", metavar="REV", help="The git revision.  [default: HEAD]")
@json_option
def check(against: str | None, base: str, as_json: bool) -> int:
    """Parse and lint every schema, and compare it both ways with its earlier versions.

    Exits 3 when there is a problem; all problems are listed; 1 when there is neither a registry nor
    git to compare with. Two directions must hold: the new schema reads old records (workers are
    upgraded first), and the old schema reads new records (some workers still run the old one).

      Check a branch against what the main branch has.

    \b
        processor schemas check --against git --base main
    """
    from processor.contracts.faults import FaultyFiles

    try:
        rows, compared = _problems(against, base)
    except FaultyFiles as faulty:
        rows = [{"schema": fault.place, "problem": fault.what} for fault in faulty.faults]
        compared = "not compared"
    emit(rows, CHECK_COLUMNS, as_json=as_json)
    if rows:
        say(f"{len(rows)} problem{'s' * (len(rows) > 1)} ({compared})")
        return CHECK_FOUND_A_PROBLEM
    say(f"no problem ({compared})")
    return 0


@schemas.command()
@dry_run_option
@json_option
def register(dry_run: bool, as_json: bool) -> None:
    """Register every job type under the subject of its topic; what is registered stays as it is.

      See what the registry lacks, then register it.

    \b
        processor schemas register --dry-run
        processor schemas register
    """
    registry, subjects, _ = _load()
    rows: list[dict[str, Any]] = []
    for subject, schema in subjects:
        schema_id = registry.find_id(subject, schema.text)
        row = {"subject": subject, "schema": schema.full_name, "id": schema_id}
        if schema_id is not None:
            rows.append({**row, "action": "none"})
        elif dry_run:
            objections = registry.incompatibilities(subject, schema.text)
            action = "refused: " + "; ".join(objections) if objections else "register"
            rows.append({**row, "action": action})
        else:
            schema_id = registry.register(subject, schema.text)
            rows.append({**row, "id": schema_id, "action": "registered"})
    emit(rows, ("subject", "schema", "id", "action"), as_json=as_json)
    if dry_run:
        say("dry run: nothing was registered")


@schemas.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the contracts, their subjects, and the ids under which the registry knows them.

      Find the id that a job's records carry.

    \b
        processor schemas list --json | jq 'select(.schema == "object.copy")'
    """
    registry, subjects, contracts = _load()
    rows: list[dict[str, Any]] = []
    try:
        for subject, schema in subjects:
            schema_id = registry.find_id(subject, schema.text)
            state = "registered" if schema_id is not None else "not registered"
            rows.append(_listed(schema, subject, schema_id, state))
    except RegistryUnavailable as away:
        say(f"warning: {away.message}")
        rows = [_listed(schema, subject, None, "unknown") for subject, schema in subjects]
    used = {schema.full_name for _, schema in subjects}
    rows += [
        _listed(each, None, None, "no topic") for each in contracts if each.full_name not in used
    ]
    emit(rows, ("schema", "subject", "id", "state", "file"), as_json=as_json)


def _listed(
    schema: Schema, subject: str | None, schema_id: int | None, state: str
) -> dict[str, Any]:
    return {
        "schema": schema.full_name,
        "subject": subject,
        "id": schema_id,
        "state": state,
        "file": str(schema.path),
    }


def _load() -> tuple[Registry, list[tuple[str, Schema]], SchemaSet]:
    from processor.adapters.registry import Registry
    from processor.contracts.builtin import schema_directories, topic_directories
    from processor.contracts.schemas import SchemaSet
    from processor.contracts.subjects import declared_subjects
    from processor.contracts.topics import TopicSet
    from processor.settings import load_settings

    settings = load_settings()
    contracts = SchemaSet.load(schema_directories(settings))
    topics = TopicSet.load(topic_directories(settings), contracts)
    return Registry(settings.registry), list(declared_subjects(topics, contracts)), contracts


def _problems(against: str | None, base: str) -> tuple[list[dict[str, Any]], str]:
    """Find the problems, and say what was compared with."""
    from processor.cli.schema_check import git_problems, registry_problems
    from processor.contracts.builtin import schema_directories
    from processor.settings import load_settings

    registry, subjects, contracts = _load()
    # The project's own; built-in schemas are compared where they are developed.
    directory = schema_directories(load_settings())[0]
    count = f"{len(contracts)} schemas"
    if against == "none":
        return [], f"{count}, not compared"
    if against in (None, "registry"):
        try:
            return list(registry_problems(registry, subjects)), f"{count}, against {registry.url}"
        except RegistryUnavailable as away:
            if against == "registry":
                raise
            say(f"warning: {away.message}; comparing with git {base}")
    try:
        return list(git_problems(contracts, directory, base)), f"{count}, against git {base}"
    except UsageError as fault:
        if against == "git":
            raise
        raise ProcessorError(
            f"{count} have no fault, but there is nothing to compare them with: {fault.message}",
            hint="name the registry in registry.url, or accept that: --against none",
        ) from None
