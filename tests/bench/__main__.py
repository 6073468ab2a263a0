"""`python -m tests.bench`: the engine beside the raw client and its peers, in one run.

On stdout: one JSON line for each way, and last one object with every ratio by name. Absolute
figures are this machine's at this hour: compare within one run alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console
from rich.table import Table

from processor.stack import Stack
from tests.bench import scenarios
from tests.bench.peers import PEERS, Peer, Redis, python_of
from tests.bench.scenarios import Row
from tests.bench.site import Site

IDEAL_COROUTINES = 10_000.0  # 200 in flight, 20 ms each.
ENVIRONMENTS = Path(".bench")
# Scenario -> how many jobs it takes, as a share of --jobs.
SHARES = {
    "no-op": 1.0, "few": 0.05, "headers": 0.25, "ledgers": 0.125, "coroutines": 0.125,
    "failing": 0.5, "submit": 0.25, "processes": 0.1, "backlog": 12.5, "latency": 0.0,
    "cold": 0.0, "order": 0.05,
}  # fmt: skip


def main() -> int:
    options = parsed()
    short = options.short
    jobs = options.jobs or (4_000 if short else 400_000)
    rounds = options.rounds or (1 if short else 3)
    # The order workload has a test of its own: tests/acceptance/test_order_under_failure.py.
    every = [name for name in SHARES if not short or name != "order"]
    wanted = options.only.split(",") if options.only else every
    peers = {}
    if not short and not options.no_peers:
        peers = {each: python_of(each, ENVIRONMENTS.absolute()) for each in PEERS}
    folder = Path(tempfile.mkdtemp(prefix="processor-bench-"))
    stack = Stack(folder / "stack", ["kafka", "registry", "postgres"])
    try:
        stack.start("kafka", "registry", "postgres")
        site = Site(stack, folder / "project")
        with Redis(folder / "redis") as redis:
            rows, told = run(
                wanted, site, stack.postgres.url, redis.url, peers, jobs, rounds,
                short=short, soak_seconds=options.soak,
            )  # fmt: skip
        told["postgres"] = postgres_setting(stack.postgres.url)
    finally:
        stack.stop(kill=True)
    shown(rows)
    for row in rows:
        print(json.dumps(asdict(row)))
    print(json.dumps({"jobs": jobs, "rounds": rounds, **told, **ratios(rows)}))
    if options.chart is not None:
        from tests.bench.chart import draw

        draw(rows, options.chart)
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true", help="few jobs, one round: a smoke test")
    parser.add_argument("--jobs", type=int, help="of the no-op scenarios; others take a share")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--only", help=f"some of {','.join(SHARES)}")
    parser.add_argument("--no-peers", action="store_true", help="install and run no peers")
    parser.add_argument("--soak", type=float, default=60.0, help="seconds of the slow backlog run")
    parser.add_argument("--chart", type=Path, help="draw the no-op rows into this PNG file")
    return parser.parse_args()


def run(
    wanted: Sequence[str],
    site: Site,
    url: str,
    redis: str | None,
    peers: Mapping[Peer, Path],
    jobs: int,
    rounds: int,
    *,
    short: bool,
    soak_seconds: float,
) -> tuple[list[Row], dict[str, Any]]:
    """Run the scenarios asked for. Returns the rows, and what is told beside them."""
    count = {name: max(200, int(jobs * share)) for name, share in SHARES.items()}
    soak = 2.0 if short else soak_seconds
    tabled: dict[str, Callable[[], list[Row]]] = {
        "no-op": lambda: scenarios.no_op(site, count["no-op"], rounds, peers),
        "few": lambda: scenarios.slow_peers(site, count["few"], rounds, peers, redis),
        "headers": lambda: scenarios.with_headers(site, count["headers"], rounds),
        "ledgers": lambda: scenarios.ledgers(site, count["ledgers"], rounds, url),
        "coroutines": lambda: scenarios.coroutines(site, count["coroutines"], rounds),
        "failing": lambda: scenarios.failing(site, count["failing"], rounds),
        "submit": lambda: scenarios.submission(site, count["submit"], rounds),
        "processes": lambda: scenarios.processes(site, count["processes"], rounds),
        "backlog": lambda: scenarios.backlog(site, count["backlog"], soak),
    }
    beside: dict[str, Callable[[], Any]] = {
        "latency": lambda: scenarios.latencies(site, 1 if short else 10, rounds),
        "cold": lambda: scenarios.cold_starts(site, rounds),
        "order": lambda: scenarios.order_under_failure(site, count["order"]),
    }
    rows = [row for name, each in tabled.items() if name in wanted for row in each()]
    return rows, {name: each() for name, each in beside.items() if name in wanted}


def postgres_setting(url: str) -> dict[str, str]:
    """What makes its commits durable."""
    with psycopg.connect(url) as connection:
        return {
            name: connection.execute(f"SHOW {name}").fetchone()[0]  # type: ignore[call-overload, index]
            for name in ("fsync", "synchronous_commit")
        }


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Every ratio by name, of the scenarios that were run."""
    rate = {(row.scenario, row.way): row.per_second for row in rows}
    cpu = {(row.scenario, row.way): row.cpu_us for row in rows}
    found: dict[str, float] = {}

    def tell(name: str, scenario: str, way: str, other: str) -> None:
        if (scenario, way) in rate and (scenario, other) in rate:
            found[name] = round(rate[scenario, way] / rate[scenario, other], 3)

    for ordering in ("partition", "key", "none"):
        scenario = f"no-op, {ordering}"
        tell(f"noop_{ordering}_to_raw", scenario, "processor", "raw loop")
        tell(f"noop_{ordering}_coroutine_to_raw", scenario, "processor, coroutine", "raw loop")
    tell("noop_batch_to_raw", "no-op, partition", "processor, batch", "raw loop")
    tell("headers_to_raw", "no-op with headers, partition", "processor", "raw loop")
    tell("postgres_to_plain_inserts", "ledger, partition", "PostgreSQL", "plain inserts")
    tell("postgres_to_no_ledger", "ledger, partition", "PostgreSQL", "no ledger")
    tell("sqlite_to_postgres", "ledger, partition", "SQLite", "PostgreSQL")
    tell("failing_to_none", "other keys' jobs, partition", "1 % fails", "none fails")
    tell("submit_to_raw", "submit", "processor", "raw loop")
    tell("two_processes_to_one", "CPU-bound, partition", "2 processes", "1 process")
    if ("20 ms coroutine, key", "processor") in rate:
        found["coroutines_to_ideal"] = round(
            rate["20 ms coroutine, key", "processor"] / IDEAL_COROUTINES, 3
        )
    for scenario in ("no-op, partition", "no-op, few jobs"):
        for peer in PEERS:
            tell(f"processor_to_{_name(peer)}", scenario, "processor", peer.name)
            if (scenario, peer.name) in cpu:
                ours = cpu[scenario, "processor"]
                found[f"cpu_{_name(peer)}_to_processor"] = round(cpu[scenario, peer.name] / ours, 2)
    return found


def _name(peer: Peer) -> str:
    return peer.script.removeprefix("with_").removesuffix(".py")


def shown(rows: Sequence[Row]) -> None:
    table = Table("scenario", "way", "jobs/s (median)", "CPU µs per job", "MB", "each round")
    for row in rows:
        table.add_row(
            row.scenario,
            row.way,
            f"{row.per_second:,.0f}",
            f"{row.cpu_us:.1f}",
            f"{row.rss_mb:.0f}" if row.rss_mb else "",
            ", ".join(f"{each:,.0f}" for each in row.rounds),
        )
    Console(stderr=True, width=130).print(table)


if __name__ == "__main__":
    sys.exit(main())
