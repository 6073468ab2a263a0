"""Fields tagged `"confluent:tags": ["PII"]`: where they are in a schema, and a way to each of them.

Rule 1: a tagged field is a string or bytes, or a nullable, array or map of one.
Rule 2: it may lie in records, arrays, maps and nullable types; in a union of several types it could
not be told which of them a value is.
Rule 3: a schema without tags has no walk, so its values pay nothing.
Rule 4: tags that cannot be read might have said PII: they are a fault.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

TAGS = "confluent:tags"
PII = "PII"
FIELDS_MAX = 1000  # Tagged ones, counted at each place where their record is used,
PATHS_MAX = 64 * 1024  # and the characters of all their paths.

Text = str | bytes
Act = Callable[[str, Any], Any]  # (path of the field, its value) -> what stands there instead.
Walk = Callable[[Any, Act], Any]


class TagFault(ValueError):
    """A tag that is none, or on a field that cannot be encrypted; the message names the field."""


def walk_of(parsed: Any) -> Walk | None:
    """Compile the way to each tagged value of a parsed, self-contained schema; None: no tags.

    The walk gives a copy of a payload with each tagged value replaced. Fields that are missing are
    filled in where they have a default. Raises TagFault.
    """
    return _Compiler().walk(parsed, "", tagged=False)


def tagged_paths(parsed: Any) -> list[str]:
    """Name the tagged fields of a schema. Raises TagFault."""
    compiler = _Compiler()
    compiler.walk(parsed, "", tagged=False)
    return compiler.paths


def misspelled_tags(schema: Any) -> list[str]:
    """Name the tags of a schema that are PII but for the case of their letters: they tag nothing.

    >>> misspelled_tags({"type": "string", "confluent:tags": ["pii", "PUBLIC"]})
    ['pii']
    """
    if isinstance(schema, list):
        return [tag for each in schema for tag in misspelled_tags(each)]
    if not isinstance(schema, dict):
        return []
    tags = schema.get(TAGS)
    written = tags if isinstance(tags, list) else [tags]
    misspelled = [str(tag) for tag in written if tag != PII and str(tag).strip().upper() == PII]
    inner = [each for name, each in schema.items() if name not in (TAGS, "default")]
    return misspelled + misspelled_tags(inner)


class _Compiler:
    def __init__(self) -> None:
        self.paths: list[str] = []
        self._paths_size = 0
        self._named: dict[str, Any] = {}
        self._clear: set[str] = set()  # Named types without tags: not walked at each of their uses.

    def walk(self, kind: Any, path: str, *, tagged: bool) -> Walk | None:
        if isinstance(kind, list):
            return self._union(kind, path, tagged=tagged)
        if isinstance(kind, str):
            if kind in self._clear and not tagged:
                return None
            if kind in self._named:
                return self.walk(self._named[kind], path, tagged=tagged)
            return self._leaf(kind, path) if tagged else None
        tagged = tagged or _is_tagged(kind, path)
        if "name" not in kind:
            return self._unnamed(kind, path, tagged=tagged)
        self._named[kind["name"]] = kind
        walk = self._unnamed(kind, path, tagged=tagged)
        if walk is None:
            self._clear.add(kind["name"])
        return walk

    def _unnamed(self, kind: Mapping[str, Any], path: str, *, tagged: bool) -> Walk | None:
        match kind["type"]:
            case "record" | "error" if not tagged:
                return self._record(kind, path)
            case "array":
                return _of_items(self.walk(kind["items"], f"{path}[]", tagged=tagged))
            case "map":
                return _of_values(self.walk(kind["values"], f"{path}{{}}", tagged=tagged))
            case "string" | "bytes" if tagged and "logicalType" not in kind:
                return self._leaf(kind["type"], path)
            case _ if tagged:
                raise _not_text(path, str(kind.get("logicalType") or kind["type"]))
            case _:
                return None

    def _leaf(self, kind: str, path: str) -> Walk:
        if kind not in ("string", "bytes"):
            raise _not_text(path, kind)
        self.paths.append(path)
        if len(self.paths) > FIELDS_MAX:
            raise TagFault(f"more than {FIELDS_MAX} fields are tagged {PII}")
        self._paths_size += len(path)
        if self._paths_size > PATHS_MAX:
            raise TagFault(f"the paths of the {PII} fields have more than {PATHS_MAX} characters")
        return lambda value, act: act(path, value)

    def _record(self, kind: Mapping[str, Any], path: str) -> Walk | None:
        walks: list[tuple[str, Walk, Mapping[str, Any]]] = []
        for field in kind["fields"]:
            inner = f"{path}.{field['name']}" if path else field["name"]
            walk = self.walk(field["type"], inner, tagged=_is_tagged(field, inner))
            if walk is not None:
                walks.append((field["name"], walk, field))
        return _of_fields(walks) if walks else None

    def _union(self, kind: list[Any], path: str, *, tagged: bool) -> Walk | None:
        branches = [branch for branch in kind if branch != "null"]
        walks = [self.walk(branch, path, tagged=tagged) for branch in branches]
        found = [walk for walk in walks if walk is not None]
        if not found:
            return None
        if len(branches) > 1:
            raise TagFault(
                f"field `{path}` is tagged {PII} or holds such a field, and is a union of several"
                " types: make it a type and null"
            )
        return _or_null(found[0])


def _is_tagged(kind: Mapping[str, Any], path: str) -> bool:
    tags = kind.get(TAGS)
    listed = [tags] if isinstance(tags, str) else [] if tags is None else tags
    if not isinstance(listed, list) or not all(isinstance(tag, str) for tag in listed):
        where = f"of field `{path}`" if path else "of the record"
        raise TagFault(f"the `{TAGS}` {where} are no list of texts")
    return PII in listed


def _of_fields(walks: list[tuple[str, Walk, Mapping[str, Any]]]) -> Walk:
    def walk(value: Any, act: Act) -> Any:
        copied = dict(value)
        for name, inner, field in walks:
            if name in copied:
                copied[name] = inner(copied[name], act)
            elif "default" in field:
                copied[name] = inner(field["default"], act)
        return copied

    return walk


def _of_items(inner: Walk | None) -> Walk | None:
    return None if inner is None else lambda value, act: [inner(each, act) for each in value]


def _of_values(inner: Walk | None) -> Walk | None:
    if inner is None:
        return None
    return lambda value, act: {key: inner(each, act) for key, each in value.items()}


def _or_null(inner: Walk) -> Walk:
    return lambda value, act: None if value is None else inner(value, act)


def _not_text(path: str, kind: str) -> TagFault:
    return TagFault(
        f"field `{path}` is tagged {PII} and of type {kind}: only string and bytes can be encrypted"
    )
