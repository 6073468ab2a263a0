"""Where contracts are looked for: the project's own folder first, then the built-in ones."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import processor
from processor.errors import UsageError


class Folders(Protocol):
    """The part of the settings that says where the project keeps its contracts."""

    @property
    def schemas_dir(self) -> Path | None:
        """Default: ./schemas where it exists."""
        ...

    @property
    def topics_dir(self) -> Path | None:
        """Default: ./topics where it exists."""
        ...


def schema_directories(settings: Folders) -> tuple[Path, ...]:
    """Name the folders of `*.avsc` files; a file of an earlier one hides its namesakes."""
    return _directories(settings.schemas_dir, "schemas")


def topic_directories(settings: Folders) -> tuple[Path, ...]:
    """Name the folders of `*.yaml` files; a topic of an earlier one hides its namesakes."""
    return _directories(settings.topics_dir, "topics")


def _directories(chosen: Path | None, name: str) -> tuple[Path, ...]:
    if chosen is not None and not chosen.is_dir():
        raise UsageError(
            f"{name}_dir: there is no directory `{chosen}`",
            hint=f"create it, or correct {name}_dir in processor.toml",
        )
    package = Path(processor.__file__).parent
    builtin = package / "builtin" / name  # In an installed wheel; a checkout has it at its root.
    if not builtin.is_dir():
        builtin = package.parent / name
    own = chosen if chosen is not None else Path(name)
    if not own.is_dir() or own.resolve() == builtin.resolve():
        return (own,) if own.is_dir() else (builtin,)
    return (own, builtin)
