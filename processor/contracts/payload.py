"""Payloads against their schema: exact checks, compiled once, with the path of the field at fault.

A fault names the field and the *type* of what was found, never the value: it may be personal.
"""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from processor.contracts.faults import did_you_mean

Check = Callable[[Any], None]


class Mismatch(Exception):
    """A value that its schema does not admit; `path` grows on the way out."""

    def __init__(self, expected: str, found: str, *, hint: str | None = None) -> None:
        super().__init__(expected, found)
        self.path: list[str] = []
        self.expected = expected
        self.found = found
        self.hint = hint

    def under(self, part: str) -> Mismatch:
        """Say that it happened inside `part`."""
        self.path.insert(0, part)
        return self

    def __str__(self) -> str:
        path = ".".join(self.path).replace(".[", "[")
        where = f"field `{path}`: " if path else ""
        if not self.expected:
            return f"{where}{self.found}"
        return f"{where}expected {self.expected}, got {self.found}"


def found(value: Any) -> str:
    """Tell a value's type as a reader of JSON or Python knows it."""
    return "null" if value is None else type(value).__name__


def checker(kind: Any, definitions: dict[str, Any] | None = None) -> Check:
    """Compile a parsed, self-contained, non-recursive schema into a check that raises Mismatch."""
    named = {} if definitions is None else definitions
    if isinstance(kind, list):
        return _union_checker(kind, named)
    if isinstance(kind, str):
        return checker(named[kind], named) if kind in named else _PRIMITIVES[kind]
    if "name" in kind:
        named[kind["name"]] = kind
    match kind["type"], kind.get("logicalType"):
        case "record" | "error", _:
            return _record_checker(kind, named)
        case "array", _:
            return _array_checker(checker(kind["items"], named))
        case "map", _:
            return _map_checker(checker(kind["values"], named))
        case "enum", _:
            return _enum_checker(kind["symbols"])
        case (("bytes" | "fixed"), "decimal"):
            return _decimal_checker(kind["precision"], kind.get("scale", 0))
        case "fixed", _:
            return _fixed_checker(kind["size"])
        case "string", "uuid":
            return _check_uuid
        case base, logical if (base, logical) in LOGICAL:
            return _logical_checker(*LOGICAL[base, logical], _PRIMITIVES[base])
        case base, _:
            return checker(base, named)


# Values of these types need no further look, but texts that are not ASCII.
_ALWAYS_RIGHT: dict[str, type] = {"string": str, "bytes": bytes, "boolean": bool, "double": float}


def _record_checker(kind: dict[str, Any], named: dict[str, Any]) -> Check:
    fields: list[tuple[str, Any, Check, bool, Any]] = [
        (
            field["name"],
            _ALWAYS_RIGHT.get(field["type"]) if isinstance(field["type"], str) else None,
            checker(field["type"], named),
            "default" in field,
            field["type"],
        )
        for field in kind["fields"]
    ]
    names = frozenset(name for name, *_ in fields)

    def check(value: Any) -> None:
        if not isinstance(value, Mapping):
            raise Mismatch("a record", found(value))
        present = 0
        for name, right, check_field, optional, field_kind in fields:
            if name in value:
                present += 1
                given = value[name]
                if type(given) is right and (right is not str or given.isascii()):
                    continue
                try:
                    check_field(given)
                except Mismatch as mismatch:
                    raise mismatch.under(name) from None
            elif not optional:
                raise Mismatch(describe(field_kind), "nothing: it is missing").under(name)
        if present != len(value):
            extra = next(str(name) for name in value if name not in names)
            hint = did_you_mean(extra, sorted(names))
            raise Mismatch("", "unknown, the schema has no such field", hint=hint).under(extra)

    return check


def _union_checker(kind: list[Any], named: dict[str, Any]) -> Check:
    others = [checker(branch, named) for branch in kind if branch != "null"]
    null = "null" in kind

    def check(value: Any) -> None:
        if value is None and null:
            return
        if len(others) == 1:  # Its own fault says more than "none of the branches".
            try:
                others[0](value)
            except Mismatch as mismatch:
                if null and not mismatch.path:
                    mismatch.expected += " or null"
                raise
            return
        for check_branch in others:
            try:
                check_branch(value)
            except Mismatch:
                continue
            return
        raise Mismatch(describe(kind), found(value))

    return check


def describe(kind: Any) -> str:
    """Name a type for a person."""
    if isinstance(kind, list):
        return " or ".join(describe(branch) for branch in kind)
    if isinstance(kind, dict):
        logical = kind.get("logicalType")
        return str(logical or kind.get("name") or describe(kind["type"]))
    return str(kind)


def _of_type(name: str, *types: type) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, types):
            raise Mismatch(name, found(value))

    return check


def _integer(name: str, bits: int) -> Check:
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1

    def check(value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            raise Mismatch(name, found(value))
        if not low <= value <= high:
            raise Mismatch(name, f"an int of more than {bits} bits")

    return check


def _check_float(value: Any) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise Mismatch("a number", found(value))
    if isinstance(value, int) and value.bit_length() > 1023:
        raise Mismatch("a number", "an int too large for a float")


def _check_single(value: Any) -> None:
    _check_float(value)
    if abs(value) > 3.4028234e38 and abs(value) != float("inf"):
        raise Mismatch("float (32 bits)", "a larger number")


def _check_string(value: Any) -> None:
    if not isinstance(value, str):
        raise Mismatch("string", found(value))
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Mismatch("string", "str with lone surrogates, which UTF-8 lacks") from None


_PRIMITIVES: dict[str, Check] = {
    "null": _of_type("null", type(None)),
    "boolean": _of_type("boolean", bool),
    "string": _check_string,
    "bytes": _of_type("bytes", bytes, bytearray),
    "int": _integer("int", 32),
    "long": _integer("long", 64),
    "float": _check_single,
    "double": _check_float,
}

# (base, logical type) -> (its Python type, how to say it, whether it has a zone).
LOGICAL: dict[tuple[str, str | None], tuple[type, str, bool | None]] = {
    ("int", "date"): (dt.date, "a date", None),
    ("int", "time-millis"): (dt.time, "a time", None),
    ("long", "time-micros"): (dt.time, "a time", None),
    ("long", "timestamp-millis"): (dt.datetime, "a time with a zone", True),
    ("long", "timestamp-micros"): (dt.datetime, "a time with a zone", True),
    ("long", "local-timestamp-millis"): (dt.datetime, "a time without a zone", False),
    ("long", "local-timestamp-micros"): (dt.datetime, "a time without a zone", False),
}


def _logical_checker(python_type: Any, name: str, zoned: bool | None, number: Check) -> Check:
    def check(value: Any) -> None:
        if isinstance(value, int):
            number(value)
        elif not isinstance(value, python_type):
            raise Mismatch(name, found(value))
        elif zoned is not None and (value.tzinfo is not None) != zoned:
            raise Mismatch(name, "one without" if zoned else "one with")
        elif python_type is dt.date and isinstance(value, dt.datetime):
            raise Mismatch(name, "datetime")

    return check


def _check_uuid(value: Any) -> None:
    if isinstance(value, uuid.UUID):
        return
    _check_string(value)
    try:
        uuid.UUID(value)
    except ValueError:
        raise Mismatch("uuid", "str that is none") from None


def _decimal_checker(precision: int, scale: int) -> Check:
    name = f"decimal of {precision} digits, {scale} of them after the point"

    def check(value: Any) -> None:
        if not isinstance(value, decimal.Decimal):
            raise Mismatch(name, found(value))
        _, digits, exponent = value.as_tuple()
        if not isinstance(exponent, int):
            raise Mismatch(name, "no finite number")
        if -exponent > scale or len(digits) + exponent > precision - scale:
            raise Mismatch(name, "one with more digits")

    return check


def _fixed_checker(size: int) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, bytes):
            raise Mismatch(f"{size} bytes", found(value))
        if len(value) != size:
            raise Mismatch(f"{size} bytes", f"{len(value)} bytes")

    return check


def _enum_checker(symbols: list[str]) -> Check:
    known = frozenset(symbols)

    def check(value: Any) -> None:
        if not isinstance(value, str):
            raise Mismatch(f"one of {', '.join(symbols)}", found(value))
        if value not in known:
            raise Mismatch(f"one of {', '.join(symbols)}", "another str")

    return check


def _array_checker(check_item: Check) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, list | tuple):
            raise Mismatch("an array", found(value))
        for index, item in enumerate(value):
            try:
                check_item(item)
            except Mismatch as mismatch:
                raise mismatch.under(f"[{index}]") from None

    return check


def _map_checker(check_value: Check) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, Mapping):
            raise Mismatch("a map", found(value))
        for key, item in value.items():
            if not isinstance(key, str):
                raise Mismatch("string keys", f"a key of type {found(key)}")
            try:
                check_value(item)
            except Mismatch as mismatch:
                raise mismatch.under("[a key's value]") from None

    return check
