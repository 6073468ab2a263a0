"""YAML whose every value knows its line, so that a fault can name it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from processor.contracts.faults import Fault


class YamlFile:
    """One file: its `document`, or its `faults`; and the `place` of a value in it."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.document: Any = None
        self.faults: list[Fault] = []
        self._root: yaml.Node | None = None
        try:
            self._root = yaml.compose(text, Loader=yaml.SafeLoader)
            self.faults = [
                Fault(f"{path}:{line}", f"`{key}` is written twice; keep one")
                for line, key in _twice(self._root)
            ]
            if not self.faults:
                self.document = yaml.safe_load(text)
        except yaml.MarkedYAMLError as fault:
            mark = fault.problem_mark or fault.context_mark
            line = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
            self.faults = [Fault(f"{path}{line}", f"not YAML: {fault.problem or fault.context}")]
        except (yaml.YAMLError, RecursionError, ValueError) as fault:
            self.faults = [Fault(str(path), f"not YAML: {fault or type(fault).__name__}")]

    def place(self, keys: Sequence[str | int]) -> str:
        """Name the file and line of a value, or of the nearest thing around it that there is."""
        node = self._root
        mark = node.start_mark if node is not None else None
        for key in keys:
            if isinstance(node, yaml.MappingNode):
                inner = [(k, v) for k, v in node.value if k.value == key]
                if not inner:
                    break
                mark, node = inner[0][0].start_mark, inner[0][1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(key, int):
                if key >= len(node.value):
                    break
                node = node.value[key]
                mark = node.start_mark
            else:
                break
        return f"{self.path}:{mark.line + 1}" if mark is not None else str(self.path)


def _twice(node: yaml.Node | None) -> Iterator[tuple[int, str]]:
    """Find keys written twice: PyYAML silently keeps the last."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _twice(item)
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                yield key.start_mark.line + 1, str(key.value)
            if isinstance(key.value, str):
                seen.add(key.value)
            yield from _twice(value)
