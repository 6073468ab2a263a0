"""A server's clock, by the Date of its answers."""

from __future__ import annotations

from email.utils import parsedate_to_datetime


def ahead_of(asked: float, answered: float, date: str | None) -> float | None:
    """How many seconds a server's clock is ahead of ours; None: it does not tell.

    `asked` and `answered` are when, by ours. The header has whole seconds: half of one is added.

    >>> ahead_of(1000.0, 1001.0, "Thu, 01 Jan 1970 00:17:00 GMT")
    20.0
    """
    try:
        told = parsedate_to_datetime(date or "").timestamp() + 0.5
    except ValueError:
        return None
    return told - (asked + answered) / 2
