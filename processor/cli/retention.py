"""`processor retention`: how long claims are kept, and those that nobody needs any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from processor.cli.output import confirm, dry_run_option, emit, json_option, say, yes_option

if TYPE_CHECKING:
    from processor.settings import Settings

COLUMNS = ("action", "subject", "before", "after", "claims", "bytes")


@click.group()
def retention() -> None:
    """Keep the claim store tidy: values over a topic's limit, and `--file` inputs.

      See what would be done, then do it.

    \b
        processor retention apply --dry-run
        processor retention apply
    """


@retention.command()
@yes_option
@dry_run_option
@json_option
def apply(yes: bool, dry_run: bool, as_json: bool) -> None:
    """Set the bucket's lifecycle rule for claims, and delete claims that no record can refer to.

    A claim is needed as long as its job may be on the main topic, then in each retry tier, then
    among the dead letters, by all declared topics: so run it with all topic files of those who use
    the store. A topic that keeps dead letters for ever (policy `hold`) keeps claims for ever. Other
    rules of the bucket, and objects that are no claims, are left alone.

      Let a pipeline do it after `topics apply`.

    \b
        processor retention apply --yes
    """
    import time

    from processor.adapters.objects.stores import Objects
    from processor.adapters.topic_admin import TopicAdmin
    from processor.check.facts import Cluster
    from processor.contracts.builtin import topic_directories
    from processor.contracts.claim_rules import claim_days, claim_seconds
    from processor.contracts.topic import DAY
    from processor.contracts.topics import TopicSet
    from processor.errors import UsageError
    from processor.settings import load_settings

    settings = load_settings()
    base = settings.claims.store
    if base is None:
        raise UsageError("there is no claim store", hint="set [claims] store")
    topics = TopicSet.load(topic_directories(settings))
    admin = TopicAdmin(settings.kafka)
    seconds = claim_seconds(topics, Cluster(admin.brokers(), admin.describe(), {}).kept)
    days = None if seconds is None else claim_days(seconds)
    rows = [] if base.startswith("file:") else [_rule_row(settings, base, days, dry_run)]
    if days is not None:
        from processor.adapters.objects.claim_bucket import claims_in, delete_claims

        before = time.time() - days * DAY
        old = [claim for claim in claims_in(settings, base) if claim.modified < before]
        count = len(old)
        size = sum(claim.size for claim in old)
        if old and not dry_run:
            emit(rows, COLUMNS, as_json=as_json)
            rows = []
            confirm(f"delete {count} claim(s) of {size} bytes, older than {days} days?", yes=yes)
            count = delete_claims(Objects(settings), old, before=before)
        if old:
            action = "would delete" if dry_run else "deleted"
            rows.append({"action": action, "subject": base, "claims": count, "bytes": size})
    emit(rows, COLUMNS, as_json=as_json)
    say(f"claims are kept {'for ever' if days is None else f'for {days} days'}")
    if dry_run:
        say("dry run: nothing was changed")


def _rule_row(settings: Settings, base: str, days: int | None, dry_run: bool) -> dict[str, Any]:
    """Set our lifecycle rule where it differs."""
    from processor.adapters.objects.claim_bucket import ClaimBucket
    from processor.contracts.claim_rules import expiries, rule_id, with_our_rule

    bucket = ClaimBucket(settings.s3, base)
    rules = bucket.rules()
    wanted = with_our_rule(rules, bucket.prefix, days)
    ours = [rule for rule in rules if rule.get("ID") == rule_id(bucket.prefix)]
    before = next((f"expire after {d:g} days" for _, d in expiries(ours, bucket.prefix)), None)
    row = {"subject": bucket.uri, "before": before if ours else None}
    if ours == wanted[-1:]:
        return {**row, "action": "none", "after": before}
    if not dry_run:
        bucket.set_rules(wanted)
    after = "keep for ever" if days is None else f"expire after {days} days"
    return {**row, "action": "would set the rule" if dry_run else "set the rule", "after": after}
