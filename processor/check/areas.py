"""Every rule and every finding. What is found comes in the order of the areas."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from processor.check import (
    claims,
    clients,
    group,
    handlers,
    keys,
    producers,
    retention,
    rights,
    schemas,
    topics,
)
from processor.check.facts import Facts
from processor.check.finding import Finding, Rule
from processor.contracts.faults import did_you_mean
from processor.errors import UsageError

Area = Callable[[Facts], Iterator[Finding]]

AREAS: tuple[Area, ...] = (
    clients.find, topics.find, retention.find, claims.find, schemas.find, keys.find, group.find,
    producers.find, handlers.find, rights.find,
)  # fmt: skip
RULES: tuple[Rule, ...] = (
    *clients.RULES, *topics.RULES, *retention.RULES, *claims.RULES, *schemas.RULES, *keys.RULES,
    *group.RULES, *producers.RULES, *handlers.RULES, *rights.RULES,
)  # fmt: skip


def find_all(facts: Facts) -> list[Finding]:
    """Find everything that is wrong."""
    return [finding for find in AREAS for finding in find(facts)]


def chosen_ids(names: Sequence[str]) -> frozenset[str]:
    """Take ids, or the word before the dot for all of its ids. UsageError for any other."""
    known = [rule.id for rule in RULES]
    areas = dict.fromkeys(each.partition(".")[0] for each in known)
    chosen: set[str] = set()
    for name in names:
        found = [each for each in known if name in (each, each.partition(".")[0])]
        if not found:
            raise UsageError(
                f"no check is called `{name}`", hint=did_you_mean(name, [*known, *areas])
            )
        chosen.update(found)
    return frozenset(chosen)
