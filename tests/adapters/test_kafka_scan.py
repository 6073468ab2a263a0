"""A takeover's scan ends, or is given up."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from processor.adapters import kafka_scan
from processor.errors import BrokerUnavailable
from processor.model import Partition

AWAY, GROWING = Partition("t.retry.1", 0), Partition("t.retry.1", 1)
RECORDS_MAX = 1_000


class OneLeaderIsAway:
    """A client that is given nothing of one partition, and of the other a record at each call."""

    def __init__(self, clock: SimpleNamespace) -> None:
        self._clock = clock
        self._offset = -1

    def assign(self, _: object) -> None:
        pass

    def consume(self, _: int, seconds: float) -> list[Any]:
        self._clock.now += seconds
        self._offset += 1
        assert self._offset < RECORDS_MAX, f"it still scans after {self._clock.now:.0f} s"
        return [
            SimpleNamespace(
                error=lambda: None,
                topic=lambda: GROWING.topic,
                partition=lambda: GROWING.number,
                offset=lambda at=self._offset: at,
                key=lambda: None,
                value=lambda: b"",
                headers=lambda: None,
                timestamp=lambda: (1, 0),
            )
        ]

    def position(self, asked: Sequence[Any]) -> list[Any]:
        at = {AWAY.number: -1001, GROWING.number: self._offset + 1}
        return [
            SimpleNamespace(topic=each.topic, partition=each.partition, offset=at[each.partition])
            for each in asked
        ]

    def close(self) -> None:
        pass


def test_scan_is_given_up_though_a_partition_it_has_read_goes_on_growing(
    monkeypatch: pytest.MonkeyPatch,
):
    clock = SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(kafka_scan, "time", clock)
    monkeypatch.setattr(kafka_scan, "made", lambda *_: OneLeaderIsAway(clock))

    settings = {"bootstrap.servers": "127.0.0.1:1"}
    with pytest.raises(BrokerUnavailable, match=r"t\.retry\.1\[0\] within 15 s"):
        list(kafka_scan.scan(settings, {AWAY: (0, 5), GROWING: (0, 5)}, 15.0, group="g"))
