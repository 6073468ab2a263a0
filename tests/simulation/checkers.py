"""The promises, one function each. They look at the log, the ledger's effects and nothing else."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable

from processor.contracts import headers
from tests.simulation.world import World


def nothing_is_lost(world: World) -> list[str]:
    """Every submitted job took effect or has a dead letter."""
    effects, letters = set(_effects(world)), _letters(world)
    return [
        f"job {offset} is lost"
        for offset in world.told.submitted
        if offset not in effects and offset not in letters
    ]


def keys_keep_their_order(world: World) -> list[str]:
    """Effects of one key happen in the order of submission."""
    by_key: dict[str, list[int]] = defaultdict(list)
    for offset in _effects(world):
        key = world.told.submitted[offset]
        if key is not None:
            by_key[key].append(offset)
    return [f"key {key}: {seq}" for key, seq in by_key.items() if seq != sorted(seq)]


def effects_happen_once(world: World) -> list[str]:
    """No job takes effect twice."""
    return [f"job {o} took effect {n} times" for o, n in Counter(_effects(world)).items() if n > 1]


def no_letter_is_false(world: World) -> list[str]:
    """No job that took effect has a dead letter."""
    both = set(_effects(world)) & _letters(world)
    return [f"job {offset} took effect and is dead" for offset in both]


def commits_stay_below_the_watermark(world: World) -> list[str]:
    """No accepted commit is above a job that is neither done, parked nor dead."""
    return [each for each in world.told.violations if each.startswith("commit")]


def work_ends(world: World) -> list[str]:
    """Once faults have ended, everything is settled and committed."""
    return [] if world.told.ended else [f"stuck after {world.told.ticks} ticks"]


CHECKERS: tuple[Callable[[World], list[str]], ...] = (
    nothing_is_lost,
    keys_keep_their_order,
    effects_happen_once,
    no_letter_is_false,
    commits_stay_below_the_watermark,
    work_ends,
)


def judged(world: World) -> dict[str, list[str]]:
    """Ask every checker. Empty: every promise was kept."""
    world.run()
    found = {checker.__name__: checker(world) for checker in CHECKERS}
    return {name: faults for name, faults in found.items() if faults}


def _effects(world: World) -> list[int]:
    return [effect.result["n"] for effect in world.store.written]


def _letters(world: World) -> set[int]:
    found = set()
    for record in world.broker.records("t.dlt"):
        hop = headers.read_hop(record)
        assert hop is not None
        found.add(hop.origin.offset)
    return found
