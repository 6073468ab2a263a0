"""`python -m tests.bench`: what the ledger costs. The last line on stdout is one JSON object.

One worker runs the same jobs, which are on the topic already, with each kind of ledger in turn;
beside it plain batched inserts of the same rows. Absolute figures are this machine's at this hour:
compare within one run alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
from rich.console import Console
from rich.table import Table

from processor import Client, NewJob
from processor.engine.ports import Owner
from processor.engine.submit import Accepted
from processor.model import Effect, Position
from processor.sinks.postgres import PostgresLedger
from processor.sinks.sql import COLUMNS, done_row
from processor.stack import Stack
from tests.acceptance.project import Project
from tests.chaos import evidence

PARTITIONS = 12
MODULE = """
from processor import App
app = App()

@app.job("bench.count")
def count(payload: dict) -> dict:
    return payload
"""


class Bench:
    """A topic full of jobs, and a worker's way through it."""

    def __init__(self, stack: Stack, folder: Path, jobs: int) -> None:
        self.stack, self.jobs = stack, jobs
        self.servers = stack.kafka.bootstrap_servers
        folder.mkdir()
        self.project = Project(
            folder,
            {"kafka": {"bootstrap.servers": self.servers}, "registry": {"url": stack.registry.url}},
        )
        self.project.add_schema("bench.count", [{"name": "n", "type": "long"}])
        self.topic = self.project.add_topic(
            "bench", ["bench.count"], partitions=PARTITIONS, status={"publish": False}
        )
        self.project.add_module("handlers", MODULE)
        self.project.provision()
        with Client(self.project.settings()) as client:
            new = (NewJob("bench.count", {"n": n}, key=f"k{n % 997}") for n in range(jobs))
            assert all(isinstance(each, Accepted) for each in client.submit_many(new))

    def worked(self, ledger: str, name: str) -> float:
        """Jobs a second, from the takeover to the last commit; read from the group's offsets."""
        self.project.write_settings(worker={"group": name, "commit_interval_seconds": 0.1},
                                    ledger={"url": ledger})  # fmt: skip
        worker = self.project.start("work", "handlers:app", "--topic", self.topic)
        worker.wait_for("partition taken over")
        began = time.monotonic()
        while evidence.lag(self.servers, name, [self.topic], PARTITIONS) > 0:
            time.sleep(0.02)
        seconds = time.monotonic() - began
        assert worker.end() == 0
        return self.jobs / seconds

    def inserted(self, url: str) -> float:
        """Rows a second of plain inserts: 100 in a statement, each a transaction."""
        owner = Owner("g", self.topic, 0, 1)
        rows = [
            done_row(owner, Effect(f"job-{n}", "bench.count", f"job:job-{n}",
                                   Position(self.topic, 0, n), 1, f"k{n % 997}", {"n": n}), 0.0)
            for n in range(self.jobs)
        ]  # fmt: skip
        places = "(" + ", ".join(["%s"] * len(rows[0])) + ")"
        with psycopg.connect(url, autocommit=True) as connection:
            began = time.monotonic()
            for start in range(0, len(rows), 100):
                some = rows[start : start + 100]
                connection.execute(
                    f"INSERT INTO processor_ledger ({COLUMNS}) VALUES "
                    + ", ".join([places] * len(some)),
                    [value for row in some for value in row],
                )  # type: ignore[call-overload]
            return self.jobs / (time.monotonic() - began)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="processor-bench-"))
    stack = Stack(folder / "stack", ["kafka", "registry", "postgres"])
    try:
        stack.start("kafka", "registry", "postgres")
        bench = Bench(stack, folder / "project", options.jobs)
        told = measured(bench, stack.postgres.url, options.rounds)
    finally:
        stack.stop(kill=True)
    shown(told)
    print(json.dumps({"jobs": options.jobs, "rounds": options.rounds, **told}))
    return 0


def measured(bench: Bench, url: str, rounds: int) -> dict[str, object]:
    """Every variant in each round, in turn."""
    PostgresLedger(url).close()
    found: dict[str, list[float]] = {}
    ways: dict[str, Callable[[str], float]] = {
        "no ledger": lambda name: bench.worked("none", name),
        "SQLite": lambda name: bench.worked(f"sqlite:///.processor/{name}.db", name),
        "PostgreSQL": lambda name: bench.worked(url, name),
        "plain inserts": lambda _: bench.inserted(url),
    }
    with psycopg.connect(url, autocommit=True) as connection:
        setting = {
            name: connection.execute(f"SHOW {name}").fetchone()[0]  # type: ignore[call-overload, index]
            for name in ("fsync", "synchronous_commit")
        }
        for number in range(rounds):
            for place, (name, way) in enumerate(ways.items()):
                connection.execute("TRUNCATE processor_ledger, processor_owner")
                rate = way(f"{bench.project.name}-{number}-{place}")
                found.setdefault(name, []).append(round(rate))
                print(f"round {number + 1}: {name} {rate:.0f} jobs/s", file=sys.stderr, flush=True)
    median = {name: statistics.median(rates) for name, rates in found.items()}
    mine = median["PostgreSQL"]
    return {
        "postgres": setting,
        "jobs_per_second": median,
        "each_round": found,
        "postgres_to_none": round(mine / median["no ledger"], 3),
        "sqlite_to_none": round(median["SQLite"] / median["no ledger"], 3),
        "postgres_to_plain_inserts": round(mine / median["plain inserts"], 3),
    }


def shown(told: dict[str, object]) -> None:
    table = Table("way", "jobs/s (median)", "each round")
    medians, each = told["jobs_per_second"], told["each_round"]
    assert isinstance(medians, dict)
    assert isinstance(each, dict)
    for name, median in medians.items():
        table.add_row(name, f"{median:.0f}", ", ".join(f"{rate:.0f}" for rate in each[name]))
    Console(stderr=True).print(table)


if __name__ == "__main__":
    sys.exit(main())
