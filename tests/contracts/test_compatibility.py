from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastavro.schema import parse_schema
from hypothesis import given
from hypothesis import strategies as st

from processor.contracts.avro import Decoder, Encoder
from processor.contracts.compatibility import incompatibilities
from processor.contracts.schemas import Schema, SchemaSet


def record(*fields: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "record", "name": "a.job", "fields": list(fields), **more}


def one(kind: Any, **more: Any) -> dict[str, Any]:
    return record({"name": "x", "type": kind, **more})


def enum(*symbols: str, **more: Any) -> dict[str, Any]:
    return {"type": "enum", "name": "e", "symbols": list(symbols), **more}


def found(reader: Any, writer: Any) -> list[str]:
    return incompatibilities(reader=parse_schema(reader), writer=parse_schema(writer))


MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
FIXED = {"type": "fixed", "name": "f", "size": 4}


@pytest.mark.parametrize(
    ("reader", "writer"),
    [
        (one("int"), one("int")),
        (one("long"), one("int")),
        (one("double"), one("float")),
        (one("bytes"), one("string")),
        (one(["null", "string"]), one("string")),
        (one("string"), one(["string"])),
        (record(), one("int")),
        (one("int", default=1), record()),
        (one("int", aliases=["y"]), record({"name": "y", "type": "int"})),
        (one(enum("A", "B")), one(enum("A"))),
        (one(enum("A", default="A")), one(enum("A", "B"))),
        (one({"type": "array", "items": "long"}), one({"type": "array", "items": "int"})),
        (one({"type": "map", "values": ["null", "int"]}), one({"type": "map", "values": "int"})),
        (record(name="b.job", aliases=["a.job"]), record()),
    ],
)
def test_readable_change_is_no_fault(reader: Any, writer: Any):
    assert found(reader, writer) == []


@pytest.mark.parametrize(
    ("reader", "writer", "said"),
    [
        (one("string"), one("bytes"), "field `x`: bytes cannot be read as string"),
        (one("int"), one("long"), "field `x`: long cannot be read as int"),
        (one("int"), record(), "field `x`: is missing there, and has no default"),
        (one("string"), one(["null", "string"]), "field `x`: null cannot be read as string"),
        (one(["null", "int"]), one(["null", "string"]),
         "field `x`: string is no longer among its types"),
        (one(enum("A")), one(enum("A", "B")),
         "field `x`: symbols B are unknown, and there is no default"),
        (one(FIXED), one({**FIXED, "size": 8}), "field `x`: 8 bytes cannot be read as 4"),
        (one(FIXED), one({**FIXED, "name": "g"}), "field `x`: a.g cannot be read as a.f"),
        (one(MILLIS), one("long"), "field `x`: long means something else than timestamp-millis"),
        (one({"type": "array", "items": "int"}), one({"type": "array", "items": "string"}),
         "field `x[]`: string cannot be read as int"),
        (one(["null", record({"name": "z", "type": "int"}, name="p")]),
         one(["null", record(name="p")]), "field `x.z`: is missing there, and has no default"),
        (record(name="b.job"), record(), "a.job cannot be read as b.job"),
    ],
)  # fmt: skip
def test_unreadable_change_names_the_field(reader: Any, writer: Any, said: str):
    assert found(reader, writer) == [said]


def test_all_faults_are_listed():
    reader = record({"name": "x", "type": "int"}, {"name": "y", "type": "int"})
    writer = record({"name": "x", "type": "string"})

    assert len(found(reader, writer)) == 2


PLAIN = ["int", "long", "double", "string", "boolean", "bytes"]
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "null": st.none(),
    "int": st.integers(-5, 5),
    "long": st.integers(-(2**40), 2**40),
    "double": st.floats(-5, 5),
    "string": st.text(st.characters(max_codepoint=90), max_size=5),
    "boolean": st.booleans(),
    "bytes": st.binary(max_size=5),
}
kinds = (
    st.sampled_from(PLAIN)
    | st.sampled_from(PLAIN).map(lambda kind: ["null", kind])
    | st.sampled_from(PLAIN).map(lambda kind: {"type": "array", "items": kind})
)
some_fields = st.dictionaries(st.sampled_from(["a", "b", "c"]), kinds)


def value_of(kind: Any) -> st.SearchStrategy[Any]:
    if isinstance(kind, list):
        return st.one_of([value_of(branch) for branch in kind])
    if isinstance(kind, dict):
        return st.lists(value_of(kind["items"]), max_size=3)
    return VALUES[kind]


def schema(fields: dict[str, Any]) -> Schema:
    described = [
        {"name": name, "type": kind, **({"default": None} if isinstance(kind, list) else {})}
        for name, kind in fields.items()
    ]
    document = json.dumps(record(*described))
    return SchemaSet.parse([(Path("a.job.avsc"), document)], lint=False).get("a.job")


@given(some_fields, some_fields, st.data())
def test_what_is_called_readable_is_read_by_the_decoder(
    written: dict[str, Any], read: dict[str, Any], data: Any
):
    writer, reader = schema(written), schema(read)
    if incompatibilities(reader=reader.parsed, writer=writer.parsed):
        return
    payload = {name: data.draw(value_of(kind)) for name, kind in written.items()}

    class Source:
        def schema_by_id(self, schema_id: int) -> str:
            return writer.text

    value = Encoder(writer, 1).encode(payload)
    decoded = Decoder(Source(), SchemaSet({"a.job": reader})).decode(value)

    assert decoded.payload.keys() == read.keys()
