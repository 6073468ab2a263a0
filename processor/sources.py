"""Where a setting's value can come from: a TOML file, the environment, the caller.

This module knows names, not meanings: it returns what was found and every fault it met, and raises
nothing, so that all faults of all sources can be told at once.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Self

from processor.secret import names_path, path_told

Source = Literal["default", "dev stack", "file", "env", "flag"]

PREFIX = "PROCESSOR_"

# Variables with our prefix that are not settings, and what each is for.
OTHER_VARIABLES = {
    "PROCESSOR_CONFIG": "the path of the settings file, instead of processor.toml",
    "PROCESSOR_CACHE_DIR": "where the local stack keeps what it downloads",
    "PROCESSOR_MAVEN_URL": "where the local stack downloads Java archives from",
    "PROCESSOR_DEV_DIR": "`processor dev --dir`",
    "PROCESSOR_DEV_BROKERS": "`processor dev up --brokers`",
    "PROCESSOR_DEV_FIXED_PORTS": "`processor dev up --fixed-ports`",
    "PROCESSOR_DEV_SECURE": "`processor dev up --secure`",
}

# Kubernetes adds these for a Service called `processor` or `processor-…`; nobody chose them.
_KUBERNETES = re.compile(
    r"PROCESSOR_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)"
)

# The only client settings that end in `.file` themselves; for all others _FILE names a secret file.
_FILE_SETTINGS = {
    "kafka.sasl.oauthbearer.assertion.private.key.file",
    "kafka.sasl.oauthbearer.assertion.jwt.template.file",
}


class FromFile(str):
    """A value that stood in a file when the settings were read; another may stand there now."""

    path: Path

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file; its last newline is dropped. Raises OSError or UnicodeDecodeError."""
        value = cls(path.read_text(encoding="utf-8").rstrip("\r\n"))
        value.path = path
        return value

    def again(self) -> FromFile:
        """Read the file again; what it held before where that cannot be, as while it is written."""
        try:
            return FromFile.read(self.path) or self
        except (OSError, UnicodeDecodeError):
            return self


@dataclass(frozen=True, slots=True)
class Found:
    """A value as a source gave it. `where` is the file's path, the variable or `--flag`."""

    name: str
    value: Any
    source: Source
    where: str


@dataclass(frozen=True, slots=True)
class Names:
    """The names that exist: single settings, and tables that take any name below them."""

    settings: Sequence[str]
    open_tables: Sequence[str]

    def knows(self, name: str) -> bool:
        """Whether a setting of this dotted name can be set."""
        return name in self.settings or any(name.startswith(f"{t}.") for t in self.open_tables)

    def table(self, name: str) -> bool:
        """Whether the name is a table's, which takes no value itself."""
        return name in self.open_tables or any(s.startswith(f"{name}.") for s in self.settings)

    def advice(self, name: str) -> str:
        """What to do about a name that does not exist."""
        if self.table(name):
            return f"is a table: write [{name}] and its settings below"
        close = get_close_matches(name, self.settings, n=1, cutoff=0.6)
        return f"no such setting; did you mean {close[0]}?" if close else "no such setting"


def variable_of(name: str) -> str:
    """Name the environment variable of a setting: worker.group -> PROCESSOR_WORKER_GROUP."""
    return PREFIX + name.upper().replace(".", "_")


def from_toml(path: Path, source: Source, names: Names) -> tuple[list[Found], list[str]]:
    """Read a settings file. Unquoted dotted names and quoted ones are the same setting."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as fault:
        return [], [f"{path}: cannot be read: {fault.strerror}"]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        return [], [f"{path}: is not TOML: {fault}"]
    found: list[Found] = []
    faults: list[str] = []
    for name, value in _flat(tables, ""):
        if names.knows(name):
            found.append(Found(name, value, source, str(path)))
        else:
            faults.append(f"{path}: {name}: {names.advice(name)}")
    return found, faults


def from_environment(environ: Mapping[str, str], names: Names) -> tuple[list[Found], list[str]]:
    """Read PROCESSOR_*; an empty variable counts as not set.

    `…_FILE` names a file that holds the value, as mounted secrets do; its last newline is dropped.
    """
    by_variable = {variable_of(name): name for name in names.settings}
    found: dict[str, Found] = {}
    faults: list[str] = []
    for variable in sorted(v for v in environ if v.startswith(PREFIX) and environ[v]):
        name = _setting_of(variable, by_variable, names)
        if name is None:
            if variable not in OTHER_VARIABLES and not _KUBERNETES.fullmatch(variable):
                faults.append(f"{variable}: {_variable_advice(variable, by_variable)}")
            continue
        value = environ[variable]
        if variable.upper() == f"{variable_of(name)}_FILE":
            if names_path(name):
                faults.append(f"{variable}: {name} is a path: give it in {variable_of(name)}")
                continue
            try:
                value = FromFile.read(Path(value).absolute())
            except (OSError, UnicodeDecodeError) as fault:
                told = path_told(value)
                faults.append(f"{variable}: {told} cannot be read: {_reason(fault)}")
                continue
        if name in found:
            faults.append(f"{variable}: {name} is set by {found[name].where} too; keep one")
        found[name] = Found(name, value, "env", variable)
    return list(found.values()), faults


def from_flags(overrides: Mapping[str, Any], names: Names) -> tuple[list[Found], list[str]]:
    """Read what the caller gave by dotted name; None is a flag that was not given."""
    given = {name: value for name, value in overrides.items() if value is not None}
    found = [Found(n, v, "flag", "flag") for n, v in given.items() if names.knows(n)]
    return found, [f"flag: {n}: {names.advice(n)}" for n in given if not names.knows(n)]


def _flat(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _setting_of(variable: str, by_variable: Mapping[str, str], names: Names) -> str | None:
    for candidate in (variable, variable.removesuffix("_FILE")):
        if candidate in by_variable:
            return by_variable[candidate]
    if _KUBERNETES.fullmatch(variable):
        return None
    for table in names.open_tables:
        rest = variable.removeprefix(variable_of(table) + "_")
        if rest and rest != variable:
            name = f"{table}.{rest.lower().replace('_', '.')}"
            return name if name in _FILE_SETTINGS else name.removesuffix(".file")
    return None


def _variable_advice(variable: str, by_variable: Mapping[str, str]) -> str:
    # Compared without the prefix, which would make any two of them look alike.
    known = {name.removeprefix(PREFIX): name for name in (*by_variable, *OTHER_VARIABLES)}
    close = get_close_matches(variable.removeprefix(PREFIX), known, n=1, cutoff=0.6)
    return f"no such setting; did you mean {known[close[0]]}?" if close else "no such setting"


def _reason(fault: OSError | UnicodeDecodeError) -> str:
    return str(fault.strerror) if isinstance(fault, OSError) else "it is not text"
