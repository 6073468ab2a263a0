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
        [sys.executable, "-m", "tests.bench", "--jobs", "300", "--rounds", "1"],
        capture_output=True, text=True, timeout=170,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert set(told["jobs_per_second"]) == {"no ledger", "SQLite", "PostgreSQL", "plain inserts"}
    assert all(rate > 0 for rate in told["jobs_per_second"].values())
    assert told["postgres"]["fsync"] == "on"
