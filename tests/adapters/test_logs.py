from __future__ import annotations

import ast
import asyncio
import io
import json
import logging
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from processor.adapters import logs
from processor.adapters.logs import (
    ERROR_LENGTH_MAX,
    OWN_FIELDS,
    configure_logging,
    worker_logger,
)
from processor.contracts.masking import Plaintexts, hiding
from processor.errors import FRAMES_MAX
from processor.settings import LogSettings

CANARY = "s3cr3t-canary"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    yield io.StringIO()
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    logging.captureWarnings(False)
    structlog.reset_defaults()


def configure(stream: io.StringIO, level: str = "info", secrets: tuple[str, ...] = ()) -> None:
    settings = LogSettings.model_validate({"level": level, "format": "json"})
    configure_logging(settings, secrets=secrets, stream=stream)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_line_carries_the_worker_and_what_was_bound(stream: io.StringIO):
    configure(stream)

    log = worker_logger("w-1", group="g").bind(topic="copy", partition=3)
    log.info("settled", offset=7)

    (line,) = lines(stream)
    assert str(line.pop("timestamp")).endswith("Z")
    assert line == {
        "event": "settled",
        "level": "info",
        "worker_id": "w-1",
        "group": "g",
        "topic": "copy",
        "partition": 3,
        "offset": 7,
    }


def test_lines_below_the_level_are_not_written(stream: io.StringIO):
    configure(stream, level="warning")

    worker_logger("w").info("quiet")
    logging.getLogger("someone").info("quiet")
    worker_logger("w").warning("loud")

    assert [line["event"] for line in lines(stream)] == ["loud"]


def test_libraries_write_the_same_lines(stream: io.StringIO):
    configure(stream)

    logging.getLogger("librdkafka").warning("broker %s is away", "b1")

    (line,) = lines(stream)
    assert (line["event"], line["logger"], line["level"]) == (
        "broker b1 is away",
        "librdkafka",
        "warning",
    )


def test_talkative_libraries_are_heard_only_when_debugging(stream: io.StringIO):
    configure(stream)
    logging.getLogger("httpx").info("GET /")
    configure(stream, level="debug")
    logging.getLogger("httpx").info("GET /again")

    assert [line["event"] for line in lines(stream)] == ["GET /again"]


@pytest.mark.parametrize(
    "name", ["botocore.parsers", "botocore.auth", "s3transfer.tasks", "httpcore.http11"]
)
def test_what_a_client_of_a_cloud_is_answered_is_not_told_when_debugging(
    stream: io.StringIO, name: str
):
    configure(stream, level="debug")

    logging.getLogger(name).debug("Response body: %r", {"Plaintext": CANARY})
    logging.getLogger(name).warning("tried again")

    assert [line["event"] for line in lines(stream)] == ["tried again"]


def test_second_set_up_replaces_the_first(stream: io.StringIO):
    configure(stream)
    configure(stream)

    logging.getLogger("someone").warning("once")

    assert len(lines(stream)) == 1


def test_payload_is_never_written(stream: io.StringIO):
    configure(stream, level="debug")

    worker_logger("w").debug("run", payload=CANARY, value=CANARY, seen={"body": CANARY, "n": 1})
    worker_logger("w").debug("bytes", key=CANARY.encode())

    assert CANARY not in stream.getvalue()
    assert [line.get("seen") for line in lines(stream)] == [{"n": 1}, None]
    assert lines(stream)[1]["key"] == "<13 bytes>"


def test_secrets_are_masked_wherever_they_turn_up(stream: io.StringIO):
    configure(stream, secrets=(CANARY,))

    class Odd:
        def __repr__(self) -> str:
            return f"<Odd {CANARY}>"

    log = worker_logger("w", url=f"https://me:{CANARY}@host")
    log.info(f"with {CANARY}", listed=[CANARY], nested={"a": {"b": CANARY}}, odd=Odd())
    log.info("by name", sasl_password="never-told")
    logging.getLogger("someone").error("it is %s", CANARY)
    try:
        raise ValueError(CANARY)
    except ValueError:
        log.exception("failed")
        logging.getLogger("someone").exception("failed too")

    text = stream.getvalue()
    assert CANARY not in text
    assert "never-told" not in text
    assert lines(stream)[0]["event"] == "with ***"
    assert len(lines(stream)) == 5


def test_decrypted_values_are_masked_in_names_and_numbers_too(stream: io.StringIO):
    configure(stream)
    log, email = worker_logger("w"), "ada@example.com"

    with hiding(Plaintexts([email, "4915112345678"])):
        log.info("a name", seen={email: 1, "in": [{email: email}]})
        log.info("a number", phone=4915112345678, other=4915112345679, yes=True)
        log.info(**{"event": "a field", email: "x"})
        log.info("a secret of its", **{f"{email} password": "never-told"})
        log.info("a tuple", seen={(email, 1): 2})

    assert [line.get("seen", {}) for line in lines(stream)] == [
        {"***": 1, "in": [{"***": "***"}]}, {}, {}, {}, {"['***', 1]": 2},
    ]  # fmt: skip
    numbers = lines(stream)[1]
    assert (numbers["phone"], numbers["other"], numbers["yes"]) == ("***", 4915112345679, True)
    assert lines(stream)[2]["***"] == "x"
    assert "never-told" not in stream.getvalue()


def test_fields_of_our_own_stay_whatever_a_value_is_called(stream: io.StringIO):
    configure(stream, secrets=("info", "seconds"))

    with hiding(Plaintexts([*OWN_FIELDS, "info", "other", "2026", "handler"])):
        worker_logger("w", job_id="j-1", topic="topic").info("handler failed", other="other", n=1)

    (line,) = lines(stream)
    assert str(line.pop("timestamp"))[:2].isdecimal()
    assert line == {
        "event": "*** failed", "level": "info", "worker_id": "w", "job_id": "j-1", "topic": "***",
        "***": "***", "n": 1,
    }  # fmt: skip


def logged_names() -> Iterator[str | None]:
    for path in Path(logs.__file__).parent.parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if "logger" in ast.unparse(node.func.value).lower() or node.func.attr == "bind":
                yield from (each.arg for each in node.keywords)


def test_every_field_that_we_write_is_known_as_our_own():
    written = set(logged_names()) - {None, "exc_info"}

    assert {"job_id", "why"} <= written <= OWN_FIELDS


def test_names_that_are_no_texts_are_written(stream: io.StringIO):
    configure(stream, secrets=(CANARY,))

    worker_logger("w").info("seen", by={(1, CANARY): 1, None: 2, 3: 4, True: 5, b"six": 6})

    assert lines(stream)[0]["by"] == {
        "[1, '***']": 1, "null": 2, "3": 4, "true": 5, "<3 bytes>": 6,
    }  # fmt: skip


def test_line_that_a_library_cannot_make_tells_where_and_not_what(
    stream: io.StringIO, capsys: pytest.CaptureFixture[str]
):
    logging.getLogger().handlers[:] = []  # pytest's raises what ours tells.
    configure(stream)

    logging.getLogger("someone").warning("row %d", CANARY)

    (line,) = lines(stream)
    assert (line["logger"], line["level"]) == ("someone", "error")
    assert str(line["event"]).startswith(f"the log line of {__file__}:")
    assert str(line["event"]).endswith("could not be written: TypeError")
    assert capsys.readouterr().err == ""


class Wordless(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]

    __repr__ = __str__


class Void(Wordless):
    def __bool__(self) -> bool:
        return False


@pytest.mark.parametrize("form", ["json", "console"])
def test_log_call_raises_nothing_for_what_it_is_given(stream: io.StringIO, form: str):
    configure_logging(LogSettings.model_validate({"format": form}), stream=stream)
    log, circle = worker_logger("w", job_id="j-1"), {"a": [1]}
    circle["a"].append(circle)  # type: ignore[arg-type]

    for given in (Wordless(), [Wordless()], {Wordless(): 1}, circle, 10**5000, {1: 10**5000}):
        log.error("broken", kept="as it is", given=given)
        with hiding(Plaintexts(["hidden"])):
            log.error("broken", kept="as it is", given=given)
    log.error("broken", exc_info=())
    log.error("broken %d times", Wordless())
    log.error("broken %s %s", "once")
    log.error(Wordless())  # type: ignore[arg-type]
    asyncio.run(log.aerror("broken %d", "x"))

    told = stream.getvalue().splitlines()
    assert [line for line in told if "j-1" not in line] == []
    assert len([line for line in told if "broken" in line and "as it is" in line]) == 12
    assert len(told) == 12 + 5


@pytest.mark.parametrize("of", ["ours", "a library"])
def test_error_without_words_is_told_by_its_class(stream: io.StringIO, of: str):
    configure(stream)
    log = worker_logger("w") if of == "ours" else logging.getLogger("someone")

    try:
        raise Wordless from Void()
    except Wordless as fault:
        log.warning("failed", exc_info=fault)

    (line,) = lines(stream)
    assert (line["event"], line["error"], line["cause"]) == (
        "failed", "Wordless: <Wordless object>", "Void: <Void object>",
    )  # fmt: skip


def test_arguments_are_filled_in(stream: io.StringIO):
    configure(stream)

    worker_logger("w").info("%s of %d", "one", 2)
    worker_logger("w").info("%(a)s%%", {"a": 5})
    worker_logger("w").info("100%")
    worker_logger("w").debug("%d", "quiet")

    assert [line["event"] for line in lines(stream)] == ["one of 2", "5%", "100%"]


def test_stream_that_fails_ends_nobody(stream: io.StringIO):
    configure(stream)
    stream.close()

    logging.getLogger("someone").warning("unheard")


def test_short_words_are_not_taken_for_secrets(stream: io.StringIO):
    configure(stream, secrets=("a", ""))

    worker_logger("w").info("all as it was")

    assert lines(stream)[0]["event"] == "all as it was"


def fail(depth: int, local: str) -> None:
    if depth:
        fail(depth - 1, local)
    raise ValueError("x" * 5000)


@pytest.mark.parametrize("of", ["ours", "a library"])
def test_error_is_one_compact_line_without_local_variables(stream: io.StringIO, of: str):
    configure(stream)
    log = worker_logger("w") if of == "ours" else logging.getLogger("someone")

    try:
        try:
            fail(20, CANARY)
        except ValueError as fault:
            raise RuntimeError("outer") from fault
    except RuntimeError:
        log.exception("failed")

    (line,) = lines(stream)
    assert line["error"] == "RuntimeError: outer"
    assert str(line["cause"]).startswith("ValueError: xxx")
    assert len(str(line["cause"])) == ERROR_LENGTH_MAX + 1
    assert isinstance(line["at"], list)
    assert 1 <= len(line["at"]) <= FRAMES_MAX
    assert "test_error_is_one_compact_line" in line["at"][0]
    assert "Traceback" not in stream.getvalue()
    assert CANARY not in stream.getvalue()


def test_error_of_any_length_is_told_soon_and_never_half_a_value(stream: io.StringIO):
    configure(stream)
    long, started = "Ada Lovelace, " * 900, time.process_time()

    with hiding(Plaintexts([long, "Bea Long"])):
        worker_logger("w").error("failed", exc_info=ValueError(f"Bea Long {long}" * 1000))

    assert time.process_time() - started < 2
    assert lines(stream)[0]["error"] == "ValueError: *** ***…"


def test_deep_error_shows_its_innermost_frames_first(stream: io.StringIO):
    configure(stream)

    try:
        fail(20, CANARY)
    except ValueError:
        worker_logger("w").exception("failed")

    at = lines(stream)[0]["at"]
    assert isinstance(at, list)
    assert len(at) == FRAMES_MAX
    assert {frame.rpartition(" ")[2] for frame in at} == {"fail"}


def test_warnings_are_log_lines(stream: io.StringIO):
    configure(stream)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("old name", stacklevel=1)

    assert "old name" in str(lines(stream)[0]["event"])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_terminal_gets_lines_for_people_and_a_pipe_gets_json(stream: io.StringIO):
    terminal = Terminal()

    configure_logging(LogSettings(), stream=terminal)
    worker_logger("w").info("hello")
    configure_logging(LogSettings(), stream=stream)
    worker_logger("w").info("hello")

    assert "hello" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")
    assert lines(stream)[0]["event"] == "hello"


def test_log_goes_to_stderr_and_leaves_stdout_alone():
    code = (
        "from processor.adapters.logs import *; from processor.settings import LogSettings;"
        "configure_logging(LogSettings()); worker_logger('w').info('hello')"
    )

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ended.stdout == ""
    assert json.loads(ended.stderr)["event"] == "hello"
