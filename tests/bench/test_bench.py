"""The benchmark runs and tells what it measured; how fast it was is not asked here."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.broker
@pytest.mark.postgres
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_benchmark_tells_every_way_it_measured() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--short", "--jobs", "800"],
        capture_output=True, text=True, timeout=880,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    *rows, told = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["way"] for row in rows} >= {"raw loop", "processor", "SQLite", "PostgreSQL"}
    assert all(row["per_second"] > 0 and row["cpu_us"] > 0 for row in rows)
    assert all(told[name] > 0 for name in told if "_to_" in name)
    assert {name for name in told if "_to_" in name} == {
        "noop_partition_to_raw", "noop_partition_coroutine_to_raw", "noop_key_to_raw",
        "noop_key_coroutine_to_raw", "noop_none_to_raw", "noop_none_coroutine_to_raw",
        "noop_batch_to_raw", "headers_to_raw", "postgres_to_plain_inserts", "postgres_to_no_ledger",
        "sqlite_to_postgres", "failing_to_none", "submit_to_raw", "two_processes_to_one",
        "coroutines_to_ideal",
    }  # fmt: skip
    assert told["latency"].keys() == told["cold"].keys() == {"raw loop", "processor"}
    assert told["postgres"]["fsync"] == "on"
