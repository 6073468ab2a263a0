"""JSON documents into Avro's types, by the schema.

How JSON stands for what it has no type of:

| Avro | JSON |
|---|---|
| bytes, fixed | base64 text |
| decimal | text, `"12.50"` |
| timestamp-millis, -micros | ISO 8601 text with a zone, or the number itself |
| local-timestamp-*, date, time-* | ISO 8601 text, or the number itself |
| uuid, enum | text |
| union | the plain value; the first branch that fits it is taken |

What does not fit is left as it is where the check that follows tells it better.
"""

from __future__ import annotations

import base64
import binascii
import decimal
from collections.abc import Callable, Mapping
from typing import Any

from processor.contracts.payload import LOGICAL, Mismatch, checker, found

Convert = Callable[[Any], Any]


def converter(kind: Any, definitions: dict[str, Any] | None = None) -> Convert:
    """Compile a parsed, self-contained, non-recursive schema into a conversion from JSON."""
    named = {} if definitions is None else definitions
    if isinstance(kind, list):
        return _union_converter(kind, named)
    if isinstance(kind, str):
        if kind in named:
            return converter(named[kind], named)
        return _from_base64 if kind == "bytes" else _as_it_is
    if "name" in kind:
        named[kind["name"]] = kind
    match kind["type"], kind.get("logicalType"):
        case "record" | "error", _:
            fields = {field["name"]: converter(field["type"], named) for field in kind["fields"]}
            return _record_converter(fields)
        case "array", _:
            return _array_converter(converter(kind["items"], named))
        case "map", _:
            return _map_converter(converter(kind["values"], named))
        case (("bytes" | "fixed"), "decimal"):
            return _from_decimal_text
        case "fixed" | "bytes", _:
            return _from_base64
        case base, logical if (base, logical) in LOGICAL:
            return _iso_converter(LOGICAL[base, logical][0])
        case _:
            return _as_it_is


def _union_converter(kind: list[Any], named: dict[str, Any]) -> Convert:
    branches = [(converter(branch, named), checker(branch, named)) for branch in kind]
    # With one branch beside null, that branch's own fault says more than "none of them".
    others = [
        convert for branch, (convert, _) in zip(kind, branches, strict=True) if branch != "null"
    ]

    def convert(value: Any) -> Any:
        for convert_branch, check in branches:
            try:
                converted = convert_branch(value)
                check(converted)
            except Mismatch:
                continue
            return converted
        return others[0](value) if len(others) == 1 else value

    return convert


def _as_it_is(value: Any) -> Any:
    return value


def _from_base64(value: Any) -> Any:
    if not isinstance(value, str):
        raise Mismatch("base64 text", found(value))
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise Mismatch("base64 text", "str that is none") from None


def _from_decimal_text(value: Any) -> Any:
    if not isinstance(value, str):
        raise Mismatch('decimal as text, e.g. "12.50"', found(value))
    try:
        return decimal.Decimal(value)
    except decimal.InvalidOperation:
        raise Mismatch('decimal as text, e.g. "12.50"', "str that is none") from None


def _iso_converter(python_type: type) -> Convert:
    parse = getattr(python_type, "fromisoformat")  # noqa: B009 - mypy knows no common base.

    def convert(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return parse(value)
        except ValueError:
            raise Mismatch(f"an ISO 8601 {python_type.__name__}", "str that is none") from None

    return convert


def _record_converter(fields: Mapping[str, Convert]) -> Convert:
    def convert(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise Mismatch("a record", found(value))
        converted = {}
        for name, item in value.items():
            try:
                converted[name] = fields.get(name, _as_it_is)(item)
            except Mismatch as mismatch:
                raise mismatch.under(str(name)) from None
        return converted

    return convert


def _array_converter(convert_item: Convert) -> Convert:
    def convert(value: Any) -> Any:
        if not isinstance(value, list):
            raise Mismatch("an array", found(value))
        converted = []
        for index, item in enumerate(value):
            try:
                converted.append(convert_item(item))
            except Mismatch as mismatch:
                raise mismatch.under(f"[{index}]") from None
        return converted

    return convert


def _map_converter(convert_value: Convert) -> Convert:
    def convert(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise Mismatch("a map", found(value))
        converted = {}
        for key, item in value.items():
            try:
                converted[key] = convert_value(item)
            except Mismatch as mismatch:
                raise mismatch.under("[a key's value]") from None
        return converted

    return convert
