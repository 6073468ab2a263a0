"""What a contract must keep to beyond being Avro: it can grow, and its bytes cannot hurt us."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

DEPTH_MAX = 64  # Nested types; each level is a level of the C stack while decoding.

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
    type nests as deep as the bytes say. Both are refused before the first byte is decoded.
    """
    found: list[tuple[str, str]] = []
    sizes: dict[str, int | None] = {}  # None while the definition is still open.

    def size_min(kind: Any, path: str, depth: int) -> int:
        where = f"field `{path}`" if path else "top level"
        if depth > DEPTH_MAX:
            found.append((where, f"types are nested deeper than {DEPTH_MAX} levels"))
            return 1
        if isinstance(kind, list):
            for branch in kind:
                size_min(branch, path, depth + 1)
            return 1
        if isinstance(kind, str):
            if kind in sizes and sizes[kind] is None:
                found.append((where, f"`{kind}` contains itself; a contract must not recurse"))
            known = sizes.get(kind)
            return _SIZE_MIN.get(kind, 1) if known is None else known
        match kind["type"]:
            case "record" | "error":
                sizes[kind["name"]] = None
                total = 0
                for field in kind["fields"]:
                    inner = f"{path}.{field['name']}" if path else field["name"]
                    total += size_min(field["type"], inner, depth + 1)
                sizes[kind["name"]] = total
                return total
            case "array" | "map":
                items = kind["items"] if kind["type"] == "array" else kind["values"]
                if size_min(items, f"{path}[]", depth + 1) == 0:
                    found.append((where, "its items take no bytes, so few bytes can claim many"))
                return 1
            case "fixed":
                sizes[kind["name"]] = kind["size"]
                return int(kind["size"])
            case "enum":
                sizes[kind["name"]] = 1
                return 1
            case inner_kind:
                return size_min(inner_kind, path, depth + 1)

    size_min(schema, "", 0)
    return found
