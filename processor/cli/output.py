"""How commands speak: data to stdout, everything else to stderr, and questions before deletion."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from processor.errors import UsageError

if TYPE_CHECKING:
    from rich.progress import Progress

# What a terminal obeys in place of showing it, and what turns the direction of a line.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

_Command = TypeVar("_Command", bound=Callable[..., Any])


def duration(text: Any) -> float:
    """Read an option that is a time, to be given as its `type`: seconds, or like `90s`, `5m`."""
    from processor.settings import parse_duration

    try:
        return parse_duration(text)
    except ValueError as fault:
        raise click.BadParameter(f"`{text}` {fault}") from None


def stdout_is_terminal() -> bool:
    """Whether a person reads stdout, rather than a pipe or a file."""
    return sys.stdout.isatty()


def json_option(command: _Command) -> _Command:
    """Add `--json`: JSON lines also on a terminal. The parameter's name is `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Write JSON lines.")(command)


def dry_run_option(command: _Command) -> _Command:
    """Add `--dry-run`: say what would be done and do nothing."""
    return click.option("--dry-run", is_flag=True, help="Only say what would be done.")(command)


def yes_option(command: _Command) -> _Command:
    """Add `--yes`, to be given to `confirm`."""
    return click.option("--yes", is_flag=True, help="Do not ask.")(command)


def emit(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool = False
) -> None:
    """Write rows to stdout: a table on a terminal, else (or with `as_json`) one JSON line each.

    JSON lines carry every field of a row and are written as rows come; the table shows `columns`.
    """
    if as_json or not stdout_is_terminal():
        for row in rows:
            click.echo(shown(json.dumps(row, ensure_ascii=False, default=str)))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    Console(file=sys.stdout, markup=False, highlight=False, emoji=False).print(table)


def say(message: str) -> None:
    """Write a remark for the person to stderr."""
    click.echo(shown(message), err=True)


def shown(text: str) -> str:
    """Give a text as a terminal can be given it: a job's key or message may hold anything.

    Lines and tabs stay; other control characters are written as JSON writes them.
    """
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def progress(*, counted: bool = True, in_bytes: bool = False) -> Progress:
    """Make a progress bar on stderr, for a `with` block; silent where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TransferSpeedColumn,
    )

    columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn()]
    if in_bytes:
        columns += [DownloadColumn(), TransferSpeedColumn()]
    elif counted:
        columns.append(MofNCompleteColumn())
    console = Console(stderr=True)
    return Progress(
        *columns,
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def confirm(question: str, *, yes: bool) -> None:
    """Return only if the answer is yes. Where nobody can answer, `--yes` must have been given."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{question} Nobody is there to answer", hint="add --yes")
    click.confirm(question, abort=True, err=True)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = json.dumps(value, default=str) if isinstance(value, (dict, list)) else str(value)
    return shown(text)
