from __future__ import annotations

import pytest

from tests.simulation.checkers import judged
from tests.simulation.defects import DEFECTS
from tests.simulation.world import World

SEEDS = 200  # `make simulate` runs 20,000.
SEEDS_FOR_A_DEFECT = 4000


def test_no_promise_is_broken_in_any_world():
    broken = {seed: found for seed in range(SEEDS) if (found := judged(World(seed)))}

    assert broken == {}


def test_one_seed_is_one_run():
    first, second = World(41), World(41)

    judged(first)
    judged(second)

    assert first.broker.records("t.dlt") == second.broker.records("t.dlt")
    assert first.told == second.told


@pytest.mark.parametrize("name", DEFECTS)
def test_planted_defect_is_caught(name: str):
    plant, checkers = DEFECTS[name]
    seen: dict[str, int] = {}
    for seed in range(SEEDS_FOR_A_DEFECT):
        with plant():
            for checker in judged(World(seed)):
                seen.setdefault(checker, seed)
        if checkers <= seen.keys():
            break

    assert checkers <= seen.keys(), f"{name}: only {seen} in {SEEDS_FOR_A_DEFECT} seeds"
    print(f"{name}: { ({checker: seen[checker] for checker in sorted(checkers)}) }")
