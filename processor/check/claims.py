"""The claim store: claims are there as long as a job may need them, and gone some day."""

from __future__ import annotations

from collections.abc import Iterator

from processor.check.facts import Facts
from processor.check.finding import Finding, Rule
from processor.contracts.claim_rules import (
    aborts_uploads,
    claim_days,
    claim_seconds,
    expires,
    expiries,
    freezes,
    rule_id,
)

_APPLY = "processor retention apply"

LIFETIME = Rule(
    "claims.lifetime", "error",
    "a lifecycle rule of the bucket that deletes claims while a record may still refer to them",
    "a job whose claim is gone cannot be worked or replayed: it is dead for good",
    _APPLY,
)  # fmt: skip
FROZEN = Rule(
    "claims.frozen", "error",
    "a lifecycle rule that moves claims to a storage class that is not read at once",
    "the worker is refused the claim, and its partition waits",
    "take the transition out of the rule, or let it begin later",
)  # fmt: skip
EXPIRY = Rule(
    "claims.expiry", "warning",
    "a bucket that never deletes claims",
    "what jobs carried is kept for ever, and paid for",
    _APPLY,
)  # fmt: skip
UPLOADS = Rule(
    "claims.uploads", "warning",
    "a bucket that never aborts uploads which did not end",
    "a process killed in the middle of an upload leaves parts that no one sees and everyone pays",
    _APPLY,
)  # fmt: skip

SHARED = Rule(
    "claims.shared", "error",
    "members of the group on several machines with a claim store in a folder",
    "each machine has a folder of its own: a claim is found where it was put alone, and a job that"
    " runs elsewhere cannot be worked",
    "set claims.store to an S3 bucket; accept it where all machines mount the same folder",
)  # fmt: skip

RULES = (LIFETIME, FROZEN, EXPIRY, UPLOADS, SHARED)


def find(facts: Facts) -> Iterator[Finding]:
    """Judge where claims are kept, and the lifecycle rules by what the topics keep."""
    store, machines = facts.settings.claims.store or "", sorted(set(facts.hosts))
    if store.startswith("file:") and len(machines) > 1:
        what = f"{store} is a folder, and group `{facts.settings.worker.group}` has members at "
        yield SHARED.broken("claims.store", what + ", ".join(machines))
    if facts.bucket is None or facts.cluster is None:
        return
    bucket, prefix = facts.bucket, facts.bucket.prefix
    subject = f"s3://{bucket.name}/{prefix}"
    seconds = claim_seconds(facts.topics, facts.cluster.kept)
    needed = None if seconds is None else claim_days(seconds)
    wanted = "for ever" if needed is None else f"{needed} days"
    for name, days in expiries(bucket.rules, prefix):
        if needed is None or days < needed:
            what = f"rule `{name}` deletes claims after {days:g} days, they are needed {wanted}"
            yield LIFETIME.broken(subject, what, mend=_mend(name, prefix))
    for name, days, where in freezes(bucket.rules, prefix):
        if needed is None or days < needed:
            what = f"rule `{name}` moves claims to {where} after {days:g} days, they are needed"
            yield FROZEN.broken(subject, f"{what} {wanted}")
    if needed is not None and not expires(bucket.rules, prefix):
        what = f"no rule deletes claims; none is needed for longer than {wanted}"
        yield EXPIRY.broken(subject, what)
    if not aborts_uploads(bucket.rules, prefix):
        yield UPLOADS.broken(subject, "no rule has AbortIncompleteMultipartUpload")


def _mend(rule: str, prefix: str) -> str:
    if rule == rule_id(prefix):
        return _APPLY
    return f"`retention apply` leaves other rules alone: lengthen or remove rule `{rule}` yourself"
