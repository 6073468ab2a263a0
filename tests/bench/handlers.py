"""The handlers that are measured; the driver copies this module beside a project's settings."""

import asyncio
import os

from meter import fails, from_environment

from processor import App

meter = from_environment()
plain, waiting, failing = App(), App(), App()
failed: set[int] = set()


@plain.job("bench.copy")
def nothing(payload: dict) -> None:
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
