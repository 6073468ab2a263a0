"""Handlers that are coroutines: all slices of a worker are tasks of one loop on one thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from processor.adapters.pool import ThreadPool
from processor.core.lane import Ordering
from processor.sinks.no_ledger import NoLedger
from processor.testing.memory_ledger import MemoryLedger, MemorySink
from tests.engine.bench import MAIN, TIER_1, Bench, Member


@pytest.fixture
def bench() -> Bench:
    made = Bench(NoLedger(), None, list, sinks=())  # type: ignore[arg-type]
    made.is_async = True
    return made


def member_of(bench: Bench, *, coroutines_max: int = 100, **how: Any) -> Member:
    def pool_of(runner: Any) -> ThreadPool:
        return ThreadPool(runner, threads=2, coroutines_max=coroutines_max)

    return bench.member(ordering=Ordering.KEY, pool_of=pool_of, **how)


def until(member: Member, fact: Callable[[], object]) -> None:
    """Turn the loop until something holds."""
    end = time.monotonic() + 10
    while not fact():
        assert time.monotonic() < end
        member.worker.step()
        member.pool.wait(0.01)


def test_jobs_of_many_keys_are_in_flight_together(bench: Bench):
    together = 50
    running: list[object] = []
    all_run = asyncio.Event()

    async def meet(context: object) -> None:
        running.append(context)
        if len(running) == together:
            all_run.set()
        await all_run.wait()

    for n in range(together):
        bench.submit(n, f"k{n}")
        bench.script[n] = [meet]
    member = member_of(bench)
    until(member, lambda: bench.committed() == together)

    assert sorted(bench.runs) == list(range(together))


def test_no_more_are_in_flight_than_allowed(bench: Bench):
    now, most = 0, 0
    full = asyncio.Event()

    async def count(_: object) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        if now == 3:
            full.set()
        await full.wait()
        await asyncio.sleep(0)
        now -= 1

    for n in range(20):
        bench.submit(n, f"k{n}")
        bench.script[n] = [count]
    until(member_of(bench, coroutines_max=3), lambda: bench.committed() == 20)

    assert most == 3


def test_jobs_of_one_key_run_one_after_the_other(bench: Bench):
    for n in range(30):
        bench.submit(n, f"k{n % 3}")
        bench.script[n] = [lambda _: asyncio.sleep(0)]
    until(member_of(bench), lambda: bench.committed() == 30)

    assert [n for n in bench.runs if n % 3 == 1] == list(range(1, 30, 3))


def test_coroutine_that_raises_is_retried_and_its_key_waits(bench: Bench):
    bench.submit(0, "a")
    bench.submit(1, "a")
    bench.script[0] = [OSError("no answer")]
    member = member_of(bench)
    until(member, lambda: bench.numbers(TIER_1) == [0, 1])
    bench.clock.advance(10.0)
    until(member, lambda: bench.left(TIER_1) == 0 and bench.left(MAIN) == 0)

    assert bench.runs == [0, 0, 1]


def test_coroutine_that_outlives_its_timeout_is_cancelled(bench: Bench):
    cancelled: list[bool] = []

    async def wait(_: object) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    bench.submit(0, "a")
    bench.submit(1, "b")
    bench.script[0] = [wait]
    member = member_of(bench, timeout_seconds=5.0)
    until(member, lambda: sorted(bench.runs) == [0, 1])
    bench.clock.advance(6.0)
    until(member, lambda: bench.numbers(TIER_1) == [0])

    assert cancelled == [True]
    (hop,) = bench.hops(TIER_1)
    assert hop.error_class == "JobTimeout"


def test_effects_of_coroutines_are_written_once_to_the_ledger():
    ledger, sink = MemoryLedger(), MemorySink()
    bench = Bench(ledger, sink, lambda: [each.result["n"] for each in ledger.written])
    bench.is_async = True
    for n in range(10):
        bench.submit(n, f"k{n % 4}")
    bench.submit(10, "k0", ce_id="job-0")  # Submitted twice.
    until(member_of(bench), lambda: bench.committed() == 11)

    assert sorted(bench.effects()) == list(range(10))
    assert sorted(bench.runs) == list(range(10))
