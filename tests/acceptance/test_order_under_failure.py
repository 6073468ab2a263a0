"""Jobs of many keys, one attempt in ten failing: each key's effects stay in order, and no key waits
for another. With a worker killed half way the same must hold.
"""

from __future__ import annotations

import os

import pytest

from tests.acceptance import order_workload
from tests.acceptance.order_workload import FLOOR_SECONDS
from tests.acceptance.project import Project

JOBS = int(os.environ.get("TEST_ORDER_JOBS", "20000"))


@pytest.mark.acceptance
@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kill", [False, True], ids=["undisturbed", "one worker killed"])
def test_keys_keep_their_order_while_jobs_fail(project: Project, kill: bool) -> None:
    told = order_workload.worked(project, jobs=JOBS, kill=kill)

    print(f"{JOBS} jobs, killed {kill}: {told.seconds:.1f} s, {len(told.dead)} dead")
    assert told.doubled == []
    assert told.lost == 0
    assert told.out_of_order == []
    assert sorted(told.dead) == sorted(key for key, _ in order_workload.expected_dead(JOBS))
    if not kill:
        assert told.seconds < 3 * FLOOR_SECONDS  # Its own machine: `make bench` measures.
