from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from processor.cli import output
from processor.cli.main import COMMANDS, cli, main, tell
from processor.errors import ProcessorError, UsageError


@pytest.fixture
def offered() -> Iterator[click.Group]:
    """A group `try`, for the time of a test, into which the test puts its command."""
    group = click.Group("try")
    this = sys.modules[__name__]
    this.group = group  # type: ignore[attr-defined]
    COMMANDS["try"] = (__name__, "group", "A test's own commands.")
    yield group
    del COMMANDS["try"]


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def raising(fault: BaseException) -> click.Command:
    def act() -> None:
        raise fault

    return click.Command("act", callback=act)


@pytest.mark.parametrize(
    ("fault", "code", "told"),
    [
        (ProcessorError("it broke", hint="mend it"), 1, "error: it broke\nhint: mend it\n"),
        (UsageError("bad word"), 2, "error: bad word\n"),
        (click.ClickException("no luck"), 1, "error: no luck\n"),
        (
            FileNotFoundError(2, "No such file", "jobs.jsonl"),
            1,
            "error: jobs.jsonl: No such file\n",
        ),
        (click.Abort(), 1, "aborted\n"),
        (KeyboardInterrupt(), 130, "\naborted\n"),
    ],
)
def test_fault_is_told_in_one_line_with_its_exit_code(
    offered: click.Group, capsys: pytest.CaptureFixture[str], fault: Exception, code: int, told: str
):
    offered.add_command(raising(fault))

    assert exit_code("try", "act") == code
    assert capsys.readouterr() == ("", told)


def test_bug_keeps_its_traceback(offered: click.Group):
    offered.add_command(raising(AssertionError("a bug")))

    with pytest.raises(AssertionError, match="a bug"):
        main(["try", "act"])


@pytest.mark.parametrize("code", [0, 3])
def test_exit_code_of_a_command_is_the_process_s(offered: click.Group, code: int):
    offered.add_command(
        click.Command("ends", callback=lambda: click.get_current_context().exit(code))
    )
    offered.add_command(click.Command("returns", callback=lambda: code))

    assert exit_code("try", "ends") == exit_code("try", "returns") == code


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["confg"], "error: no such command: confg\nhint: did you mean `processor config`?\n"),
        (["xyzzy"], "error: no such command: xyzzy\nhint: `processor --help` lists the commands\n"),
        (
            ["config", "show", "--fiel"],
            "hint: `processor config show --help` shows how it is used\n",
        ),
        (["config", "show", "now"], "error: got unexpected extra argument"),
    ],
)
def test_misuse_exits_2_with_a_hint(
    capsys: pytest.CaptureFixture[str], typed: list[str], told: str
):
    assert exit_code(*typed) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert err.startswith("error: ")


def test_command_whose_package_is_missing_says_what_to_install(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "wants_more.py").write_text("import surely_not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(COMMANDS, "try", ("wants_more", "x", ""))

    assert exit_code("try") == 2
    assert "`processor try` needs the package surely_not_installed" in capsys.readouterr().err


def test_help_answers_quickly_and_imports_no_command():
    asked = "import sys; from processor.cli.main import run; run(['--help']);"
    heavy = ["confluent_kafka", "pydantic", "rich", "boto3", "structlog", "httpx"]
    asked += f"sys.exit(str(sorted(set({heavy}) & set(sys.modules))))"
    command = [sys.executable, "-m", "processor", "--help"]

    seconds = min(timed(command) for _ in range(5))
    loaded = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True)

    assert seconds < 0.3
    assert loaded.stderr == "[]\n"


def timed(command: list[str]) -> float:
    started = time.monotonic()
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return time.monotonic() - started


def test_every_command_is_listed_with_its_help(capsys: pytest.CaptureFixture[str]):
    assert exit_code("--help") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert [name for name, (_, _, text) in COMMANDS.items() if f"{name} {text}" not in told] == []


def test_reader_that_leaves_early_gets_no_traceback():
    reader, writer = os.pipe()
    os.close(reader)

    ended = subprocess.run(
        [sys.executable, "-m", "processor", "config", "show"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )

    os.close(writer)
    assert (ended.returncode, ended.stderr) == (1, "")


def test_interrupt_exits_130():
    code = (
        "import click, signal; from processor.cli import main;"
        "main.LazyGroup.get_command = lambda *_: click.Command("
        "'x', callback=lambda: (print('ready', flush=True), signal.pause()));"
        "main.COMMANDS['x'] = ('', '', ''); main.main(['x'])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"

    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)

    assert process.returncode == 130
    assert err.strip() == "aborted"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


ROWS = [{"name": "a", "size": 1, "extra": [1]}, {"name": "b", "size": None, "extra": []}]


def test_rows_are_json_lines_when_piped(capsys: pytest.CaptureFixture[str]):
    output.emit(iter(ROWS), ["name", "size"])

    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == ROWS


def test_rows_are_a_table_on_a_terminal(monkeypatch: pytest.MonkeyPatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)

    output.emit(ROWS, ["name", "size"])

    lines = [line.split() for line in terminal.getvalue().splitlines() if line.strip(" ─")]
    assert [[word for word in line if "─" not in word] for line in lines][-2:] == [
        ["a", "1"],
        ["b"],
    ]


HOSTILE = "\x1b]52;c;cm0=\x07\x1b[2J\x9b2J\rok\u202e"
HARMLESS = "\\u001b]52;c;cm0=\\u0007\\u001b[2J\\u009b2J\\u000dok\\u202e"


def test_what_a_terminal_would_obey_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)

    output.emit([{"key": HOSTILE}, {"key": [HOSTILE]}], ["key"])
    output.say(f"held: {HOSTILE}\n\tcafé 日本")
    tell(ProcessorError(HOSTILE, hint=HOSTILE))

    assert HARMLESS in terminal.getvalue()
    assert capsys.readouterr().err == (
        f"held: {HARMLESS}\n\tcafé 日本\nerror: {HARMLESS}\nhint: {HARMLESS}\n"
    )
    assert not set("\x07\x9b\r\u202e") & set(terminal.getvalue())
    assert "\x1b]" not in terminal.getvalue()  # The table's own are colours.


def test_json_on_a_terminal_holds_nothing_that_it_would_obey(monkeypatch: pytest.MonkeyPatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)

    output.emit([{"key": HOSTILE}], ["key"], as_json=True)

    assert json.loads(terminal.getvalue()) == {"key": HOSTILE}
    assert not set("\x1b\x9b\u202e") & set(terminal.getvalue())


def test_json_can_be_asked_for_on_a_terminal(monkeypatch: pytest.MonkeyPatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)

    output.emit(ROWS, ["name"], as_json=True)

    assert [json.loads(line) for line in terminal.getvalue().splitlines()] == ROWS


def test_question_nobody_can_answer_is_a_no(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))

    with pytest.raises(UsageError, match="Delete all") as caught:
        output.confirm("Delete all?", yes=False)

    assert caught.value.hint == "add --yes"
    output.confirm("Delete all?", yes=True)


def test_progress_bar_says_nothing_where_nobody_looks(capsys: pytest.CaptureFixture[str]):
    with output.progress() as bar:
        bar.advance(bar.add_task("copying", total=1))

    assert capsys.readouterr() == ("", "")


def test_version_is_told(capsys: pytest.CaptureFixture[str]):
    assert exit_code("--version") == 0
    assert capsys.readouterr().out.startswith("processor, version ")
    assert cli.name == "cli"
