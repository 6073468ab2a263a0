"""How much memory a value takes once it is decoded, told from its bytes before they are decoded.

Few bytes may stand for much: a record of one boolean is a dict of 200 bytes, and a record may hold
values that take no bytes at all. So a body is gone through by the schema that it was written with,
and what Python makes of each value is added up, until it ends or is too heavy.

Where a local schema reads it, what that adds counts too: a default may be larger than its record.

Rule 1: what is added up is no less than the decoded payload takes.
Rule 2: a value so small that nothing in it could be too heavy (`light_max`) need not be weighed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from sys import getsizeof
from typing import Any

DECODED_BYTES_MAX = 256 * 1024 * 1024

_INT = 48  # Of 61 bits and more; else 32.
_INT_SHORT = 32
_SHARED_INTS = range(-5, 257)  # Python has one object for each of them.
_PRIMITIVES = {"boolean": 0, "int": _INT_SHORT, "long": _INT, "float": 32, "double": 32}
_FIXED_SIZES = {"boolean": 1, "float": 4, "double": 8}  # In the body.
_TEXT = 80  # A str or bytes without its characters, at most,
_SHORT_MAX = 400  # and of one with no more bytes than these, to the next 16 bytes:
_SHORT_STR = 64
_SHORT_BYTES = 48
_CHARACTER = 4  # Of a str that is not ASCII.
_LOGICAL = 128  # A date, a time, a UUID, a short Decimal.
_ITEM = 16  # Its place in a list; lists grow ahead of need, and are copied then.
_ENTRY = 136  # Its place in a dict, which grows likewise.
_DECIMAL_LIGHT_MAX = 8 * 1024


class Scale:
    """Weighs values of one parsed, self-contained schema that has no hazards (lint.py).

    `reader`: the schema that they are read with, if it is another. What it drops counts as well:
    values are read as they were written first.
    """

    def __init__(
        self, schema: Any, reader: Any = None, *, decoded_bytes_max: int = DECODED_BYTES_MAX
    ) -> None:
        compiled = _Compiler(_Readers(reader))
        self._weigh, most = compiled.look(schema)
        self._decoded_bytes_max = decoded_bytes_max
        # Each byte of a body brings at most all that the schema names. But a decimal's takes more
        # time the more there are.
        light_max = decoded_bytes_max // max(most, 1)
        self.light_max = min(light_max, _DECIMAL_LIGHT_MAX) if compiled.decimals else light_max

    def fits(self, value: bytes, start: int = 0) -> bool:
        """Whether the body that begins there takes no more than the bound.

        Raises IndexError or ValueError where it is corrupt.
        """
        try:
            self._weigh(_Body(value, start, self._decoded_bytes_max))
        except _TooHeavy:
            return False
        return True


class _TooHeavy(Exception):
    """The bound is passed."""


class _Body:
    """A body that is gone through: how far, and how much it may weigh from there on."""

    __slots__ = ("_at", "_bytes", "_left")

    def __init__(self, value: bytes, start: int, left: int) -> None:
        self._bytes = value
        self._at = start
        self._left = left

    def add(self, weight: int) -> None:
        self._left -= weight
        if self._left < 0:
            raise _TooHeavy

    def take(self, size: int) -> bytes:
        if not 0 <= size <= len(self._bytes) - self._at:
            raise ValueError(f"{size} bytes where there are {len(self._bytes) - self._at}")
        self._at += size
        return self._bytes[self._at - size : self._at]

    def long(self) -> int:
        byte, number, shift = 0x80, 0, 0
        while byte & 0x80:
            byte = self._bytes[self._at]
            self._at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if shift > 70:
                raise ValueError("a number of more than ten bytes")
        return (number >> 1) ^ -(number & 1)

    def block(self) -> int:
        """How many items the next block of an array or map has; 0: it is at its end."""
        count = self.long()
        if count < 0:  # Then its size follows.
            self.long()
        return abs(count)


Weigh = Callable[[_Body], None]


class _Compiler:
    """Makes, for each type, the function that weighs it, and tells what one of it may weigh.

    That is with a byte of text or an item wherever there can be many.
    """

    def __init__(self, readers: _Readers) -> None:
        self.decimals = False
        self._readers = readers
        self._named: dict[str, tuple[Weigh, int]] = {}

    def look(self, kind: Any) -> tuple[Weigh, int]:
        if isinstance(kind, list):
            return _union([self.look(branch) for branch in kind])
        if isinstance(kind, str):
            return self._named.get(kind) or self._primitive(kind, logical="")
        made = self._made(kind)
        if "name" in kind:
            self._named[kind["name"]] = made
        return made

    def _made(self, kind: Mapping[str, Any]) -> tuple[Weigh, int]:
        logical = str(kind.get("logicalType", ""))
        match kind["type"]:
            case "record" | "error":
                fields = [self.look(field["type"]) for field in kind["fields"]]
                return _record(kind, fields, self._readers.added_to(kind))
            case "array":
                return _many(*self.look(kind["items"]), place=_ITEM, keys=False)
            case "map":
                return _many(*self.look(kind["values"]), place=_ENTRY, keys=True)
            case "enum":
                return _weigh_enum, 0
            case "fixed":
                size = int(kind["size"])
                weight = _decimal(size) if logical == "decimal" else _LOGICAL + size
                return _sized(weight, size), weight
            case primitive:
                return self._primitive(primitive, logical)

    def _primitive(self, kind: str, logical: str) -> tuple[Weigh, int]:
        if kind == "bytes" and logical == "decimal":
            self.decimals = True
            return _weigh_decimal, _LOGICAL
        if kind in ("string", "bytes"):
            as_bytes = kind == "bytes" and "string" not in self._readers.primitives
            return _weigh_bytes if as_bytes else _weigh_text, _LOGICAL + _CHARACTER
        if kind == "null":
            return _weigh_null, 0
        weight = _LOGICAL if logical else _PRIMITIVES[kind]
        if kind in ("int", "long"):
            if logical or self._readers.primitives & {"float", "double"}:
                return _number(weight), weight  # Each is an object of its own.
            return _weigh_int, weight
        return _sized(weight, _FIXED_SIZES[kind]), weight


class _Readers:
    """What reading with another schema makes of values."""

    def __init__(self, schema: Any) -> None:
        self.primitives: set[str] = set()
        self._records: dict[str, list[Mapping[str, Any]]] = {}  # By each name that may match.
        self._look(schema)

    def added_to(self, record: Mapping[str, Any]) -> Mapping[str, int]:
        """The fields that a record may be given, and what the default of each takes."""
        written = {field["name"] for field in record["fields"]}
        names = {record["name"], _unqualified(record["name"])}
        added: dict[str, int] = {}
        for reader in (each for name in names for each in self._records.get(name, ())):
            for field in reader["fields"]:
                if written.isdisjoint((field["name"], *field.get("aliases", ()))):
                    weight = _copied(field.get("default"))
                    added[field["name"]] = max(weight, added.get(field["name"], 0))
        return added

    def _look(self, kind: Any) -> None:
        if isinstance(kind, list):
            for branch in kind:
                self._look(branch)
        elif isinstance(kind, str):
            self.primitives.add(kind)
        elif kind is not None:
            if kind["type"] in ("record", "error"):
                for name in {_unqualified(kind["name"]), *kind.get("aliases", ())}:
                    self._records.setdefault(name, []).append(kind)
                for field in kind["fields"]:
                    self._look(field["type"])
            elif kind["type"] == "array":
                self._look(kind["items"])
            elif kind["type"] == "map":
                self._look(kind["values"])
            else:
                self._look(kind["type"])


def _unqualified(name: str) -> str:
    return name.rpartition(".")[2]


def _copied(default: Any) -> int:
    """What a copy of a default takes; what is no list and no map is not copied."""
    if isinstance(default, list):
        return getsizeof([]) + _ITEM * (1 + len(default)) + sum(map(_copied, default))
    if isinstance(default, dict):
        return getsizeof(default) + _ITEM + sum(map(_copied, default.values()))
    return 0


def _record(
    kind: Mapping[str, Any], fields: list[tuple[Weigh, int]], added: Mapping[str, int]
) -> tuple[Weigh, int]:
    names = [field["name"] for field in kind["fields"]]
    own = getsizeof(dict.fromkeys([*names, *added])) + sum(added.values())
    steps = [weigh for weigh, _ in fields if weigh is not _weigh_null]

    def weigh(body: _Body) -> None:
        body.add(own)
        for step in steps:
            step(body)

    return weigh, own + sum(most for _, most in fields)


def _union(branches: list[tuple[Weigh, int]]) -> tuple[Weigh, int]:
    steps = [weigh for weigh, _ in branches]

    def weigh(body: _Body) -> None:
        branch = body.long()
        if branch < 0:
            raise IndexError(branch)
        steps[branch](body)

    return weigh, max((most for _, most in branches), default=0)


def _many(item: Weigh, most: int, *, place: int, keys: bool) -> tuple[Weigh, int]:
    own = getsizeof([]) + place

    def weigh(body: _Body) -> None:
        body.add(own)
        while count := body.block():
            for _ in range(count):
                body.add(place)
                if keys:
                    _weigh_text(body)
                item(body)

    return weigh, own + place + most + (_LOGICAL + _CHARACTER if keys else 0)


def _weigh_null(_: _Body) -> None:
    pass


def _weigh_text(body: _Body) -> None:
    text = body.take(body.long())
    size = len(text)
    if not text.isascii():
        body.add(_TEXT + size * _CHARACTER)
    elif size > 1:  # Python has one object for each of the shorter ones.
        body.add((size + _SHORT_STR) & ~15 if size <= _SHORT_MAX else size + _TEXT)


def _weigh_bytes(body: _Body) -> None:
    size = body.long()
    body.take(size)
    if size > 1:
        body.add((size + _SHORT_BYTES) & ~15 if size <= _SHORT_MAX else size + _TEXT)


def _weigh_decimal(body: _Body) -> None:
    body.add(_decimal(len(body.take(body.long()))))


def _decimal(size: int) -> int:
    """It is made in a time that grows with the square of its bytes: so does what it counts."""
    return _LOGICAL + size * size


def _weigh_enum(body: _Body) -> None:
    body.long()


def _weigh_int(body: _Body) -> None:
    number = body.long()
    if number not in _SHARED_INTS:
        body.add(_INT_SHORT if -(1 << 60) < number < 1 << 60 else _INT)


def _number(weight: int) -> Weigh:
    def weigh(body: _Body) -> None:
        body.long()
        body.add(weight)

    return weigh


def _sized(weight: int, size: int) -> Weigh:
    def weigh(body: _Body) -> None:
        body.take(size)
        body.add(weight)

    return weigh
