"""`python -m tests.bench`: the engine beside the raw client, in one run on one machine.

The last line on stdout is one JSON object with every ratio by name; before it, one JSON line for
each way. Absolute figures are this machine's at this hour: compare within one run alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import psycopg
from rich.console import Console
from rich.table import Table

from processor.stack import Stack
from tests.bench import scenarios
from tests.bench.scenarios import Row
from tests.bench.site import Site

IDEAL_COROUTINES = 10_000.0  # 200 in flight, 20 ms each.


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true", help="few jobs, one round: a smoke test")
    parser.add_argument("--jobs", type=int, help="of the no-op scenarios; others take a share")
    parser.add_argument("--rounds", type=int)
    options = parser.parse_args()
    jobs = options.jobs or (4_000 if options.short else 400_000)
    rounds = options.rounds or (1 if options.short else 3)
    folder = Path(tempfile.mkdtemp(prefix="processor-bench-"))
    stack = Stack(folder / "stack", ["kafka", "registry", "postgres"])
    try:
        stack.start("kafka", "registry", "postgres")
        site = Site(stack, folder / "project")
        rows = run(site, stack.postgres.url, jobs, rounds)
        latency = scenarios.latencies(site, seconds=1 if options.short else 10)
        setting = postgres_setting(stack.postgres.url)
    finally:
        stack.stop(kill=True)
    shown(rows)
    for row in rows:
        print(json.dumps(asdict(row)))
    told = {"jobs": jobs, "rounds": rounds, "postgres": setting, "latency": latency}
    print(json.dumps({**told, **ratios(rows)}))
    return 0


def run(site: Site, url: str, jobs: int, rounds: int) -> list[Row]:
    return [
        *scenarios.no_op(site, jobs, rounds),
        *scenarios.with_headers(site, jobs // 4, rounds),
        *scenarios.ledgers(site, jobs // 8, rounds, url),
        *scenarios.coroutines(site, jobs // 8, rounds),
        *scenarios.failing(site, jobs // 2, rounds),
        *scenarios.submission(site, jobs // 4, rounds),
    ]


def postgres_setting(url: str) -> dict[str, str]:
    """What makes its commits durable."""
    with psycopg.connect(url) as connection:
        return {
            name: connection.execute(f"SHOW {name}").fetchone()[0]  # type: ignore[call-overload, index]
            for name in ("fsync", "synchronous_commit")
        }


def ratios(rows: list[Row]) -> dict[str, float]:
    """Every ratio by name."""
    rate = {(row.scenario, row.way): row.per_second for row in rows}

    def of(scenario: str, way: str, other: str) -> float:
        return round(rate[scenario, way] / rate[scenario, other], 3)

    ledger, others = "ledger, partition", "other keys' jobs, partition"
    return {
        **{
            f"noop_{ordering}_to_raw": of(f"no-op, {ordering}", "processor", "raw loop")
            for ordering in ("partition", "key", "none")
        },
        "noop_batch_to_raw": of("no-op, partition", "processor, batch", "raw loop"),
        "headers_to_raw": of("no-op with headers, partition", "processor", "raw loop"),
        "postgres_to_plain_inserts": of(ledger, "PostgreSQL", "plain inserts"),
        "sqlite_to_postgres": of(ledger, "SQLite", "PostgreSQL"),
        "coroutines_to_ideal": round(
            rate["20 ms coroutine, key", "processor"] / IDEAL_COROUTINES, 3
        ),
        "failing_to_none": of(others, "1 % fails", "none fails"),
        "submit_to_raw": of("submit", "processor", "raw loop"),
    }


def shown(rows: list[Row]) -> None:
    table = Table("scenario", "way", "jobs/s (median)", "CPU µs per job", "each round")
    for row in rows:
        table.add_row(
            row.scenario,
            row.way,
            f"{row.per_second:,.0f}",
            f"{row.cpu_us:.1f}",
            ", ".join(f"{each:,.0f}" for each in row.rounds),
        )
    Console(stderr=True, width=120).print(table)


if __name__ == "__main__":
    sys.exit(main())
