"""The handlers that are measured; the driver copies this module beside a project's settings."""

import asyncio
import os
from pathlib import Path

from meter import Stopwatch, fails, from_environment

from processor import App

meter = from_environment()
stopwatch = Stopwatch(int(os.environ["BENCH_JOBS"]), Path(os.environ["BENCH_OUT"]))
plain, waiting, failing, timed, many = App(), App(), App(), App(), App()
failed: set[int] = set()


@plain.job("bench.copy")
def nothing(payload: dict) -> None:
    meter.tick()


@timed.job("bench.copy")
def note_time(payload: dict) -> None:
    stopwatch.tick(payload["created"])


@many.job("bench.copy", batch=500)
def nothing_with_many(payloads: list) -> None:
    for _ in payloads:
        meter.tick()


@waiting.job("bench.copy")
async def wait(payload: dict) -> None:
    await asyncio.sleep(0.02)
    meter.tick()


KEYS = int(os.environ.get("BENCH_KEYS", "1"))
FAILS = os.environ.get("BENCH_FAILS") == "yes"


# Of keys none of whose jobs fails: the others wait for their delays, whatever runs them.
untouched = set(range(KEYS)) - {
    number % KEYS for number in range(int(os.environ["BENCH_ALL"])) if fails(number)
}


@failing.job("bench.copy")
def fail_once(payload: dict) -> None:
    number = payload["created"]
    if FAILS and fails(number) and number not in failed:
        failed.add(number)
        raise OSError("no answer")
    if number % KEYS in untouched:
        meter.tick()
