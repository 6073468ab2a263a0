"""`python -m tests.simulation --seeds 0:20000`: many worlds; prints what broke, and the seed."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from tests.simulation.checkers import judged
from tests.simulation.world import World


@dataclass(frozen=True, slots=True)
class Batch:
    runs: int
    broken: list[tuple[int, dict[str, list[str]]]]
    faults: int
    ticks: int


def run_batch(first: int, last: int) -> Batch:
    broken, faults, ticks = [], 0, 0
    for seed in range(first, last):
        world = World(seed)
        found = judged(world)
        faults += world.told.faults
        ticks += world.told.ticks
        if found:
            broken.append((seed, found))
    return Batch(last - first, broken, faults, ticks)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default="0:1000", help="FIRST:LAST, or one seed")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    first, _, last = options.seeds.partition(":")
    low, high = int(first), int(last) if last else int(first) + 1
    started = time.monotonic()
    step = max(1, min(250, (high - low) // options.processes or 1))
    broken: list[tuple[int, dict[str, list[str]]]] = []
    faults = ticks = 0
    with ProcessPoolExecutor(options.processes) as pool:
        starts = range(low, high, step)
        for batch in pool.map(run_batch, starts, [min(s + step, high) for s in starts]):
            broken += batch.broken
            faults += batch.faults
            ticks += batch.ticks
            for seed, found in batch.broken:
                print(f"seed {seed}: {json.dumps(found)}", file=sys.stderr)
    kinds = Counter(name for _, found in broken for name in found)
    print(
        json.dumps(
            {
                "seeds": high - low,
                "violations": len(broken),
                "kinds": dict(kinds),
                "faults": faults,
                "ticks": ticks,
                "seconds": round(time.monotonic() - started, 1),
            }
        )
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
