"""What was found away lately: a partition that it holds up needs no restart, but patience."""

from __future__ import annotations

from collections.abc import Container

from processor.engine.ports import Clock
from processor.engine.telemetry import Outage, Telemetry
from processor.model import Partition

# What is away is tried again within this: a request to a broker may wait for 60 s by itself.
LATELY_SECONDS = 90.0


class Outages:
    """Hears of outages, and remembers when. It may be told from any thread."""

    def __init__(self, clock: Clock, telemetry: Telemetry) -> None:
        self._clock = clock
        self._telemetry = telemetry
        self._heard: dict[tuple[Outage, Partition | None], float] = {}

    def heard(self, what: Outage, partition: Partition | None = None) -> None:
        """Something is away; it holds this main partition up, or nobody knows which."""
        self._telemetry.outage(what)
        self._heard[what, partition] = self._clock.monotonic()

    def lately(
        self, partition: Partition, kinds: Container[Outage], *, seconds: float = LATELY_SECONDS
    ) -> Outage | None:
        """What of these kinds was away within so many seconds, for this partition as far as known.

        What is not known to hold up one partition may hold up any; a sink holds a topic up.
        """
        since = self._clock.monotonic() - seconds
        for (what, where), at in list(self._heard.items()):
            if at < since or what not in kinds:
                continue
            if where in (partition, None):
                return what
            if what == "sink" and where is not None and where.topic == partition.topic:
                return what
        return None

    @property
    def any_lately(self) -> bool:
        """Whether anything was away lately."""
        since = self._clock.monotonic() - LATELY_SECONDS
        return any(at >= since for at in list(self._heard.values()))
