"""Rights: whether these credentials may do what their role does."""

from __future__ import annotations

from collections.abc import Iterator

from processor.check.facts import Facts
from processor.check.finding import Finding, Rule
from processor.contracts.acl_plan import Deployment, rights_of
from processor.settings import NO_LEDGER

MISSING = Rule(
    "acl.missing", "error",
    "a right that the role given with `--role` needs, and the credentials used here lack",
    "what needs it is refused while it runs: a worker ends with exit code 2, its jobs wait",
    "processor acls apply --role ROLE, as an administrator (docs/security.md)",
)  # fmt: skip

RULES = (MISSING,)
IMPLY_DESCRIBE = ("Describe", "Read", "Write", "Alter", "Delete")


def find(facts: Facts) -> Iterator[Finding]:
    """Compare what the roles need with what the brokers say that these credentials may do."""
    if facts.may is None:
        return
    deployment = Deployment(
        facts.settings.worker.group,
        remembers=facts.settings.ledger.url != NO_LEDGER,
        result_topics=facts.result_topics,
    )
    for right in rights_of(dict.fromkeys(facts.roles, ("",)), facts.topics, deployment):
        acl = right.acl
        may = facts.may.get((acl.resource, acl.name))
        if may is None or (not may and acl.operation not in IMPLY_DESCRIBE):
            continue  # It does not exist, or may not be described: what else is allowed is hidden.
        if acl.operation not in may:
            what = f"{acl.operation} is not allowed; the role {right.role} {right.why}"
            mend = MISSING.mend.replace("ROLE", right.role)
            yield MISSING.broken(f"{acl.resource} {acl.name}", what, mend=mend)
