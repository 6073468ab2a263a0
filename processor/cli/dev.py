"""`processor dev`: the local stack as a person starts, looks at and stops it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from processor.cli import output

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress, TaskID

    from processor.stack import Stack

_Command = TypeVar("_Command", bound="Callable[..., Any]")

PARTS = ("kafka", "registry", "s3", "postgres")  # Those of processor.stack, not loaded for --help.
COLUMNS = ("part", "state", "address", "pid", "memory_mb", "log")


def _dir_option(command: _Command) -> _Command:
    return click.option(
        "--dir",
        "directory",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path(".processor/dev"),
        envvar="PROCESSOR_DEV_DIR",
        show_default=True,
        show_envvar=True,
        help="Where data, logs and settings of the stack are kept.",
    )(command)


def _parts_argument(command: _Command) -> _Command:
    return click.argument("parts", nargs=-1, type=click.Choice(PARTS), metavar="[PART]...")(command)


@click.group(no_args_is_help=True)
def dev() -> None:
    """Run Kafka, a schema registry, S3 and PostgreSQL on this machine.

    No Docker, Java or root is needed. What packages do not bring is downloaded at the first start
    and kept in $PROCESSOR_CACHE_DIR. While the stack runs, the other commands find it by
    .processor/dev/settings.toml.

    \b
      Start what a worker needs, look at it, stop it.

    \b
        processor dev up kafka registry s3
        processor dev status
        processor dev down
    """


@dev.command()
@_parts_argument
@click.option(
    "--brokers",
    type=click.Choice(["1", "3"]),
    envvar="PROCESSOR_DEV_BROKERS",
    show_envvar=True,
    help="How many Kafka brokers: 3 survive the loss of one. Default: as before, at first 1.",
)
@click.option(
    "--secure",
    is_flag=True,
    envvar="PROCESSOR_DEV_SECURE",
    show_envvar=True,
    help="Kafka with TLS, users and ACLs: see docs/security.md. Default: as before, at first not.",
)
@click.option(
    "--fixed-ports/--free-ports",
    "fixed_ports",
    default=None,
    envvar="PROCESSOR_DEV_FIXED_PORTS",
    show_envvar=True,
    help="Only the usual ports (9092, 8081, 8333, 5432), or any. Default: the usual where free.",
)
@_dir_option
@output.dry_run_option
@output.json_option
def up(
    parts: tuple[str, ...],
    brokers: str | None,
    secure: bool,
    fixed_ports: bool | None,
    directory: Path,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Start the parts that do not run (default: all) and wait until they answer.

    PART is kafka, registry, s3 or postgres. Data, ports and logs of the last run are used again.
    If one part fails to start, those that were started with it are stopped.

    \b
      Start three brokers and a registry for tests of failures.

    \b
        processor dev up kafka registry --brokers 3 --free-ports
    """
    from processor.stack import Stack

    choice: Literal["prefer", "fixed", "free"] = "prefer"
    if fixed_ports is not None:
        choice = "fixed" if fixed_ports else "free"
    with _report() as report:
        stack = Stack(
            directory,
            parts or PARTS,
            brokers=int(brokers) if brokers else None,
            secure=secure or None,
            ports=choice,
            report=report,
        )
        if dry_run:
            for part in stack.parts:
                report.say(f"{part.name} runs" if part.running else f"{part.name} would be started")
            return
        stack.start()
    output.say(f"settings for the other commands: {stack.settings_path}")
    _tell_security(stack)
    _emit_status(stack, {part.name for part in stack.parts}, as_json=as_json)


@dev.command()
@_parts_argument
@_dir_option
@output.dry_run_option
def down(parts: tuple[str, ...], directory: Path, dry_run: bool) -> None:
    """Stop the parts (default: all). Data and logs stay.

    \b
      Stop everything; the next `up` goes on with the same data on the same ports.

    \b
        processor dev down
    """
    from processor.stack import Stack

    stack = Stack(directory, parts or PARTS)
    if dry_run:
        for part in stack.parts:
            output.say(f"{part.name} {'would be stopped' if part.pids else 'does not run'}")
        return
    stopped = stack.stop()
    output.say(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")


@dev.command()
@_dir_option
@output.json_option
def status(directory: Path, as_json: bool) -> None:
    """Show each process: its state, address, memory and log.

    `ended` is a process that nobody stopped: it crashed or was killed, and its log says why.
    With --json, PostgreSQL's line carries its connection URL.

    \b
      Take the URL of the database.

    \b
        processor dev status --json | jq -r 'select(.part == "postgres").url'
    """
    from processor.stack import Stack

    _emit_status(Stack(directory), set(PARTS), as_json=as_json)


@dev.command()
@_dir_option
@output.yes_option
@output.dry_run_option
def reset(directory: Path, yes: bool, dry_run: bool) -> None:
    """Stop every part and delete its data, ports, credentials and logs.

    \b
      Begin anew.

    \b
        processor dev reset --yes
    """
    from processor.stack import Stack

    stack = Stack(directory)
    if not stack.directory.exists():
        output.say(f"nothing to delete: {stack.directory} does not exist")
        return
    stack.check_ours()
    if dry_run:
        output.say(f"{stack.directory} would be deleted")
        return
    output.confirm(f"Delete {stack.directory} with all its data?", yes=yes)
    stack.reset()
    output.say(f"deleted {stack.directory}")


def _tell_security(stack: Stack) -> None:
    """Say how to be somebody on a secured cluster."""
    security = stack.kafka.security
    if security is None or stack.kafka not in stack.parts:
        return
    from processor.stack.security import ADMIN, USERS

    output.say(f"users of Kafka: {', '.join(USERS)}; but for `{ADMIN}` they may do what ACLs say")
    admin = _short(security.environment_path(ADMIN))
    output.say(f"as one of them: env $(cat {admin}) processor acls apply")


def _emit_status(stack: Stack, parts: set[str], *, as_json: bool) -> None:
    rows: list[dict[str, Any]] = []
    for each in stack.status():
        if each.part not in parts:
            continue
        row: dict[str, Any] = {
            "part": each.process,
            "state": each.state,
            "address": f"127.0.0.1:{each.port}" if each.port else None,
            "pid": each.pid,
            "memory_mb": round(each.memory_bytes / 1e6) if each.pid else None,
            "log": _short(each.log),
        }
        if each.port and each.part == "registry":
            row["address"] = stack.registry.url
        if each.port and each.part == "s3":
            row["address"] = stack.s3.endpoint_url
        if each.port and each.part == "postgres":
            row["url"] = stack.postgres.url
        rows.append(row)
    output.emit(rows, COLUMNS, as_json=as_json)


def _short(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


class _TerminalReport:
    """Downloads as bars on a terminal, as lines elsewhere; facts as lines above the bars."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, tuple[TaskID, float]] = {}

    def say(self, text: str) -> None:
        self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def downloading(self, name: str, bytes_total: int) -> None:
        task = self._bars.add_task(f"downloading {name}", total=bytes_total)
        self._tasks[name] = (task, time.monotonic())
        if not self._bars.console.is_terminal:
            self.say(f"downloading {name}: {bytes_total / 1e6:.1f} MB")

    def received(self, name: str, bytes_count: int) -> None:
        self._bars.advance(self._tasks[name][0], bytes_count)

    def downloaded(self, name: str) -> None:
        task, began = self._tasks.pop(name)
        self._bars.remove_task(task)
        self.say(f"downloaded {name} in {time.monotonic() - began:.1f} s")


@contextmanager
def _report() -> Iterator[_TerminalReport]:
    with output.progress(in_bytes=True) as bars:
        yield _TerminalReport(bars)
