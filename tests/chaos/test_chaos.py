"""The short form of `make chaos`: one assignment protocol, under a minute."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.acceptance
@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_chaos_loses_doubles_and_disorders_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--short"], capture_output=True, text=True,
        timeout=580,
    )  # fmt: skip

    lines = done.stdout.splitlines()
    assert lines, done.stderr
    told = json.loads(lines[-1])
    print(lines[-1])
    assert done.returncode == 0, f"{lines}\n{done.stderr}"
    assert told["submitted"] > 5000
    assert (told["lost"], told["order_violations"], told["effects_twice"]) == (0, 0, 0)
    assert {"sigkill", "sigterm", "zombie", "broker kill", "scale"} <= told["faults"].keys()
