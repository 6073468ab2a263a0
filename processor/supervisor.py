"""`--processes N`: N worker processes of one group, started anew when they fall, stopped together.

Each is a fresh interpreter: Kafka clients do not survive a fork. Each holds the reading end of a
pipe whose writing end only the supervisor has, so when the supervisor is gone, however it went, the
pipe ends and the workers stop as on SIGTERM: nobody would start or stop them any more.

Each is in a process group of its own: Ctrl-C reaches the supervisor alone. A worker that had it
from the terminal and then from the supervisor would take that for the order to leave at once.
"""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any

from processor.adapters.logs import configure_logging, worker_logger
from processor.errors import ProcessorError
from processor.settings import Settings

BACKOFF_SECONDS_MAX = 30.0
STEADY_SECONDS = 60.0  # A worker that lived so long starts with a fresh backoff.
OVERTIME_SECONDS = 5.0  # After its own hard limit a worker that is still there is killed.
INSTANCE_ID = "PROCESSOR_KAFKA_GROUP_INSTANCE_ID"
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

    A second signal is passed on too. With `worker.metrics_port`, worker n serves on that port plus
    n; with `kafka.group.instance.id`, its id ends in -n. Raises ProcessorError when a worker was
    started wrongly, or did not stop cleanly.
    """
    configure_logging(settings.log, secrets=settings.secrets())
    logger = worker_logger("supervisor")
    places = [_Place(number) for number in range(processes)]
    stopping = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        if stopping.is_set():
            _terminate(places)
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    pipe, held = os.pipe()
    try:
        while not stopping.is_set():
            for place in places:
                _keep(place, arguments, settings, pipe, logger)
            stopping.wait(0.2)
    except ProcessorError:
        _stop_all(places, settings.worker.shutdown_seconds)
        raise
    else:
        if left := _stop_all(places, settings.worker.shutdown_seconds):
            raise ProcessorError("not every worker stopped cleanly: " + ", ".join(left))
    finally:
        os.close(pipe)
        os.close(held)


def _keep(
    place: _Place, arguments: Sequence[str], settings: Settings, pipe: int, logger: Any
) -> None:
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
        logger.warning(
            "worker ended; another takes its place", place=place.number, code=code, in_seconds=delay
        )
    if now >= place.start_at:
        port = settings.worker.metrics_port
        more = [] if port is None else ["--metrics-port", str(port and port + place.number)]
        place.process = subprocess.Popen(  # noqa: S603 - our own command.
            [sys.executable, "-m", __name__, str(pipe), *arguments, *more],
            stdin=subprocess.DEVNULL,
            env=environment_of(place.number, settings),
            pass_fds=(pipe,),
            process_group=0,
        )
        place.started_at = now


def environment_of(number: int, settings: Settings) -> dict[str, str]:
    """Make a worker's environment: as ours, but a static member's id must be its own."""
    environment = dict(os.environ)
    instance_id = settings.kafka.get("group.instance.id")
    if instance_id is not None:
        environment.pop(f"{INSTANCE_ID}_FILE", None)  # Both would be a fault.
        environment[INSTANCE_ID] = f"{instance_id}-{number}"
    return environment


def _terminate(places: Sequence[_Place]) -> None:
    for place in places:
        if place.process is not None:
            place.process.terminate()


def _stop_all(places: Sequence[_Place], shutdown_seconds: float) -> list[str]:
    """Stop every worker. Returns what became of those that did not stop cleanly."""
    _terminate(places)
    until = time.monotonic() + shutdown_seconds + OVERTIME_SECONDS
    left = []
    for place in places:
        if place.process is None:
            continue
        try:
            code = place.process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            place.process.kill()
            code = place.process.wait()
        if code not in (0, -signal.SIGTERM):  # The latter: it was only just starting.
            left.append(f"worker {place.number} ended with code {code}")
    return left


def _run_worker() -> None:
    """Be one of the workers: `processor` with the rest of the arguments, until the pipe ends."""
    pipe = int(sys.argv.pop(1))
    threading.Thread(target=_stop_with, args=(pipe,), name="supervisor-pipe", daemon=True).start()
    runpy.run_module("processor", run_name="__main__", alter_sys=True)


def _stop_with(pipe: int) -> None:
    os.read(pipe, 1)  # Nothing is ever written: it returns when the supervisor is gone.
    worker_logger("supervisor").warning("the supervisor is gone; its worker stops")
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    _run_worker()
