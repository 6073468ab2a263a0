"""Tagged fields: their keys, and what the registry has of them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from processor.check.facts import Subject
from processor.contracts.schemas import Schema, SchemaSet
from processor.protection import EncryptionSettings
from processor.survey import keys_fault, subject_of
from tests.check.test_rules import facts, told


def schema(*fields: tuple[str, str, bool]) -> Schema:
    """Of fields by name, type and whether they are tagged."""
    document = {"type": "record", "namespace": "mail", "name": "send", "doc": "A mail.", "fields": [
        {"name": name, "type": kind, **({"confluent:tags": ["PII"]} if tagged else {})}
        for name, kind, tagged in fields
    ]}  # fmt: skip
    sources = [(Path("mail.send.avsc"), json.dumps(document))]
    return SchemaSet.parse(sources, lint=False).get("mail.send")


def test_tagged_fields_without_a_key_are_found():
    plain = schema(("to", "string", False))
    tagged = schema(("to", "string", True), ("act", "string", False), ("photo", "bytes", True))

    found = told(facts(schemas=(plain, tagged), keys_fault="there is no key"))

    assert found == [("keys.missing", "`to`, `photo` tagged PII, and there is no key")]
    assert told(facts(schemas=(tagged,))) == []
    assert told(facts(schemas=(plain,), keys_fault="there is no key")) == []


def test_key_file_that_cannot_be_read_is_no_key(tmp_path: Path):
    path = tmp_path / "keys.toml"

    without, unread = (
        keys_fault(EncryptionSettings()),
        keys_fault(EncryptionSettings(key_file=path)),
    )
    path.write_text(f'current = "a"\n[keys]\na = "{base64.b64encode(bytes(32)).decode()}"')

    assert without == "there is no key"
    assert unread == f"the key file {path} cannot be read: No such file or directory"
    assert keys_fault(EncryptionSettings(key_file=path)) is None


@pytest.mark.parametrize(
    ("ours", "theirs", "what"),
    [
        (True, True, None),
        (False, False, None),
        (True, False, "tagged PII: `to` in the file alone"),
        (False, True, "tagged PII: `to` in `mail-mail.send` alone"),
    ],
)
def test_tags_are_those_that_the_registry_has(ours: bool, theirs: bool, what: str | None):
    text = schema(("to", "string", theirs)).text
    subject = Subject("mail-mail.send", schema(("to", "string", ours)), text, ((1, text),), ())

    found = told(facts(subjects=(subject,)))

    assert found == ([] if what is None else [("schema.tags", what)])


def test_registry_that_passes_tags_over_is_asked_for_the_text_that_it_has():
    ours, theirs = schema(("to", "string", True)), schema(("to", "string", False))

    class Lax:
        def find_id(self, subject: str, text: str) -> int:
            return 7

        def schema_by_id(self, schema_id: int) -> str:
            return theirs.text if schema_id == 7 else ""

        def versions(self, subject: str) -> list[tuple[int, str]]:
            return [(1, theirs.text)]

    registry: Any = Lax()
    subject = subject_of(registry, "mail-mail.send", ours)

    found = told(facts(subjects=(subject,)))

    assert found == [("schema.tags", "tagged PII: `to` in the file alone")]


def test_registered_tag_that_could_not_be_kept_to_is_told():
    text = schema(("count", "int", True)).text
    subject = Subject("mail-mail.send", schema(("count", "int", False)), text, ((1, text),), ())

    ((rule, what),) = told(facts(subjects=(subject,)))

    assert rule == "schema.tags"
    assert what.startswith("in `mail-mail.send` field `count` is tagged PII and of type int")
