"""A server's clock is judged by the middle of its answer."""

from __future__ import annotations

import pytest

from processor.adapters.http_date import ahead_of


@pytest.mark.parametrize(
    ("date", "ahead"),
    [
        ("Thu, 01 Jan 1970 00:17:00 GMT", 20.0),
        ("Thu, 01 Jan 1970 00:16:00 GMT", -40.0),
        ("soon", None),
        (None, None),
    ],
)
def test_clock_of_a_server(date: str | None, ahead: float | None):
    assert ahead_of(1000.0, 1001.0, date) == ahead
