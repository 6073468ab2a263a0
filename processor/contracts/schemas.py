"""The contracts: every `*.avsc` file, checked as a whole, each made self-contained.

Rule 1: a file's name is its record's full name, and that is the job type.
Rule 2: a file may use the record of another file by its full name. What is registered and used has
the other's definition written in at its first use, so a reader needs no second look-up.
Rule 3: every fault of the whole set is told at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastavro.schema import SchemaParseException, UnknownType, parse_schema

from processor.contracts.faults import Fault, FaultyFiles, close_match, did_you_mean
from processor.contracts.lint import hazards, style_faults
from processor.contracts.tags import PII, TAGS, TagFault, misspelled_tags, tagged_paths
from processor.errors import ContractError, UsageError

# What fastavro raises on JSON that is no schema.
NO_SCHEMA = (SchemaParseException, UnknownType, KeyError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True, slots=True)
class Schema:
    """One contract. `text` is canonical JSON with nothing left to look up; `parsed` is fastavro's.

    `parsed` is shared and must not be changed.
    """

    full_name: str
    text: str
    parsed: dict[str, Any]
    path: Path


class SchemaSet:
    """The contracts by full name. Made by `load` or `parse`; never changes."""

    def __init__(self, schemas: Mapping[str, Schema]) -> None:
        self._schemas = dict(sorted(schemas.items()))

    @classmethod
    def load(cls, directories: Sequence[Path]) -> SchemaSet:
        """Read and check every `*.avsc` of the directories; an earlier directory's file wins.

        Raises FaultyFiles (a UsageError) with every fault of the whole set.
        """
        chosen: dict[str, Path] = {}
        faults: list[Fault] = []
        for directory in directories:
            if not directory.is_dir():
                faults.append(Fault(str(directory), "no such directory"))
                continue
            for path in sorted(directory.glob("*.avsc")):
                chosen.setdefault(path.name, path)
        sources: list[tuple[Path, str]] = []
        for path in chosen.values():
            try:
                sources.append((path, path.read_text(encoding="utf-8")))
            except (OSError, UnicodeDecodeError) as fault:
                faults.append(Fault(str(path), f"cannot be read as UTF-8 text ({fault})"))
        return cls._build(sources, faults, lint=True)

    @classmethod
    def parse(cls, sources: Iterable[tuple[Path, str]], *, lint: bool = True) -> SchemaSet:
        """Check (path, text) pairs as `load` does; without `lint`, only that they are Avro."""
        return cls._build(list(sources), [], lint=lint)

    @classmethod
    def _build(
        cls, sources: Sequence[tuple[Path, str]], faults: list[Fault], *, lint: bool
    ) -> SchemaSet:
        documents: dict[str, tuple[Path, Any]] = {}
        for path, text in sources:
            try:
                document = json.loads(text)
            except json.JSONDecodeError as fault:
                place = f"{path}:{fault.lineno}:{fault.colno}"
                faults.append(Fault(place, f"not JSON: {fault.msg}"))
                continue
            except RecursionError:
                faults.append(Fault(str(path), "nested too deeply to be read"))
                continue
            broken = list(style_faults(document, path.stem)) if lint else []
            faults.extend(Fault(str(path), f"{where}: {what}") for where, what in broken)
            if isinstance(document, dict):
                documents[path.stem] = (path, document)
        schemas = _resolve(documents, faults, lint=lint)
        if faults:
            raise FaultyFiles("schema", faults)
        return cls(schemas)

    def names(self) -> tuple[str, ...]:
        """Name the contracts, sorted."""
        return tuple(self._schemas)

    def get(self, full_name: str) -> Schema:
        """Give the contract of that name, or raise UsageError with the nearest name as a hint."""
        schema = self._schemas.get(full_name)
        if schema is None:
            raise UsageError(
                f"no schema for `{full_name}`", hint=did_you_mean(full_name, self.names())
            )
        return schema

    def __contains__(self, full_name: object) -> bool:
        return full_name in self._schemas

    def __iter__(self) -> Iterator[Schema]:
        return iter(self._schemas.values())

    def __len__(self) -> int:
        return len(self._schemas)


def self_contained(text: str, definitions: Mapping[str, str]) -> str:
    """Write the definitions a schema uses by name into it, at their first use.

    Takes and gives JSON; raises ContractError when the text is no schema or uses an unknown name.
    """
    known: dict[str, Any] = {}
    try:
        for definition in definitions.values():
            parse_schema(json.loads(definition), known, _write_hint=False)
        parsed = parse_schema(json.loads(text), known, _write_hint=False)
        return _canonical(_inlined(parsed, known, set()))
    except (*NO_SCHEMA, RecursionError) as fault:
        raise ContractError(f"not a usable schema ({type(fault).__name__})") from fault


def _resolve(
    documents: Mapping[str, tuple[Path, Any]], faults: list[Fault], *, lint: bool
) -> dict[str, Schema]:
    """Parse each file after the files it uses; what never parses uses a name nobody defines."""
    known: dict[str, Any] = {}
    schemas: dict[str, Schema] = {}
    pending = dict(documents)
    while pending:
        unknown: dict[str, str] = {}
        for name, (path, document) in list(pending.items()):
            try:
                parsed = parse_schema(document, dict(known), _write_hint=False)
                text = _canonical(_inlined(parsed, known, set()))
                whole = parse_schema(json.loads(text))
            except UnknownType as fault:
                unknown[name] = fault.name
                continue
            except NO_SCHEMA as fault:
                faults.append(Fault(str(path), f"not an Avro schema: {_reason(fault)}"))
            except RecursionError:
                faults.append(Fault(str(path), "nested too deeply to be read"))
            else:
                broken = (hazards(whole) or list(_tag_faults(whole))) if lint else []
                faults.extend(Fault(str(path), f"{where}: {what}") for where, what in broken)
                assert isinstance(whole, dict)
                known[name] = parsed
                schemas[name] = Schema(name, text, whole, path)
            del pending[name]
        if len(unknown) == len(pending) and not _resolvable(unknown, known):
            faults.extend(_unknown_faults(pending, unknown, documents))
            break
    return schemas


def _tag_faults(parsed: Any) -> Iterator[tuple[str, str]]:
    """Tell of a tag that could not be kept to."""
    try:
        tagged_paths(parsed)
    except TagFault as fault:
        yield PII, str(fault)
    for tag in dict.fromkeys(misspelled_tags(parsed)):
        yield TAGS, f'"{tag}" tags nothing; write "{PII}"'


def _resolvable(unknown: Mapping[str, str], known: Mapping[str, Any]) -> bool:
    """Tell whether another pass gets further: something wanted has been parsed meanwhile."""
    return any(wanted in known for wanted in unknown.values())


def _unknown_faults(
    pending: Mapping[str, tuple[Path, Any]],
    unknown: Mapping[str, str],
    documents: Mapping[str, object],
) -> Iterator[Fault]:
    for name, (path, _) in pending.items():
        wanted = unknown[name]
        if wanted in pending:
            what = f"uses `{wanted}`, which uses it in turn; a contract must not recurse"
            if unknown[wanted] not in pending:
                what = f"uses `{wanted}`, which has a fault itself"
        elif wanted in documents:
            what = f"uses `{wanted}`, which has a fault itself"
        else:
            match = close_match(wanted, documents)
            ending = f"; did you mean `{match}`?" if match else f"; add {wanted}.avsc"
            what = f"unknown type `{wanted}`{ending}"
        yield Fault(str(path), what)


def _inlined(kind: Any, definitions: Mapping[str, Any], seen: set[str]) -> Any:
    """Replace each name's first use by its definition; fastavro has made all names full."""
    if isinstance(kind, str):
        if kind not in definitions or kind in seen:
            return kind
        return _inlined(definitions[kind], definitions, seen)
    if isinstance(kind, list):
        return [_inlined(branch, definitions, seen) for branch in kind]
    inlined = dict(kind)
    if "name" in kind:
        seen.add(kind["name"])
    if "fields" in kind:
        inlined["fields"] = [
            {**field, "type": _inlined(field["type"], definitions, seen)}
            for field in kind["fields"]
        ]
    for part in ("items", "values"):
        if part in kind:
            inlined[part] = _inlined(kind[part], definitions, seen)
    return inlined


def _canonical(document: Any) -> str:
    """Write JSON so that equal schemas are equal texts, whatever the file's layout was."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _reason(fault: Exception) -> str:
    if isinstance(fault, KeyError):
        return f"`{fault.args[0]}` is missing"
    return str(fault)
