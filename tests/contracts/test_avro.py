from __future__ import annotations

import datetime as dt
import json
import tracemalloc
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from processor.contracts.avro import (
    SCHEMA_ID_MAX,
    UNKNOWN_ID_SECONDS,
    UNKNOWN_IDS_MAX,
    Decoder,
    Encoder,
    payload_from_json,
    subject_for,
)
from processor.contracts.schemas import Schema, SchemaSet
from processor.errors import ContractError, RegistryUnavailable

UTC = dt.timezone.utc  # noqa: UP017 - `dt.UTC` reads like a class here.
NOON = dt.datetime(2026, 1, 2, 12, tzinfo=UTC)


def schemas(*documents: dict[str, Any], lint: bool = False) -> SchemaSet:
    return SchemaSet.parse(
        [(Path(f"{each['name']}.avsc"), json.dumps(each)) for each in documents], lint=lint
    )


def job(*fields: tuple[Any, ...]) -> Schema:
    described = [
        {"name": name, "type": kind, **({"default": more[0]} if more else {})}
        for name, kind, *more in fields
    ]
    return schemas({"type": "record", "name": "a.job", "fields": described}).get("a.job")


def set_of(schema: Schema) -> SchemaSet:
    return SchemaSet({schema.full_name: schema})


class FakeSource:
    """A registry of what it is given, that counts how often it is asked."""

    def __init__(self, **texts: str) -> None:
        self.texts = {int(name.removeprefix("id")): text for name, text in texts.items()}
        self.asked = 0
        self.away = False

    def schema_by_id(self, schema_id: int) -> str:
        self.asked += 1
        if self.away:
            raise RegistryUnavailable("away")
        if schema_id not in self.texts:
            raise ContractError(f"schema id {schema_id} is not in the registry")
        return self.texts[schema_id]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


PART = {
    "type": "record", "name": "a.part",
    "fields": [
        {"name": "uri", "type": "string"},
        {"name": "size", "type": ["null", "long"], "default": None},
    ],
}  # fmt: skip
RICH = job(
    ("text", "string"),
    ("count", "int", 3),
    ("total", "long", 0),
    ("ratio", "double", 0.5),
    ("flag", "boolean", False),
    ("blob", ["null", "bytes"], None),
    ("color", {"type": "enum", "name": "a.color", "symbols": ["red", "blue"]}, "red"),
    ("tags", {"type": "array", "items": "string"}, []),
    ("sizes", {"type": "map", "values": "long"}, {}),
    ("part", ["null", PART], None),
    ("parts", {"type": "array", "items": "a.part"}, []),
    ("at", ["null", {"type": "long", "logicalType": "timestamp-millis"}], None),
    ("day", ["null", {"type": "int", "logicalType": "date"}], None),
    ("id", ["null", {"type": "string", "logicalType": "uuid"}], None),
    (
        "price",
        ["null", {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}],
        None,
    ),
    ("either", ["null", "long", "string", {"type": "array", "items": "string"}], None),
    ("hash", ["null", {"type": "fixed", "name": "a.hash", "size": 4}], None),
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
longs = st.integers(-(2**63), 2**63 - 1)
part_values = st.fixed_dictionaries({"uri": texts}, optional={"size": st.none() | longs})
rich_values = st.fixed_dictionaries(
    {"text": texts},
    optional={
        "count": st.integers(-(2**31), 2**31 - 1),
        "total": longs,
        "ratio": st.floats(allow_nan=False),
        "flag": st.booleans(),
        "blob": st.none() | st.binary(max_size=20),
        "color": st.sampled_from(["red", "blue"]),
        "tags": st.lists(texts, max_size=5),
        "sizes": st.dictionaries(texts, longs, max_size=5),
        "part": st.none() | part_values,
        "parts": st.lists(part_values, max_size=3),
        "at": st.none()
        | st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30), timezones=st.just(UTC)).map(
            lambda at: at.replace(microsecond=at.microsecond // 1000 * 1000)
        ),
        "day": st.none() | st.dates(),
        "id": st.none() | st.uuids(),
        "price": st.none() | st.decimals(-9999, 9999, places=2),
        "either": st.none() | longs | texts | st.lists(texts, max_size=3),
        "hash": st.none() | st.binary(min_size=4, max_size=4),
    },
)
DEFAULTS = {name["name"]: name["default"] for name in RICH.parsed["fields"] if "default" in name}


def filled(payload: dict[str, Any]) -> dict[str, Any]:
    whole = {**DEFAULTS, **payload}
    if whole["part"] is not None:
        whole["part"] = {"size": None, **whole["part"]}
    whole["parts"] = [{"size": None, **part} for part in whole["parts"]]
    return whole


@given(rich_values)
def test_payload_comes_back_as_it_was_sent_with_defaults_filled_in(payload: dict[str, Any]):
    value = Encoder(RICH, 7).encode(payload)

    decoded = Decoder(FakeSource(id7=RICH.text)).decode(value)

    assert value[:5] == b"\x00\x00\x00\x00\x07"
    assert decoded.job_type == "a.job"
    assert decoded.payload == filled(payload)


def test_tuple_is_an_array_in_a_union_too():
    value = Encoder(RICH, 7).encode({"text": "a", "either": ("b", "c")})

    assert Decoder(FakeSource(id7=RICH.text)).decode(value).payload["either"] == ["b", "c"]


def test_record_without_fields_has_an_empty_body():
    empty = job()

    value = Encoder(empty, 1).encode({})

    assert value == b"\x00\x00\x00\x00\x01"
    assert Decoder(FakeSource(id1=empty.text)).decode(value).payload == {}


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"text": 3}, "field `text`: expected string, got int"),
        ({"text": "\ud800"}, ("field `text`: expected string, got str with lone surrogates, which"
         " UTF-8 lacks")),
        ({}, "field `text`: expected string, got nothing: it is missing"),
        ({"text": "a", "txt": 1}, "field `txt`: unknown, the schema has no such field"),
        ({"text": "a", "count": True}, "field `count`: expected int, got bool"),
        ({"text": "a", "count": 2**31}, ("field `count`: expected int, got an int of more than 32"
         " bits")),
        ({"text": "a", "total": 2**63}, ("field `total`: expected long, got an int of more than 64"
         " bits")),
        ({"text": "a", "ratio": "1"}, "field `ratio`: expected a number, got str"),
        ({"text": "a", "blob": "a"}, "field `blob`: expected bytes or null, got str"),
        ({"text": "a", "color": "green"}, ("field `color`: expected one of red, blue, got another"
         " str")),
        ({"text": "a", "color": ["red"]}, "field `color`: expected one of red, blue, got list"),
        ({"text": "a", "tags": "a"}, "field `tags`: expected an array, got str"),
        ({"text": "a", "tags": ["a", 1]}, "field `tags[1]`: expected string, got int"),
        ({"text": "a", "sizes": {1: 1}}, ("field `sizes`: expected string keys, got a key of type"
         " int")),
        ({"text": "a", "part": {"uri": None}}, "field `part.uri`: expected string, got null"),
        ({"text": "a", "part": 5}, "field `part`: expected a record or null, got int"),
        ({"text": "a", "parts": [{"uri": "x", "size": "5"}]}, ("field `parts[0].size`: expected"
         " long or null, got str")),
        ({"text": "a", "at": NOON.replace(tzinfo=None)}, ("field `at`: expected a time with a zone"
         " or null, got one without")),
        ({"text": "a", "day": NOON}, "field `day`: expected a date or null, got datetime"),
        ({"text": "a", "id": "nonsense"}, ("field `id`: expected uuid or null, got str that is"
         " none")),
        ({"text": "a", "price": 1.5}, ("field `price`: expected decimal of 6 digits, 2 of them"
         " after the point or null, got float")),
        ({"text": "a", "price": Decimal("1.234")}, ("field `price`: expected decimal of 6 digits,"
         " 2 of them after the point or null, got one with more digits")),
        ({"text": "a", "hash": b"abc"}, "field `hash`: expected 4 bytes or null, got 3 bytes"),
        ({"text": "a", "either": 1.5}, ("field `either`: expected null or long or string or array,"
         " got float")),
        (["a"], "expected a record, got list"),
    ],
)  # fmt: skip
def test_wrong_payload_is_refused_by_field_and_type(payload: Any, message: str):
    with pytest.raises(ContractError) as caught:
        Encoder(RICH, 1).encode(payload)

    assert caught.value.message == f"payload of `a.job`: {message}"


def test_unknown_field_names_the_one_that_was_meant():
    with pytest.raises(ContractError) as caught:
        Encoder(RICH, 1).encode({"text": "a", "colour": "red"})

    assert caught.value.hint == "did you mean `color`?"


def test_refusal_never_shows_a_value():
    for name in DEFAULTS:
        with pytest.raises(ContractError) as caught:
            Encoder(RICH, 1).encode({"text": "a", name: {"canary-4711": object()}})

        assert "canary" not in f"{caught.value.message} {caught.value.hint}"


def test_json_stands_for_what_it_has_no_type_of():
    document = {
        "text": "a", "blob": "AAH/", "hash": "AAECAw==", "price": "12.50", "day": "2026-01-02",
        "at": "2026-01-02T13:00:00+01:00", "id": "00000000-0000-0000-0000-000000000001",
        "either": ["x"], "part": {"uri": "u", "size": 5},
    }  # fmt: skip

    payload = payload_from_json(RICH, document)

    assert payload == {
        **document,
        "blob": b"\x00\x01\xff",
        "hash": b"\x00\x01\x02\x03",
        "price": Decimal("12.50"),
        "day": dt.date(2026, 1, 2),
        "at": NOON,
    }
    decoded = Decoder(FakeSource(id1=RICH.text)).decode(Encoder(RICH, 1).encode(payload))
    assert decoded.payload["at"] == NOON
    assert decoded.payload["id"] == uuid.UUID(int=1)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"text": "a", "blob": "?"}, "field `blob`: expected base64 text, got str that is none"),
        ({"text": "a", "at": "noon"}, "field `at`: expected an ISO 8601 datetime"),
        ({"text": "a", "at": "2026-01-02T13:00:00"}, "field `at`: expected a time with a zone"),
        ({"text": "a", "price": 12.5}, "field `price`: expected decimal as text"),
        ({"text": "a", "parts": [{}]}, "field `parts[0].uri`: expected string, got nothing"),
        ({"text": "a", "color": "green"}, "field `color`: expected one of red, blue"),
        ({"text": "a", "nope": 1}, "field `nope`: unknown"),
        ([1], "expected a record, got list"),
        (None, "expected a record, got null"),
    ],
)
def test_wrong_json_is_refused_by_field_and_type(document: Any, said: str):
    with pytest.raises(ContractError) as caught:
        payload_from_json(RICH, document)

    assert said in caught.value.message


def test_older_reader_reads_a_newer_record_and_the_reverse():
    old = job(("keep", "string"), ("count", "int"))
    new = job(
        ("keep", "string"), ("count", "long"), ("tags", {"type": "array", "items": "int"}, [1])
    )
    source = FakeSource(id1=old.text, id2=new.text)
    old_value = Encoder(old, 1).encode({"keep": "a", "count": 3})
    new_value = Encoder(new, 2).encode({"keep": "a", "count": 3, "tags": [5]})

    forward = Decoder(
        FakeSource(id1=job(("keep", "string"), ("more", "int")).text),
        set_of(job(("keep", "string"))),
    ).decode(Encoder(job(("keep", "string"), ("more", "int")), 1).encode({"keep": "a", "more": 1}))
    backward = Decoder(source, set_of(new)).decode(old_value)

    assert forward.payload == {"keep": "a"}
    assert backward.payload == {"keep": "a", "count": 3, "tags": [1]}
    assert Decoder(source, set_of(new)).decode(new_value).payload["tags"] == [5]


def test_handler_that_changes_a_default_changes_no_later_payload():
    old = job(("x", "int"))
    new = job(("x", "int"), ("tags", {"type": "array", "items": "int"}, []))
    decoder = Decoder(FakeSource(id1=old.text), set_of(new))
    value = Encoder(old, 1).encode({"x": 1})

    decoder.decode(value).payload["tags"].append(9)

    assert decoder.decode(value).payload == {"x": 1, "tags": []}


def test_every_place_of_a_default_has_its_own_copy_and_nothing_else_is_copied():
    def crowd(*more: dict[str, Any]) -> Schema:
        fields = [{"name": "text", "type": "string"}, *more]
        item = {"type": "record", "name": "a.item", "fields": fields}
        return job(("x", {"type": "map", "values": {"type": "array", "items": item}}))

    old = crowd()
    new = crowd({"name": "tags", "type": {"type": "map", "values": {
        "type": "array", "items": "int"}}, "default": {"a": [1]}})  # fmt: skip
    items = [{"text": "t" * 1000}] * 500
    value = Encoder(old, 1).encode({"x": {"a": items, "b": items}})
    decoder = Decoder(FakeSource(id1=old.text), set_of(new))

    tracemalloc.start()
    payload = decoder.decode(value).payload
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    payload["x"]["a"][0]["tags"]["a"].append(2)

    assert payload["x"]["a"][1]["tags"] == payload["x"]["b"][0]["tags"] == {"a": [1]}
    assert decoder.decode(value).payload["x"]["a"][0]["tags"] == {"a": [1]}
    assert peak < 2_500_000  # The texts are a million; they are read twice, and not kept twice.


def test_value_that_defaults_make_too_heavy_is_refused_before_it_is_decoded():
    def crowd(*more: dict[str, Any]) -> Schema:
        fields = [{"name": "ok", "type": "boolean"}, *more]
        item = {"type": "record", "name": "a.item", "fields": fields}
        return job(("x", {"type": "array", "items": item}))

    tags = {"type": "array", "items": "string"}
    new = crowd(*({"name": f"tags{n}", "type": tags, "default": []} for n in range(5)))
    value = b"\x00\x00\x00\x00\x01\x80\x80\x40" + b"\x01" * 512 * 1024 + b"\x00"
    tracemalloc.start()
    try:
        with pytest.raises(ContractError, match="more than 268435456 bytes of memory"):
            Decoder(FakeSource(id1=crowd().text), set_of(new)).decode(value)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 10 * 1024 * 1024


def test_record_that_the_local_schema_cannot_read_is_a_contract_fault():
    writer, reader = job(("x", "string")), job(("x", "int"))

    with pytest.raises(ContractError, match=r"schema 1 of `a\.job` cannot be read"):
        Decoder(FakeSource(id1=writer.text), set_of(reader)).decode(
            Encoder(writer, 1).encode({"x": "a"})
        )


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "no value"),
        (b"", "no magic byte 0"),
        (b'{"text": "a"}', "no magic byte 0"),
        (b"\x00\x00\x00", "3 bytes hold no schema id"),
        (b"\x00\x00\x00\x00\x63abc", "schema id 99 is not in the registry"),
    ],
)
def test_bytes_that_are_no_avro_are_a_contract_fault(value: bytes | None, said: str):
    with pytest.raises(ContractError, match=said):
        Decoder(FakeSource(id7=RICH.text)).decode(value)


@given(rich_values, st.data())
def test_truncated_or_lengthened_value_is_a_contract_fault(payload: dict[str, Any], data: Any):
    value = Encoder(RICH, 7).encode(payload)
    without_last = job(*((each["name"], each["type"]) for each in RICH.parsed["fields"][:-1]))
    cut = data.draw(st.integers(0, len(value) - 1))

    for decoder in (
        Decoder(FakeSource(id7=RICH.text)),
        Decoder(FakeSource(id7=RICH.text), set_of(without_last)),
    ):
        with pytest.raises(ContractError):
            decoder.decode(value[:cut])
        with pytest.raises(ContractError, match="follow the end"):
            decoder.decode(value + b"\x00")


HUGE = b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"  # The long 2⁶³-1, as a length claim.
SHAPES = [
    RICH,
    job(("x", "string")),
    job(("x", "bytes")),
    job(("x", {"type": "array", "items": "boolean"})),
    job(("x", {"type": "map", "values": {"type": "array", "items": "double"}})),
    job(("x", ["null", "string", {"type": "array", "items": "long"}])),
]


@settings(max_examples=500)
@given(st.sampled_from(SHAPES), st.binary(max_size=200))
@example(SHAPES[1], HUGE)
@example(SHAPES[2], HUGE + b"abc")
@example(SHAPES[3], HUGE + b"\x01" * 50)
@example(SHAPES[3], b"\x01" + HUGE + b"\x00")
@example(SHAPES[4], HUGE)
@example(SHAPES[1], b"\xff" * 190)
def test_hostile_body_decodes_or_is_a_contract_fault(schema: Schema, body: bytes):
    reader = job(("added", "int", 1))
    value = b"\x00\x00\x00\x00\x01" + body

    for decoder in (
        Decoder(FakeSource(id1=schema.text)),
        Decoder(FakeSource(id1=schema.text), set_of(reader)),
    ):
        try:
            decoded = decoder.decode(value)
        except ContractError:
            continue
        assert decoded.job_type == "a.job"


@given(rich_values, st.data())
def test_flipped_byte_decodes_or_is_a_contract_fault(payload: dict[str, Any], data: Any):
    value = bytearray(Encoder(RICH, 7).encode(payload))
    place = data.draw(st.integers(5, len(value) - 1))
    value[place] = data.draw(st.integers(0, 255))

    try:
        decoded = Decoder(FakeSource(id7=RICH.text)).decode(bytes(value))
    except ContractError:
        return
    assert decoded.payload.keys() == filled(payload).keys()


def text_of(*fields: tuple[Any, ...]) -> str:
    listed = [
        {"name": name, "type": kind, **({"doc": more[0]} if more else {})}
        for name, kind, *more in fields
    ]
    return json.dumps({"type": "record", "name": "a.job", "fields": listed})


def named(level: int, *kinds: Any) -> dict[str, Any]:
    fields = [{"name": f"f{at}", "type": kind} for at, kind in enumerate(kinds)]
    return {"type": "record", "name": f"a.level{level}", "fields": fields}


def doubled(levels: int, leaf: Any) -> list[tuple[str, Any]]:
    """Records of two records of two records …: a million values, and no byte between them."""
    kind = named(0, leaf)
    for level in range(1, levels):
        kind = named(level, kind, f"a.level{level - 1}")
    return [("x", kind)]


def stacked(levels: int) -> list[tuple[str, Any]]:
    """Each type holds the one before it by name, so the text is flat and the value is deep."""
    fields = [("x0", named(0, "int"))]
    return fields + [(f"x{n}", named(n, f"a.level{n - 1}")) for n in range(1, levels)]


def test_value_as_deep_as_is_allowed_is_read():
    schema = job(*stacked(64))
    deep: Any = 7
    payload = {}
    for level in range(64):
        deep = {"f0": deep}
        payload[f"x{level}"] = deep

    value = Encoder(schema, 1).encode(payload)

    assert Decoder(FakeSource(id1=schema.text)).decode(value).payload == payload


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (('{"type":"record","name":"a.job","fields":[{"name":"x","type":'
         '{"type":"array","items":"null"}}]}'), "take no bytes"),
        ('{"type":"record","name":"a.job","fields":[{"name":"x","type":["null","a.job"]}]}',
         "contains itself"),
        ('"string"', "is no record"),
        ('{"type":"record","name":"a.job","fields":[{"name":"x","type":"b.part"}]}',
         "no self-contained Avro schema"),
        (text_of(*doubled(20, "null")), "values that take no bytes"),
        (text_of(*doubled(20, {"type": "record", "name": "a.empty", "fields": []})),
         "values that take no bytes"),
        (text_of(*stacked(65)), "nested deeper than 64"),
        (text_of(("x", "string", "d" * 1_100_000)), "more than 1048576 characters"),
        ("[" * 100_000, "no self-contained Avro schema"),
        ("not json", "no self-contained Avro schema"),
    ],
)  # fmt: skip
def test_schema_by_which_bytes_could_hurt_is_refused_before_decoding(text: str, said: str):
    with pytest.raises(ContractError, match=said):
        Decoder(FakeSource(id1=text)).decode(b"\x00\x00\x00\x00\x01" + HUGE)


def foreign(*fields: dict[str, Any], **more: Any) -> str:
    return json.dumps({"type": "record", "name": "x.y", "fields": list(fields), **more})


LOOP = {"type": "record", "name": "x.z", "fields": [{"name": "a", "type": ["null", "x.z"]}]}
HARMLESS = {"type": "record", "name": "x.z", "fields": []}


@pytest.mark.parametrize(
    "text",
    [
        foreign({"name": "a", "type": {"type": "bytes", "logicalType": "decimal"}}),
        foreign({"name": "a", "type": {"type": "fixed", "name": "f", "size": "5"}}),
        foreign({"name": ["a"], "type": "int"}),
        foreign({"name": "a", "type": "string", "confluent:tags": 5}),
        foreign({"name": "a", "type": "string", "confluent:tags": [["PII"]]}),
        foreign({"name": "a", "type": {"type": "string", "confluent:tags": True}}),
        foreign({"name": "a", "type": "string"}, **{"confluent:tags": True}),
        # What fastavro would believe to have checked, and follow without an end.
        foreign(
            {"name": "a", "type": HARMLESS},
            {"name": "b", "type": ["null", "x.z"]},
            __fastavro_parsed=True,
            __named_schemas={"x.z": LOOP},
        ),
    ],
)
def test_whatever_a_strangers_schema_provokes_is_a_contract_fault(text: str):
    for body in (b"\x02" * 400_000, b"\x00" * 40, b"\x02a", bytes(range(1, 60))):
        with pytest.raises(ContractError):
            Decoder(FakeSource(id1=text)).decode(b"\x00\x00\x00\x00\x01" + body)


def test_id_that_no_registry_gives_out_is_refused_and_not_asked_for():
    source = FakeSource()

    for schema_id in (SCHEMA_ID_MAX + 1, 2**32 - 1):
        with pytest.raises(ContractError, match="over 2147483647, the highest"):
            Decoder(source).decode(b"\x00" + schema_id.to_bytes(4, "big"))
    with pytest.raises(ContractError, match="not in the registry"):
        Decoder(source).decode(b"\x00" + SCHEMA_ID_MAX.to_bytes(4, "big"))

    assert source.asked == 1


def test_job_type_is_admitted_before_the_body_is_looked_at():
    with pytest.raises(ContractError, match=r"`a\.job` is another topic's"):
        Decoder(FakeSource(id7=RICH.text)).decode(b"\x00\x00\x00\x00\x07no body", refuse)


def tagged_crowd(name: str) -> str:
    """A thousand tagged fields below one of this name."""
    kind: Any = {"type": "record", "name": "a.one", "fields": [
        {"name": "a", "type": "string", "confluent:tags": ["PII"]},
    ]}  # fmt: skip
    for level in range(3):
        fields = [{"name": f"x{n}", "type": kind if n == 0 else kind["name"]} for n in range(10)]
        kind = {"type": "record", "name": f"a.level{level}", "fields": fields}
    return text_of((name, kind))


def refuse(job_type: str) -> None:
    raise ContractError(f"`{job_type}` is another topic's")


def test_strangers_schema_takes_little_memory_before_it_is_admitted():
    long = "n" * 400_000
    hazard = {"type": "array", "items": "null"}
    texts = [
        tagged_crowd(long),
        text_of((long, named(0, *[hazard] * 1000))),
        json.dumps({"type": "record", "name": "a.job", "namespace": long, "fields": [
            {"name": f"x{n}", "type": {"type": "fixed", "name": f"x{n}", "size": 1}}
            for n in range(1000)
        ]}),
    ]  # fmt: skip
    for text in texts:
        decoder = Decoder(FakeSource(id1=text))
        tracemalloc.start()
        try:
            for _ in range(3):
                with pytest.raises(ContractError):
                    decoder.decode(b"\x00\x00\x00\x00\x01", refuse)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert peak < 20 * 1024 * 1024


def test_schema_is_compiled_only_once_it_is_admitted():
    text = tagged_crowd("n" * 900)  # Of too many characters in its paths: no key is asked for.
    source, clock = FakeSource(id1=text), Clock()
    decoder = Decoder(source, clock=clock)

    for times in (1, 2):
        for _ in range(2):
            with pytest.raises(ContractError, match="another topic's"):
                decoder.decode(b"\x00\x00\x00\x00\x01", refuse)
        reading = decoder.reading(b"\x00\x00\x00\x00\x01")
        assert reading.job_type == "a.job"
        for read in (reading.read, reading.open, decoder.decode):
            assert read is not None
            with pytest.raises(ContractError, match="paths of the PII fields have more than 65536"):
                read(b"\x00\x00\x00\x00\x01")
        assert source.asked == times  # What was wrong may be a lack of memory: it is tried again,
        clock.now += UNKNOWN_ID_SECONDS  # but not at once.


# 512 KiB of it would take 133 MiB and more.
CROWD = job(
    ("x", {"type": "array", "items": {"type": "record", "name": "a.one", "fields": [
        {"name": "flag", "type": "boolean"},
        *({"name": f"n{n}", "type": "null"} for n in range(99)),
    ]}}),
)  # fmt: skip


def test_value_that_would_take_too_much_memory_is_refused_before_it_is_decoded():
    count = b"\x80\x80\x40"  # 512 Ki items, as Avro writes the number.
    value = b"\x00\x00\x00\x00\x01" + count + b"\x01" * 512 * 1024 + b"\x00"
    tracemalloc.start()
    try:
        with pytest.raises(ContractError, match="more than 268435456 bytes of memory"):
            Decoder(FakeSource(id1=CROWD.text)).decode(value)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 10 * 1024 * 1024


def test_payload_that_no_worker_would_read_is_refused_when_it_is_written():
    one = {"flag": True, **{f"n{n}": None for n in range(99)}}

    with pytest.raises(ContractError, match="bytes of memory once it is decoded"):
        Encoder(CROWD, 1).encode({"x": [one] * 100_000})


def test_value_over_the_limit_is_refused_and_one_at_it_is_read():
    schema = job(("x", "string"))
    value = Encoder(schema, 1).encode({"x": "a" * 50})
    source = FakeSource(id1=schema.text)

    at_limit = Decoder(source, value_bytes_max=len(value)).decode(value)

    assert at_limit.payload == {"x": "a" * 50}
    with pytest.raises(ContractError, match=f"{len(value)} bytes, more than the"):
        Decoder(source, value_bytes_max=len(value) - 1).decode(value)


def test_schema_is_asked_for_once():
    source = FakeSource(id7=RICH.text)
    decoder = Decoder(source)
    value = Encoder(RICH, 7).encode({"text": "a"})

    decoder.decode(value)
    decoder.decode(value)

    assert source.asked == 1


def test_unknown_id_is_asked_for_again_only_after_a_while():
    source, clock = FakeSource(), Clock()
    decoder = Decoder(source, clock=clock)
    value = Encoder(RICH, 7).encode({"text": "a"})
    for _ in range(3):
        with pytest.raises(ContractError, match="schema id 7 is not in the registry"):
            decoder.decode(value)
    asked_at_first = source.asked

    source.texts[7] = RICH.text
    clock.now += UNKNOWN_ID_SECONDS

    assert asked_at_first == 1
    assert decoder.decode(value).payload["text"] == "a"


def test_unknown_ids_are_remembered_up_to_a_bound():
    source = FakeSource()
    decoder = Decoder(source, clock=Clock())

    for schema_id in range(UNKNOWN_IDS_MAX * 2):
        with pytest.raises(ContractError):
            decoder.decode(b"\x00" + schema_id.to_bytes(4, "big"))

    assert len(decoder._unknown) == UNKNOWN_IDS_MAX


def test_registry_that_is_away_is_no_fault_of_the_bytes():
    source = FakeSource(id7=RICH.text)
    source.away = True
    decoder = Decoder(source)
    value = Encoder(RICH, 7).encode({"text": "a"})
    with pytest.raises(RegistryUnavailable):
        decoder.decode(value)

    source.away = False

    assert decoder.decode(value).payload["text"] == "a"


def test_subject_is_topic_and_record_name():
    assert subject_for("copy", "object.copy") == "copy-object.copy"


def test_texts_of_strangers_schemas_do_not_take_a_workers_memory():
    class Strangers:
        asked = 0

        def schema_by_id(self, schema_id: int) -> str:
            self.asked += 1
            doc = "\N{GRINNING FACE}" + "x" * 1_000_000  # One such letter, and each takes 4 bytes.
            named = {"type": "record", "name": f"a.b{schema_id}", "doc": doc, "fields": []}
            return json.dumps(named, ensure_ascii=False)

    source = Strangers()
    decoder = Decoder(source)
    tracemalloc.start()
    try:
        for schema_id in range(40):
            decoder.reading(b"\x00" + schema_id.to_bytes(4, "big"))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert kept < 70 * 1024 * 1024
    decoder.reading(b"\x00\x00\x00\x00\x27")
    assert source.asked == 40
