"""What can go wrong, sorted by what time does to it.

    ProcessorError
    ├── UsageError               the caller's words or files are wrong; the command exits 2
    ├── PermanentError           repeating cannot help -> dead-letter topic
    │   ├── ContractError        the bytes do not match a known schema, or a claim does not match
    │   └── Reject               the handler says no
    └── TransientError           time may help -> retry tier
        ├── Retry                the handler asks for another attempt
        ├── JobTimeout           the job outlived its timeout
        └── OutageError          something the engine needs is away -> pause, count no attempt;
            │                    raised by a handler: a failed attempt like any other
            ├── BrokerUnavailable
            ├── RegistryUnavailable
            ├── StoreUnavailable
            ├── KeysUnavailable
            └── SinkUnavailable

A bug is none of these: it asserts, ends the worker, and the log replays what was not committed.
"""

from __future__ import annotations

import math
from collections import deque
from types import TracebackType
from typing import Final

FRAMES_MAX: Final = 8  # Innermost first is what one looks for; more is noise.


class ProcessorError(Exception):
    """A fault with a message for a person, and a hint that says what to do next."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(ProcessorError):
    """The caller's words, settings or files are wrong; nothing was done."""


class PermanentError(ProcessorError):
    """Repeating the job cannot help: it goes to the dead-letter topic."""


class ContractError(PermanentError):
    """The bytes do not match a schema we know, or a claim does not match its checksum."""


class Reject(PermanentError):
    """Raised by a handler: this job can never succeed."""


class TransientError(ProcessorError):
    """Time may help: the job goes to the next retry tier."""


class Retry(TransientError):
    """Raised by a handler: try again, not before `after` seconds (default: the tier's delay)."""

    def __init__(
        self, message: str = "the handler asked for another attempt", *, after: float | None = None
    ) -> None:
        super().__init__(message)
        if after is not None and not 0 <= after < math.inf:
            raise ValueError(f"Retry(after={after}) must be a number of seconds, 0 or more")
        self.after_seconds = after


class JobTimeout(TransientError):
    """The job outlived its timeout."""


class OutageError(TransientError):
    """Something the engine itself needs is away: intake pauses, no attempt is counted.

    Raised by a handler it is a failed attempt like any other.
    """


class BrokerUnavailable(OutageError):
    """Kafka does not answer."""


class RegistryUnavailable(OutageError):
    """The schema registry does not answer."""


class StoreUnavailable(OutageError):
    """The object store does not answer. In the claim store and in sinks the worker pauses."""


class KeysUnavailable(OutageError):
    """The key that an encrypted field needs is not here, or its keeper does not answer."""


class SinkUnavailable(OutageError):
    """The sink or the ledger does not answer."""


def frames_of(error: BaseException) -> list[str]:
    """Name the frames that an error came through, the innermost first, and no line's source."""
    # Not by `traceback.extract_tb`: it looks at each source file on disk, for lines we never show.
    innermost: deque[TracebackType] = deque(maxlen=FRAMES_MAX)
    place = error.__traceback__
    while place is not None:
        innermost.appendleft(place)
        place = place.tb_next
    codes = [(each.tb_frame.f_code, each.tb_lineno) for each in innermost]
    return [f"{code.co_filename}:{line} {code.co_name}" for code, line in codes]


def cause_of(error: BaseException) -> BaseException | None:
    """What an error was raised from or while handling, unless that was said to be of no matter."""
    if error.__cause__ is not None:  # A user's class may say that it is false.
        return error.__cause__
    return None if error.__suppress_context__ else error.__context__
