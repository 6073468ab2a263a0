"""What `processor schemas check` compares with: the registry's versions, or git's."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from processor.check.schemas import subject_faults
from processor.contracts.compatibility import both_ways
from processor.contracts.faults import FaultyFiles
from processor.contracts.schemas import Schema, SchemaSet
from processor.errors import UsageError

if TYPE_CHECKING:
    from processor.adapters.registry import Registry

Row = dict[str, Any]


def registry_problems(registry: Registry, subjects: Sequence[tuple[str, Schema]]) -> Iterator[Row]:
    """Compare each schema both ways with every registered version, and ask the registry too."""
    from processor.survey import subject_of

    for subject, schema in subjects:
        for direction, problem, against in subject_faults(subject_of(registry, subject, schema)):
            row = {"schema": schema.full_name, "direction": direction}
            yield {**row, "problem": problem, "against": against}


def git_problems(schemas: SchemaSet, directory: Path, base: str) -> Iterator[Row]:
    """Compare each schema of a directory both ways with its file in a git revision."""
    for older in git_schemas(directory, base):
        if older.full_name in schemas and schemas.get(older.full_name).path.parent == directory:
            new = schemas.get(older.full_name)
            for direction, problem in both_ways(new.parsed, older.parsed):
                row = {"schema": new.full_name, "direction": direction}
                yield {**row, "problem": problem, "against": f"git {base}"}


def git_schemas(directory: Path, base: str) -> SchemaSet:
    """Read a directory's schemas as they were in a revision. Raises UsageError where git cannot."""
    if base.startswith("-"):
        raise UsageError(f"`{base}` is no git revision")
    listing = _git(directory, "ls-tree", "--name-only", base, "./")
    sources = [
        (directory / name, _git(directory, "show", f"{base}:./{name}"))
        for name in listing.splitlines()
        if name.endswith(".avsc")
    ]
    try:
        return SchemaSet.parse(sources, lint=False)
    except FaultyFiles as fault:
        raise UsageError(
            f"the schemas of git revision `{base}` are no Avro: {fault.message}",
            hint="compare with another revision: --base",
        ) from None


def _git(directory: Path, *arguments: str) -> str:
    git = shutil.which("git")
    if git is None:
        raise UsageError("git is not installed", hint="use --against registry or none")
    done = subprocess.run(  # noqa: S603 - The arguments are ours, but the revision, which git checks.
        [git, "-C", str(directory), *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no reason given"
        raise UsageError(
            f"git does not give `{' '.join(arguments)}` in {directory}: {reason}",
            hint="use --base with a revision that exists, or --against registry or none",
        )
    return done.stdout
