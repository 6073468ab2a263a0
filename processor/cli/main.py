"""`processor`: the commands, each loaded when it is called, and how a fault is told.

Exit codes: 0 done, 1 failed, 2 misuse, 3 a check found a problem. Data goes to stdout, all else to
stderr. A fault is one line and a hint, never a traceback.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import click

import processor
from processor.cli.output import say
from processor.errors import ProcessorError, UsageError

# Name -> (module, attribute, one-line help). The help stands here so that `--help` imports nothing.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "demo": ("processor.cli.demo", "demo", "The whole way on a local stack, and what came of it."),
    "dev": ("processor.cli.dev", "dev", "The local stack: Kafka, registry, S3, PostgreSQL."),
    "topics": ("processor.cli.topics", "topics", "Plan and apply the declared topics."),
    "retention": ("processor.cli.retention", "retention", "Remove claims no job needs any more."),
    "acls": ("processor.cli.acls", "acls", "Plan and apply the rights of each role."),
    "schemas": ("processor.cli.schemas", "schemas", "Check, register and list the Avro contracts."),
    "submit": ("processor.cli.submit", "submit", "Submit one job, or a file of them."),
    "work": ("processor.cli.work", "work", "Run the handlers of an app."),
    "status": ("processor.cli.status", "status", "Tell how a job ended."),
    "lag": ("processor.cli.lag", "lag", "Show what waits, by partition."),
    "why": ("processor.cli.why", "why", "Tell where a job is, and why it does not run."),
    "dead": ("processor.cli.dead", "dead", "Look at dead letters; replay, release, purge."),
    "outbox": ("processor.cli.outbox", "outbox", "Submit jobs with your own transactions."),
    "check": ("processor.cli.check", "check", "Refuse a deployment that would lose or delay jobs."),
    "config": ("processor.cli.config", "config", "Show and check the settings."),
}


class LazyGroup(click.Group):
    """A group that knows its commands' names and help, and imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands in the order in which a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command that is about to run."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        try:
            command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as fault:
            package = str(fault.name)
            if package.partition(".")[0] == "processor":
                raise  # A module of our own is missing: a bug.
            raise UsageError(
                f"`processor {cmd_name}` needs the package {package}, which is not installed",
                hint="install the extra that brings it, in a checkout: pip install '.[local]'",
            ) from fault
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one was probably meant."""
        if not args[0].startswith("-") and args[0] not in COMMANDS:
            from difflib import get_close_matches

            close = get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean `processor {close[0]}`?" if close else None
            raise UsageError(
                f"no such command: {args[0]}",
                hint=hint or "`processor --help` lists the commands",
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(processor.__version__, prog_name="processor")
def cli() -> None:
    """Background jobs on Apache Kafka whose order survives failure.

    Settings come from processor.toml, then PROCESSOR_* in the environment, then the flags.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code."""
    code = run(arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has left (`| head`): let the interpreter's own last flush go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command, tell its fault if it has one, and return the exit code."""
    try:
        code = cli.main(args=arguments, prog_name="processor", standalone_mode=False)
    except click.exceptions.Abort as fault:
        click.echo("aborted", err=True)
        return 130 if isinstance(fault.__cause__, KeyboardInterrupt) else 1
    except click.exceptions.NoArgsIsHelpError as fault:
        fault.show()
        return 2
    except click.UsageError as fault:
        tell(_in_our_words(fault))
        return 2
    except click.ClickException as fault:
        tell(ProcessorError(fault.format_message()))
        return fault.exit_code
    except UsageError as fault:
        tell(fault)
        return 2
    except ProcessorError as fault:
        tell(fault)
        return 1
    except OSError as fault:
        if fault.filename is None:  # Not about a file of the user's: a bug, with its traceback.
            raise
        tell(ProcessorError(f"{fault.filename}: {fault.strerror}"))
        return 1
    return code if isinstance(code, int) else 0


def tell(fault: ProcessorError) -> None:
    """Write a fault and its hint to stderr."""
    say(f"error: {fault.message}")
    if fault.hint:
        say(f"hint: {fault.hint}")


def _in_our_words(fault: click.UsageError) -> UsageError:
    message = fault.format_message().rstrip(".")
    command = fault.ctx.command_path if fault.ctx else "processor"
    return UsageError(
        message[:1].lower() + message[1:], hint=f"`{command} --help` shows how it is used"
    )


if __name__ == "__main__":
    main()
