"""The short form of `make chaos-effects`, and the same with a defect that must be found."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.broker,
    pytest.mark.postgres,
    pytest.mark.slow,
    pytest.mark.timeout(600),
]


def told_by(*arguments: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.effects", "--short", *arguments],
        capture_output=True, text=True, timeout=580,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines, done.stderr
    print(lines[-1])
    return done.returncode, json.loads(lines[-1])


def test_every_effect_happens_once_and_in_order_whatever_is_killed() -> None:
    code, told = told_by()

    assert code == 0, told
    assert told["submitted"] > 5000
    assert (told["lost"], told["order_violations"], told["effects_twice"]) == (0, 0, 0)
    assert told["wrong_counters"] == 0
    hurt = {"sigkill", "sigterm", "zombie", "database restart", "connection killed"}
    assert hurt <= told["faults"].keys()


@pytest.mark.timeout(1200)
def test_writes_that_are_not_fenced_are_found() -> None:
    """In one of three runs: not every worker that is stopped is in the middle of something."""
    for seed in ("4", "5", "6"):
        code, told = told_by("--seed", seed, "--plant", "no fence")
        if code == 1:
            break

    assert code == 1
    assert told["effects_twice"] > 0
    assert told["wrong_counters"] > 0
