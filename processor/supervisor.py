"""`--processes N`: N worker processes of one group, started anew when they fall, stopped together.

Each is a fresh interpreter: Kafka clients do not survive a fork.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType

from processor.adapters.logs import configure_logging, worker_logger
from processor.errors import ProcessorError
from processor.settings import Settings

BACKOFF_SECONDS_MAX = 30.0
STEADY_SECONDS = 60.0  # A worker that lived so long starts with a fresh backoff.
MISUSE = 2  # A worker that exits so was started wrongly: starting it again cannot help.


class _Place:
    """One of the N workers: the process that fills it now, and when it may be filled again."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0
        self.start_at = 0.0
        self.falls = 0


def supervise(arguments: Sequence[str], *, processes: int, settings: Settings) -> None:
    """Run `processor ARGUMENTS` N times until SIGTERM or SIGINT, which all of them are passed.

    With `worker.metrics_port`, worker n serves on that port plus n. Raises ProcessorError when a
    worker was started wrongly, or does not stop by itself.
    """
    configure_logging(settings.log, secrets=settings.secrets())
    logger = worker_logger("supervisor")
    places = [_Place(number) for number in range(processes)]
    stopping = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        while not stopping.is_set():
            for place in places:
                _keep(place, arguments, settings, logger)
            stopping.wait(0.2)
    finally:
        _stop_all(places, settings.worker.shutdown_seconds + 5)


def _keep(place: _Place, arguments: Sequence[str], settings: Settings, logger: object) -> None:
    """Start the place's worker if it has none and its time has come."""
    now = time.monotonic()
    if place.process is not None:
        code = place.process.poll()
        if code is None:
            return
        place.process = None
        if code == MISUSE:
            raise ProcessorError(f"worker {place.number} cannot start: see its message above")
        place.falls = 0 if now - place.started_at > STEADY_SECONDS else place.falls + 1
        delay = min(BACKOFF_SECONDS_MAX, 2.0 ** (place.falls - 1)) if place.falls else 0.0
        place.start_at = now + delay
        logger.warning(  # type: ignore[attr-defined]
            "worker ended; another takes its place", place=place.number, code=code, in_seconds=delay
        )
    if now >= place.start_at:
        port = settings.worker.metrics_port
        more = [] if port is None else ["--metrics-port", str(port and port + place.number)]
        place.process = subprocess.Popen(  # noqa: S603 - our own command.
            [sys.executable, "-m", "processor", *arguments, *more], stdin=subprocess.DEVNULL
        )
        place.started_at = now


def _stop_all(places: Sequence[_Place], seconds: float) -> None:
    running = [place.process for place in places if place.process is not None]
    for process in running:
        process.terminate()
    until = time.monotonic() + seconds
    for process in running:
        try:
            process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
