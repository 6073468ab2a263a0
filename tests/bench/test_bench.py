"""The benchmark runs and tells what it measured; how fast it was is not asked here."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.broker
@pytest.mark.postgres
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_benchmark_tells_every_way_it_measured() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--short", "--jobs", "1600"],
        capture_output=True, text=True, timeout=170,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    *rows, told = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["way"] for row in rows} >= {"raw loop", "processor", "SQLite", "PostgreSQL"}
    assert all(row["per_second"] > 0 and row["cpu_us"] > 0 for row in rows)
    assert all(told[name] > 0 for name in told if "_to_" in name)
    assert told["latency"].keys() == {"raw loop", "processor"}
    assert told["postgres"]["fsync"] == "on"
