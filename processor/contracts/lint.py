"""What a contract must keep to beyond being Avro: it can grow, and its bytes cannot hurt us."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

DEPTH_MAX = 64  # Nested types; each level is a level of the C stack while decoding.
HAZARDS_MAX = 100  # What is found beyond it is not told.
FREE_VALUES_MAX = 1000  # Of a record: values that come with it and take no bytes,
FREE_VALUES_A_BYTE_MAX = 100  # or so many for each byte that it takes at least.

_SNAKE_CASE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_SIZE_MIN = {"null": 0, "float": 4, "double": 8}  # Bytes; every other primitive takes at least 1.


def style_faults(document: Any, full_name: str) -> Iterator[tuple[str, str]]:
    """Yield (where, what) for each broken rule of a schema file, as its author wrote it."""
    if not isinstance(document, dict) or document.get("type") != "record":
        yield "top level", "a contract is a record: write an object with `type: record`"
        return
    stated = str(document.get("name", ""))
    if "." not in stated and document.get("namespace"):
        stated = f"{document['namespace']}.{stated}"
    if stated != full_name:
        yield "name", f"`{stated}` is not the file's name; rename it to `{full_name}`, or the file"
    if not document.get("doc"):
        yield "doc", "missing: say in a sentence what the record means"
    yield from _fields_faults(document, "")


def _fields_faults(record: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    fields = record.get("fields")
    if not isinstance(fields, list):
        yield f"field `{path}`" if path else "fields", "a record needs a list of `fields`"
        return
    for index, field in enumerate(fields):
        if not isinstance(field, dict) or "name" not in field or "type" not in field:
            yield f"{path}fields[{index}]", "a field is an object with `name`, `type` and `doc`"
            continue
        here = f"{path}{field['name']}"
        where = f"field `{here}`"
        if not _SNAKE_CASE.fullmatch(str(field["name"])):
            yield where, "the name is not snake_case; write e.g. `content_type`"
        if not field.get("doc"):
            yield where, "`doc` is missing: say what the field means, and its unit"
        yield from _default_faults(field, where)
        yield from _nested_faults(field["type"], f"{here}.")


def _default_faults(field: dict[str, Any], where: str) -> Iterator[tuple[str, str]]:
    kind = field["type"]
    default = field.get("default")
    if isinstance(kind, list) and "null" in kind:
        if kind[0] != "null" or "default" not in field or default is not None:
            yield (
                where,
                'a nullable field is `["null", …]` with `"default": null`: old records lack it',
            )
    elif "default" in field and _unreadable_default(kind):
        yield where, "a default of this type reads back as another type; make the field nullable"


def _unreadable_default(kind: Any) -> bool:
    """Tell whether a JSON default cannot stand for a value of the type: bytes, fixed, logical."""
    if isinstance(kind, dict):
        return "logicalType" in kind or kind.get("type") in ("bytes", "fixed")
    return bool(kind == "bytes")


def _nested_faults(kind: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(kind, list):
        for branch in kind:
            yield from _nested_faults(branch, path)
    elif isinstance(kind, dict):
        if kind.get("type") == "record":
            yield from _fields_faults(kind, path)
        for part in ("items", "values"):
            if part in kind:
                yield from _nested_faults(kind[part], f"{path[:-1]}[].")


def hazards(schema: Any) -> list[tuple[str, str]]:
    """List what lets few bytes cost a reader much time, memory or stack, as (where, what).

    Takes a parsed, self-contained schema. `array<null>` claims 10⁹ items in ten bytes; a recursive
    type nests as deep as the bytes say; a record of two records of two records … is a million
    values without a byte. All are refused before the first byte is decoded.
    """
    hazards_of = _Hazards()
    hazards_of.look(schema, "", 0)
    return hazards_of.found


class _Shape(NamedTuple):
    """What a value of a type costs at least."""

    size: int  # Bytes.
    free: int = 0  # Values in it that take no bytes.
    height: int = 1  # Levels, itself included.


class _Hazards:
    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []
        self._shapes: dict[str, _Shape | None] = {}  # None while the definition is still open.

    def _note(self, where: str, what: str) -> None:
        if len(self.found) < HAZARDS_MAX:  # A stranger's schema may have many, each at a long path.
            self.found.append((where, what))

    def look(self, kind: Any, path: str, depth: int) -> _Shape:
        """Find the hazards of a type, and give its shape."""
        where = f"field `{path}`" if path else "top level"
        if depth > DEPTH_MAX:
            self._note(where, f"types are nested deeper than {DEPTH_MAX} levels")
            return _Shape(1)
        if isinstance(kind, list):
            branches = [self.look(branch, path, depth + 1) for branch in kind]
            return _Shape(1, height=1 + max((each.height for each in branches), default=0))
        if isinstance(kind, str):
            return self._named(kind, where)
        match kind["type"]:
            case "record" | "error":
                self._shapes[kind["name"]] = None
                shape = self._shapes[kind["name"]] = self._record(kind, path, depth)
                return shape
            case "array" | "map":
                items = kind["items"] if kind["type"] == "array" else kind["values"]
                shape = self.look(items, f"{path}[]", depth + 1)
                if shape.size == 0:
                    what = "its items take no bytes, so few bytes can claim many"
                    self._note(where, what)
                return _Shape(1, height=1 + shape.height)
            case "fixed":
                shape = self._shapes[kind["name"]] = _Shape(int(kind["size"]))
                return shape
            case "enum":
                shape = self._shapes[kind["name"]] = _Shape(1)
                return shape
            case inner_kind:
                return self.look(inner_kind, path, depth + 1)

    def _named(self, name: str, where: str) -> _Shape:
        known = self._shapes.get(name)
        if known is not None:
            return known
        if name in self._shapes:
            self._note(where, f"`{name}` contains itself; a contract must not recurse")
        return _Shape(_SIZE_MIN.get(name, 1), free=1 if name == "null" else 0)

    def _record(self, kind: dict[str, Any], path: str, depth: int) -> _Shape:
        shapes = [
            self.look(
                field["type"], f"{path}.{field['name']}" if path else field["name"], depth + 1
            )
            for field in kind["fields"]
        ]
        shape = _Shape(
            sum(each.size for each in shapes),
            1 + sum(each.free for each in shapes),
            1 + max((each.height for each in shapes), default=0),
        )
        where = f"field `{path}`" if path else "top level"
        if shape.free > max(FREE_VALUES_MAX, FREE_VALUES_A_BYTE_MAX * shape.size):
            what = f"`{kind['name']}` holds more than {FREE_VALUES_MAX} values that take no bytes"
            self._note(where, what)
            shape = shape._replace(free=1)
        if shape.height > DEPTH_MAX + 2:  # By names of types, which are no deeper in the text.
            self._note(where, f"types are nested deeper than {DEPTH_MAX} levels")
            shape = shape._replace(height=1)
        return shape
