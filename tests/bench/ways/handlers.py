"""The handlers that are measured; the driver copies this module beside a project's settings."""

import asyncio
import os
import time
from pathlib import Path

from meter import Meter, Stopwatch, fails, from_environment

from processor import App

meter = from_environment()
stopwatch = Stopwatch(int(os.environ["BENCH_JOBS"]), Path(os.environ["BENCH_OUT"]))
plain, coroutine, waiting, failing, timed, many, busy, paced = (App() for _ in range(8))


@plain.job("bench.copy")
def nothing(payload: dict) -> None:
    meter.tick()


@coroutine.job("bench.copy")
async def nothing_awaited(payload: dict) -> None:
    meter.tick()


@paced.job("bench.copy")
def sleep_a_little(payload: dict) -> None:
    time.sleep(0.002)
    meter.tick()


TALLY = os.environ.get("BENCH_TALLY")
tally = os.open(TALLY, os.O_WRONLY | os.O_APPEND | os.O_CREAT) if TALLY else -1


@busy.job("bench.copy")
def compute(payload: dict) -> None:
    """A CPU-bound job of some 300 microseconds; each process adds a byte for it to one file."""
    sum(number * number for number in range(5_000))
    os.write(tally, b".")


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
numbers = {number for number in range(int(os.environ["BENCH_ALL"])) if fails(number)}
# Of keys none of whose jobs fails: the others wait for their delays, whatever runs them.
untouched = set(range(KEYS)) - {number % KEYS for number in numbers}
# Those whose first run is still to fail: the handler looks there in either run.
to_fail = numbers if os.environ.get("BENCH_FAILS") == "yes" else set()
OUT = Path(os.environ["BENCH_OUT"])
whole = Meter(int(os.environ["BENCH_ALL"]), OUT.with_suffix(".all"))
latest = [-1] * KEYS  # Of each key: the last job that took effect.


@failing.job("bench.copy")
def fail_once(payload: dict) -> None:
    number = payload["created"]
    key = number % KEYS
    if number in to_fail:
        to_fail.remove(number)
        raise OSError("no answer")
    if number < latest[key]:
        with OUT.with_suffix(".disorder").open("a") as file:
            file.write(f"{number} after {latest[key]}\n")
    latest[key] = number
    whole.tick()
    if key in untouched:
        meter.tick()
