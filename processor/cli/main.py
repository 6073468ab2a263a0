"""`processor`: the commands, each loaded when it is called, and how a fault is told.

Exit codes: 0 done, 1 failed, 2 misuse, 3 a check found a problem. Data goes to stdout, all else to
stderr. A fault is one line and a hint, never a traceback.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import click

import processor
from processor.errors import ProcessorError, UsageError

# Name -> (module, attribute, one-line help). The help stands here so that `--help` imports nothing.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "dev": ("processor.cli.dev", "dev", "The local stack: Kafka, registry, S3, PostgreSQL."),
    "schemas": ("processor.cli.schemas", "schemas", "Check, register and list the Avro contracts."),
    "topics": ("processor.cli.topics", "topics", "Plan and apply the declared topics."),
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
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

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
    try:
        code = cli.main(args=arguments, prog_name="processor", standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("aborted", err=True)
        sys.exit(1)
    except click.ClickException as fault:
        fault.show()
        sys.exit(fault.exit_code)
    except UsageError as fault:
        tell(fault)
        sys.exit(2)
    except ProcessorError as fault:
        tell(fault)
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()  # The reader has left (`| head`): say nothing more.
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def tell(fault: ProcessorError) -> None:
    """Write a fault and its hint to stderr."""
    click.echo(f"error: {fault.message}", err=True)
    if fault.hint:
        click.echo(f"hint: {fault.hint}", err=True)


if __name__ == "__main__":
    main()
