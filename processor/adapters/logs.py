"""Structured logs on stderr: JSON lines for machines, short coloured lines on a terminal.

Rule 1: a payload is never logged: fields of that name are dropped, whoever sets them.
Rule 2: known secrets are masked wherever they turn up, inside messages and errors too.
Rule 3: so are decrypted values, while the job that has them is in hand (contracts/masking.py), in
fields and in their names.
Rule 4: what is below the level costs one method call that does nothing.
Rule 5: a log call raises nothing for what it is given: what has no words is told by its class.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress
from functools import lru_cache, partial, wraps
from typing import Any, Final, TextIO, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor

from processor.contracts.masking import Plaintexts, hidden_now, masked
from processor.errors import cause_of, frames_of
from processor.secret import MASK, secret_name
from processor.settings import LogSettings

PAYLOAD_FIELDS: Final = frozenset({"payload", "value", "body"})
ERROR_LENGTH_MAX: Final = 1024
ERROR_READ_MAX: Final = 10_000  # Characters of an error's text that are looked at.
# Fields that this package writes itself: a value that happens to be called so must not hide them.
OWN_FIELDS: Final = frozenset({
    "at", "attempt", "away", "cause", "code", "drain_seconds", "duplicate_of", "epoch", "error",
    "error_class", "event", "folder", "group", "in_seconds", "job_id", "job_type", "jobs",
    "key_hash", "ledger", "level", "logger", "number", "offset", "partition", "partitions", "place",
    "pool_free", "replay", "seconds", "span_id", "timestamp", "topic", "topics", "trace_id",
    "unanswered", "url", "what", "why", "worker_id",
})  # fmt: skip
OWN_VALUES: Final = frozenset({"level", "timestamp"})  # Set last, whatever was given.
SECRET_LENGTH_MIN: Final = 4  # Masking a shorter text would tear up every other word.

# These tell each request at `info`; theirs is worth reading only when ours is at `debug`.
_TALKATIVE = ("urllib3", "httpx", "httpx2", "asyncio")
# These tell at `debug` what they send and are answered: keys of KMS, session tokens, signed links.
_INDISCREET = ("botocore", "boto3", "s3transfer", "httpcore", "httpcore2")


def configure_logging(
    settings: LogSettings,
    *,
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
    more: Iterable[Processor] = (),
) -> None:
    """Send our own and every library's log lines to `stream` (default: stderr).

    A second call replaces the first one's set-up; loggers bound before keep their fields. `more`
    adds to each line.
    """
    stream = sys.stderr if stream is None else stream
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        *more,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        compact_error,
        Redaction(secrets),
    ]
    renderer = _sure(_renderer(settings, stream))
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=_logger_class(level),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=False,
    )
    handler = _LibraryHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared[:-2]],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *shared[-2:],
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h, _LibraryHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name in _TALKATIVE:
        quiet = logging.NOTSET if settings.level == "debug" else logging.WARNING
        logging.getLogger(name).setLevel(max(quiet, level) if quiet else quiet)
    for name in _INDISCREET:
        logging.getLogger(name).setLevel(max(logging.WARNING, level))
    logging.captureWarnings(True)


def worker_logger(worker_id: str, **fields: Any) -> FilteringBoundLogger:
    """Make the logger of one worker; each line carries its id. Bind a job's fields onto it."""
    logger = structlog.get_logger().bind(worker_id=worker_id, **fields)
    return cast("FilteringBoundLogger", logger)


class Redaction:
    """Drops payload fields and masks secrets, by name and by value."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = sorted({s for s in secrets if len(s) >= SECRET_LENGTH_MIN}, key=len, reverse=True)
        self._secrets = re.compile("|".join(map(re.escape, known))) if known else None
        # Names recur, but one that may tell a decrypted value is not to be kept.
        self._name_of = lru_cache(maxsize=1024, typed=True)(partial(self._name, None))

    def __call__(self, logger: Any, method: str, event: EventDict) -> EventDict:
        """Return the event as it may be seen."""
        del logger, method
        hidden = hidden_now() or None
        name_of = self._name_of if hidden is None else partial(self._name, hidden)
        cleaned = {}
        for name, value in event.items():
            if name in OWN_VALUES:
                cleaned[name] = value
            elif name in OWN_FIELDS:
                cleaned[name] = self._clean_surely(value, hidden)
            elif name not in PAYLOAD_FIELDS:
                told, secret = name_of(name)
                cleaned[told] = MASK if secret else self._clean_surely(value, hidden)
        return cleaned

    def _clean_surely(self, value: Any, hidden: Plaintexts | None) -> Any:
        try:
            return self._clean(value, hidden)
        except Exception:  # noqa: BLE001 - it may be a user's class, or hold itself.
            return _class_of(value)

    def _clean_fields(self, fields: Mapping[Any, Any], hidden: Plaintexts | None) -> dict[Any, Any]:
        name_of = self._name_of if hidden is None else partial(self._name, hidden)
        cleaned = {}
        for name, value in fields.items():
            if name not in PAYLOAD_FIELDS:
                told, secret = name_of(name)
                cleaned[told] = MASK if secret else self._clean(value, hidden)
        return cleaned

    def _name(self, hidden: Plaintexts | None, name: Any) -> tuple[Any, bool]:
        """Give a name as it may be seen, and whether it says that its value is a secret."""
        told = self._clean(name, hidden)
        if isinstance(told, list | dict):  # JSON has no such names.
            told = str(told)
        return told, isinstance(name, str) and secret_name(name)

    def _clean(self, value: Any, hidden: Plaintexts | None) -> Any:
        if isinstance(value, str):
            value = value if hidden is None else hidden.mask(value)
            return self._secrets.sub(MASK, value) if self._secrets else value
        if value is None or isinstance(value, (bool, int, float)):
            return value if hidden is None else hidden.mask_within(value)
        if isinstance(value, bytes):
            return f"<{len(value)} bytes>"
        if isinstance(value, Mapping):
            return self._clean_fields(value, hidden)
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self._clean(one, hidden) for one in value]
        return self._clean(
            _words(value), hidden
        )  # Else a renderer's repr() of it would pass unseen.


def compact_error(
    logger: Any, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Turn `exc_info` into `error` (class and message) and `at` (the innermost frames).

    No local variables and no source lines: either could hold a payload.
    """
    del logger, method
    given = event.pop("exc_info", None)
    error = sys.exc_info()[1] if given is True else given
    if isinstance(error, tuple):
        error = error[1] if len(error) == 3 else None
    if isinstance(error, BaseException):
        event["error"] = _told(error)
        event["at"] = frames_of(error)
        cause = cause_of(error)
        if cause is not None:
            event["cause"] = _told(cause)
    return event


class _LibraryHandler(logging.StreamHandler[TextIO]):
    """Ours on the root logger, told apart from handlers others have put there."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging calls it so.
        """Tell where a line could not be made, and not of what: that may be anything."""
        error = sys.exc_info()[1]
        told = logging.LogRecord(
            record.name,
            logging.ERROR,
            record.pathname,
            record.lineno,
            "the log line of %s:%d could not be written: %s",
            (record.pathname, record.lineno, type(error).__name__),
            None,
        )
        with suppress(OSError, ValueError):  # The stream itself may be what failed.
            self.stream.write(self.format(told) + self.terminator)


def _renderer(settings: LogSettings, stream: TextIO) -> Processor:
    terminal = stream.isatty()
    if settings.format == "console" or (settings.format == "auto" and terminal):
        return structlog.dev.ConsoleRenderer(colors=terminal)
    encode = json.JSONEncoder(ensure_ascii=False).encode  # `json.dumps` makes one for each line.
    return lambda _logger, _method, event: encode(event)


def _sure(render: Processor) -> Processor:
    """Render texts alone where the rest cannot be, such as a number of 5,000 digits."""

    def rendered(logger: Any, method: str, event: EventDict) -> Any:
        try:
            return render(logger, method, dict(event))
        except Exception:  # noqa: BLE001 - what is left of users' classes may raise anything.
            texts = {n: v if isinstance(v, str) else _class_of(v) for n, v in event.items()}
            return render(logger, method, texts)

    return rendered


def _logger_class(level: int) -> type[FilteringBoundLogger]:
    """Make structlog's class of loggers, for which a text and its arguments may not fit."""
    made = structlog.make_filtering_bound_logger(level)
    for name in ("debug", "info", "msg", "warning", "warn", "error", "exception", "critical"):
        for each in (name, f"a{name}"):
            method = getattr(made, each)
            if "nop" not in method.__name__:
                setattr(made, each, _filled_first(method))
    return made


def _filled_first(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def tell(logger: Any, event: Any, *args: Any, **fields: Any) -> Any:
        return method(logger, _filled(event, args) if args else event, **fields)

    return tell


def _filled(event: Any, args: tuple[Any, ...]) -> Any:
    named = len(args) == 1 and isinstance(args[0], Mapping) and args[0]
    try:
        return event % (args[0] if named else args)
    except Exception:  # noqa: BLE001 - the arguments may be of users' classes.
        return " ".join(map(_words, (event, *args)))


def _told(error: BaseException) -> str:
    text = f"{type(error).__name__}: {_words(error)}"
    told = masked(text, length_max=ERROR_READ_MAX)  # Before it is cut.
    if len(told) <= ERROR_LENGTH_MAX and len(text) <= ERROR_READ_MAX:
        return told
    return f"{told[:ERROR_LENGTH_MAX]}…"


def _words(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - a user's class says how.
        return _class_of(value)


def _class_of(value: Any) -> str:
    return f"<{type(value).__name__} object>"
