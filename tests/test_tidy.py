"""The rules that no linter knows: which way imports point, what the core may not touch, sizes."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from processor.cli.main import COMMANDS, cli

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "processor"

MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
BANNED_WORDS = {"utils", "util", "helper", "helpers", "manager", "misc", "common"}

# What a folder may import of ours: only these, where it is named here.
MAY_IMPORT_ONLY = {
    "core": {"core", "errors", "model"},
    "check": {"check", "contracts", "core", "engine", "errors", "model", "pruning", "settings"},
}
# What a folder may never import, with everything below it.
MAY_NOT_IMPORT = {
    "contracts": {"adapters", "api", "cli", "engine", "jobs", "sinks", "stack"},
    "engine": {"adapters", "api", "cli", "jobs", "sinks", "stack"},
    "adapters": {"api", "cli", "jobs", "sinks", "stack"},
    "sinks": {"api", "cli", "jobs", "stack"},
    "jobs": {"api", "cli", "stack"},
    "stack": {"api", "cli", "jobs"},
    "api": {"cli", "stack"},
    "": {"cli"},  # Modules at the top of the package.
}
# Adapters and sinks see the engine only through what it asks of them.
ENGINE_SEEN_FROM_OUTSIDE = {
    "processor.engine.context",  # What a pool hands to a handler.
    "processor.engine.operations",  # What operators ask of a ledger.
    "processor.engine.ports",
    "processor.engine.slices",  # What a pool is given and reports back.
    "processor.engine.telemetry",
    "processor.engine.tracing",  # What a tracer makes spans of.
}
OUTSIDE = {"adapters", "sinks"}

# The core is pure: time is an argument called `now`, chance one called `jitter`.
CORE_BANNED_MODULES = {
    "asyncio", "logging", "multiprocessing", "os", "queue", "random", "secrets", "select", "signal",
    "socket", "subprocess", "sys", "tempfile", "threading", "time", "uuid",
}  # fmt: skip
CORE_BANNED_CALLS = {"now", "utcnow", "today", "sleep", "open"}

# The only places that may catch every exception, and why each has to.
MAY_CATCH_EVERYTHING = {
    "processor/engine/call.py": "calls the handler, which may raise anything",
    "processor/engine/quick.py": "calls the handler too",
    "processor/adapters/logs.py": "asks what a user logs for its text, which may raise anything",
    "processor/app.py": "makes a payload's class, whose checks may raise anything",
    "processor/contracts/avro.py": "parses a stranger's schema, which may provoke anything",
    "processor/contracts/reading.py": "reads by a stranger's schema, which may provoke anything",
    "processor/contracts/protected.py": "opens what was read by a stranger's schema",
    "processor/engine/effects.py": "calls a user's sinks, which may raise anything",
    "processor/engine/outcomes.py": "asks a user's exception for its text, which may raise too",
    "processor/serve.py": "imports the user's module, which may raise anything",
    "processor/adapters/coroutines.py": "hands what a handler raised to its slice, which decides",
    "processor/adapters/pool.py": "hands what a call raised to the loop thread, which decides",
}


def folder_of(module: str) -> str:
    """The folder of a module of ours; "" for one at the top, or a module of somebody else."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and (PACKAGE / parts[1]).is_dir() else ""


def imports(tree: ast.AST, module: str) -> Iterator[tuple[int, str]]:
    package = module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]).rstrip(".")
            # `from processor import engine` names a module too.
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def seen_from_outside(name: str) -> bool:
    return any(f"{name}.".startswith(f"{seen}.") for seen in ENGINE_SEEN_FROM_OUTSIDE)


def arrow_faults(tree: ast.AST, module: str) -> Iterator[str]:
    here = folder_of(module)
    for line, name in imports(tree, module):
        if name.partition(".")[0] != "processor":
            if here == "core" and name.partition(".")[0] not in sys.stdlib_module_names:
                yield f"line {line}: core imports {name}"
            continue
        there = folder_of(name) or name.removeprefix("processor.").partition(".")[0]
        if here in MAY_IMPORT_ONLY and there not in MAY_IMPORT_ONLY[here]:
            yield f"line {line}: {here} imports {name}"
        elif there in MAY_NOT_IMPORT.get(here, set()) and module != "processor.__main__":
            yield f"line {line}: {here or 'the top'} imports {name}"
        elif here in OUTSIDE and there == "engine" and not seen_from_outside(name):
            yield f"line {line}: {here} imports {name}"


def purity_faults(tree: ast.AST, module: str) -> Iterator[str]:
    if folder_of(module) != "core":
        return
    for line, name in imports(tree, module):
        if name.partition(".")[0] in CORE_BANNED_MODULES:
            yield f"line {line}: the core imports {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name in CORE_BANNED_CALLS:
                yield f"line {node.lineno}: the core calls {name}()"


def size_faults(tree: ast.AST, module: str) -> Iterator[str]:
    lines = max((getattr(node, "end_lineno", 0) or 0 for node in ast.walk(tree)), default=0)
    if lines > MODULE_LINES_MAX:
        yield f"{lines} lines, more than {MODULE_LINES_MAX}"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                yield f"line {node.lineno}: {node.name} has {length} lines"


def name_faults(tree: ast.AST, module: str) -> Iterator[str]:
    for part in module.split("."):
        if set(part.split("_")) & BANNED_WORDS:
            yield f"a module called {part} says nothing"
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name.endswith(("Manager", "Helper", "Utils")):
            yield f"line {node.lineno}: a class called {node.name} says nothing"


def docstring_faults(tree: ast.Module, module: str) -> Iterator[str]:
    if not ast.get_docstring(tree):
        yield "the module has no docstring"


def print_faults(tree: ast.AST, module: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
            yield f"line {node.lineno}: print()"


def broad_catches(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            kinds = list(ast.walk(node.type)) if node.type else []
            names = {kind.id for kind in kinds if isinstance(kind, ast.Name)}
            last = node.body[-1]
            passes_it_on = isinstance(last, ast.Raise) and last.exc is None  # Only tidies up.
            if (not kinds or names & {"Exception", "BaseException"}) and not passes_it_on:
                yield node.lineno


def catch_faults(tree: ast.AST, module: str) -> Iterator[str]:
    if f"{module.replace('.', '/')}.py" not in MAY_CATCH_EVERYTHING:
        yield from (f"line {line}: catches every exception" for line in broad_catches(tree))


Rule = Callable[[ast.Module, str], Iterator[str]]
RULES: list[Rule] = [
    arrow_faults,
    purity_faults,
    size_faults,
    name_faults,
    docstring_faults,
    print_faults,
    catch_faults,
]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def faults_in(rule: Rule, source: str, module: str) -> list[str]:
    return list(rule(ast.parse(source), module))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_module_keeps_the_rule(rule: Rule):
    told = [
        f"{path.relative_to(ROOT)}: {fault}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for fault in faults_in(rule, path.read_text(encoding="utf-8"), module_of(path))
    ]

    assert told == []


@pytest.mark.parametrize(
    ("rule", "module", "source"),
    [
        (arrow_faults, "processor.core.lane", "from processor.engine import ports"),
        (arrow_faults, "processor.core.lane", "from processor.settings import Settings"),
        (arrow_faults, "processor.core.lane", "import pydantic"),
        (
            arrow_faults,
            "processor.check.claims",
            "from processor.adapters.reader import TopicReader",
        ),
        (arrow_faults, "processor.core.lane", "from ..contracts import headers"),
        (arrow_faults, "processor.contracts.avro", "import processor.adapters.registry"),
        (arrow_faults, "processor.engine.worker", "from processor.sinks.sqlite import Ledger"),
        (arrow_faults, "processor.engine.worker", "from processor import adapters"),
        (arrow_faults, "processor.adapters.kafka", "from processor.engine.worker import Worker"),
        (arrow_faults, "processor.sinks.sqlite", "from processor.engine import run"),
        (arrow_faults, "processor.stack.kafka", "from processor.cli.output import emit"),
        (arrow_faults, "processor.settings", "from processor.cli import main"),
        (purity_faults, "processor.core.lane", "import time"),
        (purity_faults, "processor.core.lane", "from random import random"),
        (purity_faults, "processor.core.lane", "import threading"),
        (purity_faults, "processor.core.lane", "at = datetime.now()"),
        (purity_faults, "processor.core.lane", "clock.sleep(1)"),
        (size_faults, "processor.model", "x = 1\n" * (MODULE_LINES_MAX + 1)),
        (size_faults, "processor.model", "def f():\n" + "    x = 1\n" * FUNCTION_LINES_MAX),
        (name_faults, "processor.core.lane_utils", ""),
        (name_faults, "processor.helpers.lane", ""),
        (name_faults, "processor.core.lane", "class LaneManager: ..."),
        (docstring_faults, "processor.model", "x = 1"),
        (print_faults, "processor.model", "print('x')"),
        (catch_faults, "processor.model", "try: ...\nexcept Exception: ..."),
        (catch_faults, "processor.model", "try: ...\nexcept (OSError, BaseException): ..."),
        (catch_faults, "processor.model", "try: ...\nexcept: ..."),
    ],
)
def test_rule_tells_what_breaks_it(rule: Rule, module: str, source: str):
    assert faults_in(rule, source, module) != []


@pytest.mark.parametrize(
    ("rule", "module", "source"),
    [
        (arrow_faults, "processor.core.lane", "from processor.core.watermark import Watermark"),
        (arrow_faults, "processor.core.lane", "from processor.model import Record"),
        (arrow_faults, "processor.core.lane", "from collections import deque"),
        (arrow_faults, "processor.engine.worker", "from processor.contracts import headers"),
        (arrow_faults, "processor.adapters.kafka", "from processor.engine import ports"),
        (arrow_faults, "processor.adapters.kafka", "from processor.engine.ports import Log"),
        (arrow_faults, "processor.cli.work", "from processor.adapters.kafka import KafkaLog"),
        (purity_faults, "processor.engine.worker", "import threading"),
        (size_faults, "processor.model", "def f():\n" + "    x = 1\n" * (FUNCTION_LINES_MAX - 1)),
        (print_faults, "processor.cli.work", "console.print('x')"),
        (catch_faults, "processor.engine.call", "try: ...\nexcept Exception: ..."),
        (catch_faults, "processor.model", "try: ...\nexcept ValueError: ..."),
        (catch_faults, "processor.model", "try: ...\nexcept (KeyError, *FAULTS): ..."),
        (
            catch_faults,
            "processor.model",
            "try: ...\nexcept BaseException:\n    close()\n    raise",
        ),
        (arrow_faults, "processor.adapters.metrics", "import processor"),
    ],
)
def test_rule_lets_pass_what_keeps_it(rule: Rule, module: str, source: str):
    assert faults_in(rule, source, module) == []


def test_place_that_may_catch_everything_still_has_to():
    needless = [
        name
        for name in MAY_CATCH_EVERYTHING
        if not (ROOT / name).is_file()
        or not list(broad_catches(ast.parse((ROOT / name).read_text(encoding="utf-8"))))
    ]

    assert needless == []


def threads_that_outlive(source: str) -> list[int]:
    """Lines that make a thread which keeps its process alive after the main thread has failed."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and (node.func.attr, getattr(node.func.value, "id", "")) == ("Thread", "threading")
        and not any(each.arg == "daemon" for each in node.keywords)
    ]


def test_no_thread_of_a_test_hangs_the_run_that_has_failed():
    found = {
        str(path.relative_to(ROOT)): lines
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if (lines := threads_that_outlive(path.read_text()))
    }

    assert threads_that_outlive("import threading\nthreading.Thread(target=f)") == [2]
    assert found == {}


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command and group, by what one types."""
    pending: list[tuple[str, click.Command]] = [("processor", cli)]
    while pending:
        typed, command = pending.pop()
        yield typed, command
        if isinstance(command, click.Group):
            ctx = click.Context(command)
            for name in command.list_commands(ctx):
                below = command.get_command(ctx, name)
                assert below is not None
                pending.append((f"{typed} {name}", below))


def ends_with_an_example(typed: str, help_text: str) -> bool:
    lines = [line for line in help_text.replace("\b", "").splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    return last.startswith("    ") and typed in " ".join(line.strip() for line in lines[-3:])


def test_every_command_has_help_that_ends_with_an_example():
    bare = [
        typed
        for typed, command in commands()
        if typed != "processor" and not ends_with_an_example(typed, command.help or "")
    ]

    assert bare == []


@pytest.mark.parametrize(
    "help_text", ["", "Do it.", "Do it.\n\n    processor other", "Do it: processor run"]
)
def test_help_without_an_example_is_noticed(help_text: str):
    assert not ends_with_an_example("processor run", help_text)


def test_every_option_is_explained():
    silent = [
        f"{typed} {option.opts[0]}"
        for typed, command in commands()
        for option in command.params
        if isinstance(option, click.Option) and not option.help
    ]

    assert silent == []


def test_list_of_commands_agrees_with_the_commands_themselves():
    below = {typed: command for typed, command in commands() if typed.count(" ") == 1}

    assert {typed.removeprefix("processor ") for typed in below} == set(COMMANDS)
    assert {name: below[f"processor {name}"].name for name in COMMANDS} == {n: n for n in COMMANDS}
