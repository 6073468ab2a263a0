"""`processor demo`: see the whole way on real servers."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from processor.cli import output

ROWS = (
    ("submitted", "jobs on the log, acknowledged by the broker"),
    ("succeeded", "files in S3, noted in the ledger"),
    ("retried", "of these, at a later attempt"),
    ("dead", "on the dead-letter topic"),
    ("lost", "jobs with neither an effect nor a dead letter"),
    ("effects_twice", "effects that happened more than once"),
    ("order_violations", "effects before an earlier job's of their key"),
    ("falsely_dead", "dead jobs that could have succeeded"),
    ("wrong", "objects in S3 that differ from their source"),
)


@click.command()
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".processor/demo"),
    show_default=True,
    help="Where it plays.",
)
@output.json_option
def demo(folder: Path, as_json: bool) -> None:
    """Copy the Python standard library into S3 by jobs, and kill a worker in the middle.

    Starts a local Kafka, schema registry and S3, and stops them again. Some files fail twice
    before they succeed, some can never succeed. At the end the sha256 of every object is compared
    with its source. Exit 0 only if nothing was lost, doubled or out of order.

    \b
      processor demo --json
    """
    from processor.demo.scenario import Show, play

    with output.progress() as bar:
        task = bar.add_task("copying", total=None)
        counts = {"succeeded": 0, "retried": 0, "dead": 0}

        def outcome(status: dict[str, Any], jobs: int) -> None:
            counts["dead" if status["state"] == "dead" else "succeeded"] += 1
            counts["retried"] += status["attempts"] > 1 and status["state"] != "dead"
            text = ", ".join(f"{count} {name}" for name, count in counts.items())
            done = counts["succeeded"] + counts["dead"]
            bar.update(task, completed=done, total=jobs, description=f"copying: {text}")

        ending = play(folder, Show(say=bar.console.print, outcome=outcome))
    verdict = asdict(ending.verdict)
    seconds = round(ending.seconds, 1)
    if as_json:
        names = [name for name, _ in ROWS]
        click.echo(json.dumps({**{name: verdict[name] for name in names}, "seconds": seconds}))
    else:
        rows = [{"count": verdict[name], "what": name, "meaning": text} for name, text in ROWS]
        rows.append({"count": seconds, "what": "seconds", "meaning": "in all"})
        output.emit(rows, ("count", "what", "meaning"))
    for fault in ending.verdict.faults:
        output.say(fault)
    if not ending.verdict.good:
        output.say(f"the workers' logs are in {folder / 'work'}")
    sys.exit(0 if ending.verdict.good else 1)
