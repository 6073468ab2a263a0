"""`processor config`: what is set, where it came from, and whether it can be right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from processor.cli.output import emit, json_option, say
from processor.errors import ProcessorError

if TYPE_CHECKING:
    from processor.settings import Settings

CHECK_FOUND_A_PROBLEM = 3

_file_option = click.option(
    "--file",
    "file",
    type=click.Path(path_type=Path),
    help="Read this settings file instead of processor.toml.",
)


@click.group()
def config() -> None:
    """Show and check the settings.

    \b
    Precedence, the last one wins: defaults, a running local stack, processor.toml
    (or $PROCESSOR_CONFIG), PROCESSOR_* in the environment, flags.

      See what a worker started here would use.

    \b
        processor config show
    """


@config.command()
@_file_option
@json_option
def show(file: Path | None, as_json: bool) -> None:
    """Show every setting, its value and where it came from; secrets as ***.

      List what is not at its default.

    \b
        processor config show --json | jq 'select(.source != "default")'
    """
    from processor.secret import masked
    from processor.settings import resolve_settings

    resolved = resolve_settings(file=file)
    emit(
        (
            {
                "name": name,
                "value": masked(name, value),
                "source": resolved.origins[name].source,
                "where": resolved.origins[name].where,
            }
            for name, value in sorted(resolved.settings.values().items())
        ),
        columns=("name", "value", "source", "where"),
        as_json=as_json,
    )


@config.command()
@_file_option
@click.pass_context
def check(ctx: click.Context, file: Path | None) -> None:
    """Check every source and tell every fault; exits 3 when there is one. Connects to nothing.

    The [kafka] table is also shown to the Kafka client, which knows each setting it takes; a key
    file and http.ca_file are read. Of another machine's settings (--file) they may be missing here:
    a warning.

      Check a file before it is rolled out.

    \b
        processor config check --file deploy/processor.toml
    """
    from processor.settings import load_settings

    try:
        settings = load_settings(file=file)
    except ProcessorError as fault:
        faults = [fault.message]
    else:
        faults = list(client_faults(settings.kafka))
        for told in _file_faults(settings):
            if file is None:
                faults.append(told)
            else:
                say(f"warning: here {told}")
    for text in faults:
        say(f"error: {text}")
    if faults:
        ctx.exit(CHECK_FOUND_A_PROBLEM)
    say("the settings are complete and allowed")


def _file_faults(settings: Settings) -> Iterator[str]:
    """Read the files that a worker reads before it starts."""
    from processor.adapters.key_file import KeyFile
    from processor.preflight import check_certificates

    def read_keys() -> None:
        if settings.encryption.key_file is not None:
            KeyFile(settings.encryption.key_file)

    for read in (read_keys, lambda: check_certificates(settings)):
        try:
            read()
        except ProcessorError as fault:
            yield fault.message


def client_faults(kafka: Mapping[str, Any]) -> Iterator[str]:
    """Ask the Kafka client about each setting by itself, without a broker to connect to."""
    from confluent_kafka import KafkaError, KafkaException, Producer

    from processor.adapters.logins import TOKEN
    from processor.secret import masked

    for name, value in kafka.items():
        if name in ("bootstrap.servers", TOKEN):  # The token is ours; the client is handed it.
            continue
        try:
            Producer({name: value, "log_level": 0})
        except KafkaException as fault:
            error = fault.args[0]
            reason = error.str() if isinstance(error, KafkaError) else error
            # This one may be for want of a setting that goes with it, which stands beside it.
            if not reason.startswith("Failed to create producer"):
                yield f"kafka.{name} = {masked(name, value)!r}: {reason.strip()}"
