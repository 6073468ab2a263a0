"""Whether one schema's records can be read with another: every fault, with its field.

Avro's resolution rules, and stricter in three points: a logical type must stay, for its numbers
would silently mean something else; bytes are not read as string, for not all bytes are UTF-8; and
names are compared in full.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from processor.contracts.payload import describe

# Reader type -> writer types it reads besides its own.
_PROMOTED = {
    "long": ("int",),
    "float": ("int", "long"),
    "double": ("int", "long", "float"),
    "bytes": ("string",),
}


def incompatibilities(*, reader: Any, writer: Any) -> list[str]:
    """List why records of `writer` cannot all be read as `reader`; empty if they can.

    Both are parsed, self-contained, non-recursive schemas.
    """
    return list(_Comparison(reader, writer).faults(reader, writer, ""))


def both_ways(new: Any, old: Any) -> Iterator[tuple[str, str]]:
    """Yield (direction, problem): workers are upgraded first, yet old ones run on for a while."""
    directions = (
        ("backward: the new schema reads old records", new, old),
        ("forward: the old schema reads new records", old, new),
    )
    for direction, reader, writer in directions:
        for problem in incompatibilities(reader=reader, writer=writer):
            yield direction, problem


class _Comparison:
    """The named types of both sides, so that a name can be followed."""

    def __init__(self, reader: Any, writer: Any) -> None:
        self._reader_types: dict[str, Any] = {}
        self._writer_types: dict[str, Any] = {}
        _collect(reader, self._reader_types)
        _collect(writer, self._writer_types)

    def faults(self, reader: Any, writer: Any, path: str) -> Iterator[str]:
        """Yield what a reader of this part stumbles over."""
        if isinstance(reader, str):
            reader = self._reader_types.get(reader, reader)
        if isinstance(writer, str):
            writer = self._writer_types.get(writer, writer)
        if isinstance(writer, list):
            for branch in writer:
                if isinstance(reader, list):
                    yield from self._branch_faults(reader, branch, path)
                else:
                    yield from self.faults(reader, branch, path)
        elif isinstance(reader, list):
            yield from self._branch_faults(reader, writer, path)
        else:
            yield from self._plain_faults(reader, writer, path)

    def _branch_faults(self, reader: list[Any], writer: Any, path: str) -> Iterator[str]:
        """One branch that reads it is enough; a branch of the same name says best why not."""
        attempts = [list(self.faults(branch, writer, path)) for branch in reader]
        if all(attempts):
            name = describe(writer)
            same = [
                found
                for branch, found in zip(reader, attempts, strict=True)
                if describe(branch) == name
            ]
            yield from same[0] if same else [_at(path, f"{name} is no longer among its types")]

    def _plain_faults(self, reader: Any, writer: Any, path: str) -> Iterator[str]:
        reader_base, writer_base = _base(reader), _base(writer)
        if reader_base != writer_base:
            if writer_base not in _PROMOTED.get(reader_base, ()):
                yield _at(path, f"{describe(writer)} cannot be read as {describe(reader)}")
                return
        elif "name" in reader and writer["name"] not in (reader["name"], *_aliases(reader)):
            yield _at(path, f"{writer['name']} cannot be read as {reader['name']}")
            return
        if _logical(reader) != _logical(writer):
            yield _at(path, f"{describe(writer)} means something else than {describe(reader)}")
        elif reader_base == "record":
            yield from self._record_faults(reader, writer, path)
        elif reader_base in ("array", "map"):
            part = "items" if reader_base == "array" else "values"
            yield from self.faults(reader[part], writer[part], f"{path}[]")
        elif reader_base == "enum":
            gone = [symbol for symbol in writer["symbols"] if symbol not in reader["symbols"]]
            if gone and "default" not in reader:
                yield _at(path, f"symbols {', '.join(gone)} are unknown, and there is no default")
        elif reader_base == "fixed" and reader["size"] != writer["size"]:
            yield _at(path, f"{writer['size']} bytes cannot be read as {reader['size']}")

    def _record_faults(self, reader: Any, writer: Any, path: str) -> Iterator[str]:
        written = {field["name"]: field for field in writer["fields"]}
        for field in reader["fields"]:
            names = (field["name"], *field.get("aliases", ()))
            here = f"{path}.{field['name']}" if path else field["name"]
            match = next((written[name] for name in names if name in written), None)
            if match is not None:
                yield from self.faults(field["type"], match["type"], here)
            elif "default" not in field:
                yield _at(here, "is missing there, and has no default")


def _base(kind: Any) -> str:
    while isinstance(kind, dict):
        kind = kind["type"]
    return str(kind)


def _aliases(kind: dict[str, Any]) -> list[str]:
    namespace = kind["name"].rpartition(".")[0]
    return [
        alias if "." in alias or not namespace else f"{namespace}.{alias}"
        for alias in kind.get("aliases", ())
    ]


def _logical(kind: Any) -> tuple[Any, ...]:
    if not isinstance(kind, dict) or "logicalType" not in kind:
        return ()
    return (kind["logicalType"], kind.get("precision"), kind.get("scale", 0))


def _at(path: str, what: str) -> str:
    return f"field `{path}`: {what}" if path else what


def _collect(kind: Any, named: dict[str, Any]) -> None:
    if isinstance(kind, list):
        for branch in kind:
            _collect(branch, named)
    elif isinstance(kind, dict):
        if "name" in kind:
            named[kind["name"]] = kind
        for field in kind.get("fields", ()):
            _collect(field["type"], named)
        for part in ("items", "values"):
            _collect(kind.get(part), named)
