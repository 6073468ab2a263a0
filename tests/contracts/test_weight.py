"""What a value takes once it is decoded is told from its bytes."""

from __future__ import annotations

import datetime as dt
import tracemalloc
import uuid
from decimal import Decimal
from io import BytesIO
from typing import Any

import pytest
from fastavro import schemaless_reader, schemaless_writer
from fastavro.schema import parse_schema

from processor.contracts.weight import Scale

N = 2000
NULLS = {f"n{n}": None for n in range(99)}


def record(**kinds: Any) -> dict[str, Any]:
    fields = [{"name": name, "type": kind} for name, kind in kinds.items()]
    return {"type": "record", "name": "a.item", "fields": fields}


NOON = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC)
HEAVY = [
    ("int", [n * 1000 for n in range(N)]),
    ("int", [n % 262 - 5 for n in range(N)]),
    ("long", [2**62 + n for n in range(N)]),
    ("long", [-(2**62) - n for n in range(N)]),
    ("string", ["ab"] * N),
    ("string", ["a" * (n % 2) for n in range(N)]),
    ("string", ["a" * (390 + n % 20) for n in range(N)]),
    ("bytes", [b"ab"] * N),
    ("bytes", [b"\xe4" * (n % 2) for n in range(N)]),
    ("bytes", [b"\xe4" * (390 + n % 20) for n in range(N)]),
    ("double", [n / 3 for n in range(N)]),
    ("string", ["ab" * (n % 30 + 1) for n in range(N)]),
    ("string", ["aä" * (n % 30 + 1) for n in range(N)]),
    ("string", ["a\U0001f600" * (n % 30 + 1) for n in range(N)]),
    ("bytes", [b"ab" * (n % 30 + 1) for n in range(N)]),
    (record(flag="boolean"), [{"flag": True}] * N),
    (record(flag="boolean", **dict.fromkeys(NULLS, "null")), [{"flag": True, **NULLS}] * N),
    (["null", record(**dict.fromkeys(NULLS, "null"))], [NULLS] * N),
    ({"type": "array", "items": "int"}, [[]] * N),
    ({"type": "map", "values": "long"}, [{"a": 300}] * N),
    ({"type": "map", "values": "long"}, [{str(n): n * 1000 for n in range(5462)}]),
    ({"type": "enum", "name": "a.kind", "symbols": ["A", "B"]}, ["A"] * N),
    ({"type": "fixed", "name": "a.hash", "size": 8}, [n.to_bytes(8, "big") for n in range(N)]),
    ({"type": "long", "logicalType": "timestamp-micros"},
     [NOON + dt.timedelta(n) for n in range(N)]),
    ({"type": "string", "logicalType": "uuid"}, [uuid.UUID(int=n) for n in range(N)]),
    ({"type": "bytes", "logicalType": "decimal", "precision": 30, "scale": 2},
     [Decimal(n) * 10**17 for n in range(N)]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "items"), HEAVY)
def test_value_weighs_what_it_takes_and_not_much_more(kind: Any, items: list[Any]) -> None:
    schema, value = written({"type": "array", "items": kind}, items)

    tracemalloc.start()
    decoded: Any = schemaless_reader(BytesIO(value), schema, None)
    _, taken = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert decoded == {"x": items}
    assert not Scale(schema, decoded_bytes_max=taken - 1).fits(value)
    assert Scale(schema, decoded_bytes_max=4 * taken).fits(value)


@pytest.mark.parametrize(("kind", "items"), HEAVY)
def test_value_that_need_not_be_weighed_would_fit(kind: Any, items: list[Any]) -> None:
    schema, value = written({"type": "array", "items": kind}, items)
    bound = 1024
    while Scale(schema, decoded_bytes_max=bound).light_max < len(value) and bound < 1 << 30:
        bound *= 2

    assert Scale(schema, decoded_bytes_max=bound).fits(value)


ITEM = record(flag="boolean")
NEW = {"name": "tags", "type": {"type": "array", "items": "string"}, "default": []}
MAP = {"name": "map", "type": {"type": "map", "values": "int"}, "default": {"a": 1, "b": 2}}
GIVEN = [
    (ITEM, {**ITEM, "fields": [*ITEM["fields"], NEW]}, [{"flag": True}] * N),
    (ITEM, {**ITEM, "fields": [NEW, MAP], "name": "b.item"}, [{"flag": True}] * N),
    (ITEM, {**ITEM, "fields": [MAP], "name": "b.one", "aliases": ["item"]}, [{"flag": True}] * N),
    (ITEM, {**ITEM, "fields": [{"name": f"n{n}", "type": ["null", "int"], "default": None}
                               for n in range(40)]}, [{"flag": True}] * N),
    (["null", ITEM], ["null", {**ITEM, "fields": [NEW, MAP]}], [{"flag": True}] * N),
    ("int", "double", [n % 200 for n in range(N)]),
    ("long", ["null", "float"], [n % 200 for n in range(N)]),
    ("bytes", "string", [("aä" * (n % 30)).encode() for n in range(N)]),
    ("string", "bytes", ["ab" * (n % 30) for n in range(N)]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "read_as", "items"), GIVEN)
def test_value_weighs_what_it_takes_once_it_is_read_with_another_schema(
    kind: Any, read_as: Any, items: list[Any]
) -> None:
    schema, value = written({"type": "array", "items": kind}, items)
    reader = schema_of({"type": "array", "items": read_as})

    tracemalloc.start()
    decoded: Any = schemaless_reader(BytesIO(value), schema, reader)
    for item in decoded["x"]:
        for name in ("tags", "map"):
            if isinstance(item, dict) and name in item:
                item[name] = item[name].copy()
    _, taken = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert not Scale(schema, reader, decoded_bytes_max=taken - 1).fits(value)
    assert Scale(schema, reader, decoded_bytes_max=4 * taken).fits(value)
    assert Scale(schema, reader).light_max <= Scale(schema).light_max


def test_millions_of_small_numbers_are_not_heavy() -> None:
    count = 200_000
    schema, value = written({"type": "array", "items": "int"}, [n % 250 for n in range(count)])

    assert Scale(schema, decoded_bytes_max=20 * count).fits(value)


def test_decimal_counts_by_the_time_that_its_many_digits_take() -> None:
    kind = {"type": "bytes", "logicalType": "decimal", "precision": 4}
    schema, _ = written(kind, Decimal(1))
    scale = Scale(schema)

    assert scale.fits(b"\x80\x80\x01" + b"\x7f" * 8192)
    assert not scale.fits(b"\x80\x80\x02" + b"\x7f" * 16384)
    assert scale.light_max <= 8192


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("string", b"\x10short"),
        ("string", b"\x01"),  # -1 characters.
        ("int", b"\xff" * 100),
        (["null", "int"], b"\x08"),
        (["null", "int"], b"\x01"),
        ({"type": "array", "items": "int"}, b"\x10\x02"),
    ],
)
def test_corrupt_body_is_told(kind: Any, body: bytes) -> None:
    schema = schema_of(kind)

    with pytest.raises((IndexError, ValueError)):
        Scale(schema).fits(body)


def written(kind: Any, payload: Any) -> tuple[Any, bytes]:
    schema, body = schema_of(kind), BytesIO()
    schemaless_writer(body, schema, {"x": payload})
    return schema, body.getvalue()


def schema_of(kind: Any) -> Any:
    fields = [{"name": "x", "type": kind}]
    return parse_schema({"type": "record", "name": "a.job", "fields": fields})
