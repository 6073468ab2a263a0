"""The contracts against the registry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from processor.check.facts import Facts, Subject
from processor.check.finding import Finding, Rule
from processor.contracts.compatibility import both_ways
from processor.contracts.schemas import Schema, SchemaSet
from processor.contracts.tags import PII, TagFault, tagged_paths

INCOMPATIBLE = Rule(
    "schema.incompatible", "error",
    "a schema that does not read a registered version's records, or whose records that one does not"
    " read",
    "while a release is rolled out old and new workers meet each other's jobs, and those that they"
    " cannot read are dead",
    "processor schemas check",
)  # fmt: skip
UNREGISTERED = Rule(
    "schema.unregistered", "error",
    "a job type, or a status topic's record, whose schema is not registered",
    "workers do not start without the status topic's; a job's is refused at submission",
    "processor schemas register",
)  # fmt: skip

TAGS = Rule(
    "schema.tags", "error",
    "a schema that the registry has with other `PII` tags",
    "fields are encrypted by the tags in the file, and those who read them go by the registry's:"
    " submissions are refused",
    "change the field's `doc` too, then: processor schemas register",
)  # fmt: skip

RULES = (INCOMPATIBLE, UNREGISTERED, TAGS)


def find(facts: Facts) -> Iterator[Finding]:
    """Judge each subject by itself. What is incompatible is not told to be unregistered, too."""
    for subject in facts.subjects:
        faults = list(subject_faults(subject))
        for direction, problem, against in faults:
            what = f"against {against}, {direction}: {problem}"
            yield INCOMPATIBLE.broken(subject.schema.full_name, what)
        if not faults and subject.registered is None:
            what = f"`{subject.name}` does not have the schema of {subject.schema.path}"
            yield UNREGISTERED.broken(subject.schema.full_name, what)
        if subject.registered is not None:
            yield from _other_tags(subject, _parsed(subject.schema.full_name, subject.registered))


def _other_tags(subject: Subject, registered: Schema) -> Iterator[Finding]:
    ours = set(tagged_paths(subject.schema.parsed))
    try:
        theirs = set(tagged_paths(registered.parsed))
    except TagFault as fault:
        yield TAGS.broken(subject.schema.full_name, f"in `{subject.name}` {fault}")
        return
    if ours != theirs:
        where = {True: "the file", False: f"`{subject.name}`"}
        each = [f"`{path}` in {where[path in ours]} alone" for path in sorted(ours ^ theirs)]
        yield TAGS.broken(subject.schema.full_name, f"tagged {PII}: {', '.join(each)}")


def subject_faults(subject: Subject) -> Iterator[tuple[str, str, str]]:
    """Yield (direction, problem, against what) by every version, or the registry's objections."""
    found = False
    for number, text in subject.versions:
        older = _parsed(subject.schema.full_name, text)
        for direction, problem in both_ways(subject.schema.parsed, older.parsed):
            found = True
            yield direction, problem, f"{subject.name} version {number}"
    if not found:
        for reason in subject.objections:
            yield "registry's own rule", reason, subject.name


def _parsed(full_name: str, text: str) -> Schema:
    return SchemaSet.parse([(Path(f"{full_name}.avsc"), text)], lint=False).get(full_name)
