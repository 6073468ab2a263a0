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
