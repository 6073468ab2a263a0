"""What a client does about an outage: notice it soon, and tell it to all who come just after."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from processor.adapters.objects.stores import Objects
from processor.adapters.objects.traced import TracedObjects
from processor.contracts.claims import ClaimStore, SeekableStream
from processor.errors import OutageError, PermanentError, StoreUnavailable
from processor.model import Claim
from processor.settings import Settings

if TYPE_CHECKING:
    from processor.adapters.tracing import OpenTelemetry

AWAY_SECONDS = 10.0  # What could not be reached is not asked again sooner.


class RecentOutage:
    """Remembers that something is away: many jobs are refused at once, not each after seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until = 0.0
        self._known: OutageError | None = None

    @contextlib.contextmanager
    def remembered(self) -> Iterator[None]:
        """Try again, unless it failed just now. One thread tries, the others wait for it."""
        with self._lock:
            known = self._known
            if known is not None and time.monotonic() < self._until:
                raise type(known)(known.message, hint=known.hint)
            try:
                yield
            except OutageError as outage:
                self._known, self._until = outage, time.monotonic() + AWAY_SECONDS
                raise


class ReachedClaims(ClaimStore):
    """A claim store that is asked for a word before the first upload: a person may be waiting."""

    def __init__(
        self, settings: Settings, base_uri: str, *, tracing: OpenTelemetry | None = None
    ) -> None:
        objects = Objects(settings)
        claimed = objects if tracing is None else TracedObjects(objects, tracing, "claim")
        super().__init__(claimed, base_uri)
        self._base_uri = base_uri.rstrip("/")
        self._hasty = Objects(settings, hasty=True)
        self._outage = RecentOutage()
        self._reached = False

    def put(self, value: bytes | SeekableStream) -> Claim:
        """Keep a value and give the claim on it."""
        if not self._reached:
            with self._outage.remembered():
                self._reach()
        return super().put(value)

    def _reach(self) -> None:
        started = time.monotonic()
        try:
            with contextlib.suppress(PermanentError):  # Reading may not be allowed; writing may be.
                self._hasty.stat(f"{self._base_uri}/reached")
        except StoreUnavailable as away:
            seconds = time.monotonic() - started
            raise StoreUnavailable(
                f"the claim store {self._base_uri} cannot be reached, tried for {seconds:.1f} s: "
                f"{away.message}",
                hint=away.hint,
            ) from None
        self._reached = True
