"""The keys of tagged fields: without one nothing is submitted, and no worker starts."""

from __future__ import annotations

from collections.abc import Iterator

from processor.check.facts import Facts
from processor.check.finding import Finding, Rule
from processor.contracts.tags import PII, tagged_paths

MISSING = Rule(
    "keys.missing", "error",
    "a job type with fields tagged `PII`, and no key that encrypts and decrypts them",
    "such a job is refused at submission, and a worker of its topic does not start",
    "set encryption.key_file or encryption.kms_keys (docs/data-protection.md)",
)  # fmt: skip

RULES = (MISSING,)


def find(facts: Facts) -> Iterator[Finding]:
    """Look for tagged fields where there is no key for them."""
    if facts.keys_fault is None:
        return
    for schema in facts.schemas:
        if paths := tagged_paths(schema.parsed):
            fields = ", ".join(f"`{path}`" for path in paths)
            what = f"{fields} tagged {PII}, and {facts.keys_fault}"
            yield MISSING.broken(schema.full_name, what)
