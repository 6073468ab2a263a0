"""The promises, one function each. They look at the log, the ledger's effects and nothing else."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable

from processor.core.lane import Ordering
from processor.engine.replay import letter_of
from tests.simulation.world import World, number_of


def nothing_is_lost(world: World) -> list[str]:
    """Every submitted job took effect or has a dead letter."""
    effects, letters = set(_effects(world)), _letters(world)
    lost = set(world.told.submitted) - effects - letters
    return [f"job {n} is lost" for n in sorted(lost)]


def keys_keep_their_order(world: World) -> list[str]:
    """Effects of one key happen in the order of submission.

    Under the policy `continue` a key goes on without its dead: each replay is in order by itself.
    """
    if world.ordering is Ordering.NONE:
        return []
    by_key: dict[str, list[int]] = defaultdict(list)
    dead = _letters(world)
    for effect in world.store.written:
        n = number_of(effect)
        key = world.told.submitted[n]
        if key is not None:
            name = key if world.hold else f"{key}, replay {effect.replay}"
            if world.ledgerless and n in by_key[name]:
                continue  # It promises no more than the order of first effects,
            if world.ledgerless and n in dead:
                continue  # and an owner that was expelled may still run what is dead by now.
            by_key[name].append(n)
    return [f"key {key}: {seq}" for key, seq in by_key.items() if seq != sorted(seq)]


def effects_happen_once(world: World) -> list[str]:
    """No job takes effect twice, where a ledger remembers it."""
    if world.ledgerless:
        return []
    return [f"job {o} took effect {n} times" for o, n in Counter(_effects(world)).items() if n > 1]


def no_letter_is_false(world: World) -> list[str]:
    """No job that took effect has a dead letter, unless a later replay revived it."""
    if world.ledgerless:
        return []
    effects = {number_of(effect): effect.replay for effect in world.store.written}
    return [
        f"job {n} took effect and is dead"
        for record in world.broker.records("t.dlt")
        if (letter := letter_of(record)) is not None and not letter.held
        if effects.get(n := world.told.numbers[letter.hop.origin], world.replay + 1)
        <= letter.hop.replay
    ]


def held_keys_are_released(world: World) -> list[str]:
    """Once jobs succeed again, replays leave no key closed and nothing held."""
    if not world.told.ended:
        return []
    closed = [key for keys in world.store.closed.values() for key in keys]
    held = [offset for jobs in world.store.held_jobs.values() for offset in jobs]
    dead = [row.job_id for row in world.store.rows.values() if row.state != "done"]
    return [f"closed {closed}, held {held}, dead {dead}"] if closed or held else []


def commits_stay_below_the_watermark(world: World) -> list[str]:
    """No accepted commit is above a job that is neither done, parked nor dead."""
    return [each for each in world.told.violations if each.startswith("commit")]


def bounds_hold(world: World) -> list[str]:
    """What is full is paused, and no more runs than there is room for."""
    return [each for each in world.told.violations if each.startswith("bound")]


def work_ends(world: World) -> list[str]:
    """Once faults have ended, everything is settled and committed."""
    return [] if world.told.ended else [f"stuck after {world.told.ticks} ticks"]


CHECKERS: tuple[Callable[[World], list[str]], ...] = (
    nothing_is_lost,
    keys_keep_their_order,
    effects_happen_once,
    no_letter_is_false,
    held_keys_are_released,
    commits_stay_below_the_watermark,
    bounds_hold,
    work_ends,
)


def judged(world: World) -> dict[str, list[str]]:
    """Ask every checker. Empty: every promise was kept."""
    world.run()
    found = {checker.__name__: checker(world) for checker in CHECKERS}
    return {name: faults for name, faults in found.items() if faults}


def _effects(world: World) -> list[int]:
    return [number_of(effect) for effect in world.store.written]


def _letters(world: World) -> set[int]:
    letters = [letter_of(record) for record in world.broker.records("t.dlt")]
    return {world.told.numbers[each.hop.origin] for each in letters if each is not None}
