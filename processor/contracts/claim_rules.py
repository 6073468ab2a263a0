"""How long a claim is needed, and the S3 lifecycle rules that remove it after that: pure.

Rule 1: a claim is needed as long as a record that refers to it may be on a topic: it may lie on the
main topic to the end of its retention, then in each retry tier, then among the dead letters.
Rule 2: putting the same value again, or replaying a dead letter, lets a claim's life begin anew
where it is older than `RENEW_SECONDS` (contracts/claims.py): a younger one has that much to spare.
Rule 3: our rule is known by its id. The bucket's other rules are never changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from processor.contracts.claims import RENEW_SECONDS
from processor.contracts.topic import DAY, Topic, TopicSpec

ABORT_DAYS = 1  # An upload that takes longer than a day is given up.
SPARE_SECONDS = RENEW_SECONDS + DAY  # A day for clocks, and for records that Kafka deletes late.

Rule = Mapping[str, Any]
Kept = Mapping[str, float | None]  # By topic: seconds, or None: for ever.

_FROZEN = ("GLACIER", "DEEP_ARCHIVE")  # What is there cannot be read at once.


def retention_seconds(spec: TopicSpec) -> float | None:
    """How long a Kafka topic is to keep its records; None: for ever."""
    return seconds_of(spec.config["retention.ms"])


def seconds_of(retention_ms: str) -> float | None:
    """Read Kafka's `retention.ms`; None: for ever."""
    return None if int(retention_ms) < 0 else int(retention_ms) / 1000


def claim_seconds(topics: Iterable[Topic], kept: Kept | None = None) -> float | None:
    """How long a claim of these topics must live; None: for ever.

    `kept` is how long the cluster's own topics keep records; the longer of both counts.
    """
    longest = 0.0
    for topic in topics:
        whole = 0.0
        for spec in topic.all_topics(brokers=1):
            if spec.name == topic.status_topic:
                continue
            both = [retention_seconds(spec), (kept or {}).get(spec.name, 0.0)]
            finite = [each for each in both if each is not None]
            if len(finite) < len(both):
                return None
            whole += max(finite)
        longest = max(longest, whole)
    return longest


def claim_days(seconds: float) -> int:
    """Round up to the whole days that a lifecycle rule takes, with some to spare."""
    return math.ceil((seconds + SPARE_SECONDS) / DAY)


def rule_id(prefix: str) -> str:
    """Name our rule for one claim store; a bucket may have several."""
    return f"processor-claims:{prefix}"[:255]


def with_our_rule(rules: Sequence[Rule], prefix: str, days: int | None) -> list[Rule]:
    """Give the bucket's rules with ours for this prefix; `days` None: claims are kept for ever.

    S3 takes either the old or the new way of writing a prefix, but not both in one bucket.
    """
    others = [rule for rule in rules if rule.get("ID") != rule_id(prefix)]
    ours: dict[str, Any] = {"ID": rule_id(prefix), "Status": "Enabled"}
    if any("Prefix" in rule for rule in others):
        ours["Prefix"] = prefix
    else:
        ours["Filter"] = {"Prefix": prefix}
    if days is not None:
        ours["Expiration"] = {"Days": days}
    ours["AbortIncompleteMultipartUpload"] = {"DaysAfterInitiation": ABORT_DAYS}
    return [*others, ours]


def expiries(rules: Iterable[Rule], prefix: str) -> Iterator[tuple[str, float]]:
    """Yield each rule that may delete claims: its name, and after how many days."""
    for rule in _enabled(rules):
        if _touches(rule, prefix) and (expiration := rule.get("Expiration")):
            if "Days" in expiration:
                yield _named(rule), expiration["Days"]
            elif "Date" in expiration:  # From that date on everything goes, also what is new.
                yield _named(rule), 0


def expires(rules: Iterable[Rule], prefix: str) -> bool:
    """Whether every claim is deleted some day."""
    return any(
        "Days" in (r.get("Expiration") or {}) and _covers(r, prefix) for r in _enabled(rules)
    )


def aborts_uploads(rules: Iterable[Rule], prefix: str) -> bool:
    """Whether the parts of an upload that never ended are deleted some day."""
    return any(
        "AbortIncompleteMultipartUpload" in rule and _covers(rule, prefix)
        for rule in _enabled(rules)
    )


def freezes(rules: Iterable[Rule], prefix: str) -> Iterator[tuple[str, float, str]]:
    """Yield each rule that moves claims to where nobody can read them: name, days, where to."""
    for rule in _enabled(rules):
        if _touches(rule, prefix):
            for move in rule.get("Transitions") or ():
                if move.get("StorageClass") in _FROZEN:
                    yield _named(rule), move.get("Days", 0), move["StorageClass"]


def _enabled(rules: Iterable[Rule]) -> Iterator[Rule]:
    return (rule for rule in rules if rule.get("Status") == "Enabled")


def _named(rule: Rule) -> str:
    return str(rule.get("ID") or "without an id")


def _prefix_of(rule: Rule) -> str:
    chosen: Mapping[str, Any] = rule.get("Filter") or {}
    return str(chosen.get("And", chosen).get("Prefix", rule.get("Prefix", "")))


def _tagged(rule: Rule) -> bool:
    chosen: Mapping[str, Any] = rule.get("Filter") or {}
    return "Tag" in chosen or "Tags" in chosen.get("And", {})


def _touches(rule: Rule, prefix: str) -> bool:
    """Whether a rule may meet claims. They have no tags; of sizes there are all."""
    other = _prefix_of(rule)
    return not _tagged(rule) and (prefix.startswith(other) or other.startswith(prefix))


def _covers(rule: Rule, prefix: str) -> bool:
    chosen: Mapping[str, Any] = rule.get("Filter") or {}
    sized = {"ObjectSizeGreaterThan", "ObjectSizeLessThan"} & {*chosen, *chosen.get("And", {})}
    return not _tagged(rule) and not sized and prefix.startswith(_prefix_of(rule))
