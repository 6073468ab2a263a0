"""Handlers that are coroutines: all slices of a worker are tasks of one loop on one thread."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import threading
import time
from collections.abc import Callable, Collection
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import pytest

from processor.adapters.pool import ThreadPool
from processor.contracts.avro import Decoded
from processor.core.lane import Ordering
from processor.engine.job import JobSpec
from processor.sinks.no_ledger import NoLedger
from processor.testing.memory_ledger import MemoryLedger, MemorySink
from tests.engine.bench import LETTERS, MAIN, TIER_1, Bench, Member


@pytest.fixture(params=["a context", "the payload alone"])
def bench(request: pytest.FixtureRequest) -> Bench:
    """A handler that asks for so much."""
    made = Bench(NoLedger(), None, list, sinks=())  # type: ignore[arg-type]
    made.is_async = True
    made.payload_alone = request.param == "the payload alone"
    return made


class Mixed(Bench):
    """A topic that two handlers serve: a coroutine, and from number 100 on a function."""

    def _jobs(self) -> dict[str, JobSpec]:
        spec = super()._jobs()["count"]
        plain = replace(spec, job_type="plain", call=self._handle, is_async=False)
        return {"count": spec, "plain": plain}

    def _decode(self, value: bytes | None) -> Decoded:
        n = json.loads(value or b"")
        return Decoded("plain" if n >= 100 else "count", n)

    def submit(self, n: int, key: str | None = "k", **more: Any) -> int:
        if n < 100:
            return super().submit(n, key, **more)
        # Of another schema: the value begins in another way.
        written = [("ce_id", f"job-{n}".encode()), ("ce_type", b"plain")]
        return self.append(json.dumps(n).rjust(12, "\t").encode(), key, written=written)


@pytest.fixture
def mixed() -> Mixed:
    made = Mixed(NoLedger(), None, list, sinks=())  # type: ignore[arg-type]
    made.is_async = True
    return made


async def deaf(_: object) -> None:
    """Go on when told to stop."""
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue


def step_threads(besides: Collection[threading.Thread]) -> list[threading.Thread]:
    alive = threading.enumerate()
    return [each for each in alive if "-step" in each.name and each not in besides]


def member_of(bench: Bench, *, coroutines_max: int = 100, threads: int = 2, **how: Any) -> Member:
    def pool_of(runner: Any) -> ThreadPool:
        return ThreadPool(runner, threads=threads, coroutines_max=coroutines_max)

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


def test_child_task_that_exits_fails_its_job_and_no_other(bench: Bench):
    async def child() -> None:
        sys.exit(3)

    async def parent(_: object) -> None:
        await asyncio.gather(child(), asyncio.sleep(0.01))

    bench.submit(0, "a")
    bench.submit(1, "b")
    bench.script[0] = [parent]
    member = member_of(bench)
    until(member, lambda: bench.numbers(TIER_1) == [0])
    bench.submit(2, "c")
    until(member, lambda: bench.committed() == 3)

    assert bench.hops(TIER_1)[0].error_class == "SystemExit"


def test_task_that_nobody_awaits_is_told_without_its_message(
    bench: Bench, caplog: pytest.LogCaptureFixture
):
    async def forgotten(fault: BaseException) -> None:
        raise fault

    async def careless(_: object) -> None:
        for fault in (ValueError("no mailbox ada@example.com"), SystemExit("ada@example.com")):
            asyncio.get_running_loop().create_task(forgotten(fault))

    bench.submit(0, "a")
    bench.script[0] = [careless]
    member = member_of(bench)
    until(member, lambda: bench.committed() == 1)
    until(member, lambda: gc.collect() >= 0 and caplog.text.count("raised ValueError at") == 1)

    assert "test_coroutines.py" in caplog.text
    assert "raised SystemExit" in caplog.text
    assert "ada@" not in caplog.text


def test_handler_that_stops_the_loop_does_not_stop_the_others(bench: Bench):
    bench.submit(0, "a")
    bench.submit(1, "b")
    bench.script[0] = [lambda _: asyncio.get_running_loop().stop()]
    until(member_of(bench), lambda: bench.committed() == 2)

    assert sorted(bench.runs) == [0, 1]


@pytest.mark.parametrize("fault", [GeneratorExit(), SystemExit(3), KeyboardInterrupt()])
def test_whatever_a_coroutine_raises_is_its_jobs_failure(bench: Bench, fault: BaseException):
    bench.submit(0, "a")
    bench.submit(1, "b")
    bench.script[0] = [fault]
    member = member_of(bench)
    until(member, lambda: bench.numbers(TIER_1) == [0] and bench.committed() == 2)

    assert sorted(bench.runs) == [0, 1]


def test_coroutine_that_cancels_itself_fails_alone(bench: Bench):
    async def cancel(_: object) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    bench.submit(0, "a")
    bench.submit(1, "b")
    bench.script[0] = [cancel]
    member = member_of(bench)
    until(member, lambda: bench.numbers(TIER_1) == [0] and bench.committed() == 2)

    assert bench.hops(TIER_1)[0].error_class == "CancelledError"


def test_coroutine_that_swallows_its_cancellation_leaves_the_next_job_whole(bench: Bench):
    async def swallow(_: object) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    async def fail_within(_: object) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0, OSError()))
            raise OSError("no answer")

    for n in range(3):
        bench.submit(n, "a")
    bench.script[0], bench.script[1] = [swallow], [fail_within]
    member = member_of(bench, timeout_seconds=5.0)
    until(member, lambda: bench.runs == [0])
    bench.clock.advance(5.5)
    until(member, lambda: bench.numbers(TIER_1) == [1, 2])


def test_context_variable_that_a_job_sets_is_not_seen_by_the_next(bench: Bench):
    tenant = ContextVar("tenant", default="nobody")
    seen: list[str] = []

    async def set_it(_: object) -> None:
        seen.append(tenant.get())
        tenant.set("somebody")

    for n in range(2):
        bench.submit(n, "a")
        bench.script[n] = [set_it]
    until(member_of(bench), lambda: bench.committed() == 2)

    assert seen == ["nobody", "nobody"]


def test_function_beside_coroutines_of_its_topic_does_not_hold_their_loop(mixed: Mixed):
    ran_on: list[str] = []

    def note(_: object) -> None:
        ran_on.append(threading.current_thread().name)

    mixed.submit(0, "a")
    for n in (100, 101):
        mixed.script[n] = [note]
    member = member_of(mixed)
    for submitted, n in enumerate((100, 101), start=1):
        until(member, lambda submitted=submitted: mixed.committed() == submitted)  # type: ignore[misc]
        mixed.submit(n, "b")
    until(member, lambda: mixed.committed() == 3)

    assert len(ran_on) == 2
    assert not [name for name in ran_on if name == "processor-async"]


def test_coroutines_that_are_given_up_leave_no_threads_behind(bench: Bench):
    bench.ledger, bench.sinks = MemoryLedger(), (MemorySink(),)
    before = threading.enumerate()
    for n in range(10):
        bench.submit(n, f"k{n}")
        bench.script[n] = [deaf]
    member = member_of(bench, timeout_seconds=1.0, timeout_grace_seconds=0.5)
    until(member, lambda: len(bench.runs) == 10)
    bench.clock.advance(3.0)
    until(member, lambda: len(bench.numbers(TIER_1)) == 10)
    for n in range(10, 60):
        bench.submit(n, f"k{n}")
    until(member, lambda: bench.committed() == 60)

    assert len(step_threads(before)) <= 2


def test_function_that_hangs_beside_coroutines_has_its_thread_replaced_until_it_ends(mixed: Mixed):
    before, release = threading.enumerate(), threading.Event()
    mixed.submit(100, "a")
    mixed.script[100] = [lambda _: release.wait(30)]
    member = member_of(mixed, threads=1, timeout_seconds=1.0, timeout_grace_seconds=0.5)
    until(member, lambda: mixed.runs == [100])
    mixed.submit(101, "b")
    mixed.clock.advance(3.0)
    until(member, lambda: mixed.committed() == 2)
    hangs = len(step_threads(before))
    release.set()
    until(member, lambda: len(step_threads(before)) == 1)
    mixed.submit(102, "b")
    until(member, lambda: mixed.committed() == 3)

    assert (hangs, mixed.numbers(TIER_1)) == (2, [100])


def test_coroutine_that_ends_while_it_is_given_up_frees_its_slot_once(bench: Bench):
    now, most = 0, 0
    gate, ended = asyncio.Event(), threading.Event()

    async def wait(_: object) -> None:
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue
        asyncio.get_running_loop().call_later(0.01, ended.set)

    async def count(_: object) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1

    bench.submit(0, "a")
    bench.script[0] = [wait]
    member = member_of(bench, coroutines_max=1, timeout_seconds=1.0, timeout_grace_seconds=0.5)
    until(member, lambda: bench.runs == [0])
    give_up = member.pool.replace

    def ends_first(work: Any) -> None:
        loop = member.pool._coroutines._loop  # type: ignore[attr-defined]
        loop.call_soon_threadsafe(gate.set)
        assert ended.wait(10)
        give_up(work)

    member.pool.replace = ends_first  # type: ignore[method-assign]
    bench.clock.advance(3.0)
    until(member, lambda: bench.numbers(TIER_1) == [0])
    for n in range(1, 5):
        bench.submit(n, f"k{n}")
        bench.script[n] = [count]
    until(member, lambda: bench.committed() == 5)

    assert most == 1


def test_coroutines_that_wait_for_room_behind_a_long_one_are_no_stall(bench: Bench):
    gate = asyncio.Event()
    for n in range(4):  # One runs, one is with the pool and has no room, two wait in the lane.
        bench.submit(n, f"k{n}")
        bench.script[n] = [lambda _: gate.wait()]
    member = member_of(bench, coroutines_max=1, timeout_seconds=7200.0, stall_seconds=600.0)
    until(member, lambda: bench.runs == [0])
    stalls = told_in(bench, member, minutes=30)
    bench.script.clear()
    member.pool._coroutines._loop.call_soon_threadsafe(gate.set)  # type: ignore[attr-defined]
    until(member, lambda: bench.committed() == 4)

    assert stalls == []


def test_coroutines_that_have_no_room_and_wait_for_no_run_are_a_stall(bench: Bench):
    bench.submit(0, "a")
    bench.script[0] = [deaf]
    member = member_of(bench, coroutines_max=1, timeout_seconds=60.0, stall_seconds=600.0)
    member.pool.replace = lambda _: None  # type: ignore[method-assign] - its slot is never given.
    until(member, lambda: bench.runs == [0])
    bench.submit(1, "b")

    assert told_in(bench, member, minutes=30) == ["a slice with the pool does not report"]


def told_in(bench: Bench, member: Member, *, minutes: int) -> list[str]:
    """Let time pass; the causes of the stalls that are seen at the end."""
    for _ in range(minutes):
        bench.clock.advance(60.0)
        for _ in range(3):
            member.worker.step()
            member.pool.wait(0.005)
    return [each.why for each in member.worker.watch.stalls]


class Strange(Mixed):
    """A topic of functions, in a worker that has a coroutine for another topic's jobs."""

    def _jobs(self) -> dict[str, JobSpec]:
        spec = Bench._jobs(self)["count"]
        coroutine = replace(spec, job_type="plain", call=self._handle_async, is_async=True)
        return {"count": spec, "plain": coroutine}


def test_coroutine_s_job_on_a_topic_of_functions_is_dead_and_ends_no_worker():
    bench = Strange(NoLedger(), None, list, sinks=())  # type: ignore[arg-type]
    bench.submit(100)
    bench.submit(1)

    bench.member().go()

    (hop,) = bench.hops(LETTERS)
    assert hop.error_message is not None
    assert "a coroutine, and no job of this topic has one" in hop.error_message
    assert (bench.runs, bench.left(MAIN)) == ([1], 0)


class Held:
    """A step that holds the loop's thread until it is let go."""

    def __init__(self) -> None:
        self.reached, self._let_go = threading.Event(), threading.Event()

    def __call__(self, _: object) -> None:
        self.reached.set()
        assert self._let_go.wait(20)

    def let_go(self) -> None:
        self._let_go.set()


def known(bench: Bench, **how: Any) -> Member:
    """A member that has learnt the schema: its slices take their steps on the loop's thread."""
    bench.submit(9, "z")
    member = member_of(bench, **how)
    until(member, lambda: bench.committed() == 1)
    bench.runs.clear()
    return member


def test_run_that_was_reported_is_not_repeated_when_the_next_one_holds_the_loop(bench: Bench):
    held = Held()
    member = known(bench, timeout_seconds=1.0, timeout_grace_seconds=0.5)
    bench.submit(0, "a")
    bench.submit(1, "a")
    bench.script = {0: [lambda _: bench.clock.advance(0.2)], 1: [held]}
    until(member, held.reached.is_set)
    until(member, lambda: member.lane.watermark.unsettled == 1)
    bench.clock.advance(3.0)
    until(member, lambda: bench.logger.told("job abandoned: it ignores its timeout"))
    held.let_go()
    until(member, lambda: bench.numbers(TIER_1) == [1])

    assert bench.runs == [0, 1]


def test_jobs_that_ended_are_committed_though_another_one_holds_the_loop(bench: Bench):
    held = Held()
    member = known(bench)
    for n in range(5):
        bench.submit(n, f"k{n}")
    bench.script[4] = [lambda _: asyncio.sleep(0), held]
    until(member, held.reached.is_set)
    until(member, lambda: bench.committed() == 5)
    held.let_go()

    until(member, lambda: bench.committed() == 6)


def test_failure_is_told_before_the_next_job_of_its_slice_has_ended(bench: Bench):
    def fail_slowly(_: object) -> None:
        bench.clock.advance(0.2)
        raise OSError("no answer")

    for n in range(3):
        bench.submit(n, f"k{n}")
    bench.script = {0: [fail_slowly], 1: [fail_slowly], 2: [deaf]}
    member = bench.member(
        ordering=Ordering.PARTITION, pool_of=lambda runner: ThreadPool(runner, threads=2)
    )

    until(member, lambda: bench.numbers(TIER_1) == [0, 1])

    assert bench.runs == [0, 1, 2]


def test_step_s_thread_that_cannot_be_started_ends_the_worker(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    start, refusals = threading.Thread.start, [RuntimeError("can't start new thread")]

    def refuse_once(thread: threading.Thread) -> None:
        if "-step" in thread.name and refusals:
            raise refusals.pop()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse_once)
    bench.submit(0)

    with pytest.raises(RuntimeError, match="can't start new thread"):
        until(member_of(bench), lambda: bench.committed() == 1)


def test_task_that_cannot_be_made_ends_the_worker(bench: Bench):
    def spoil(_: object) -> None:
        def no_task(loop: object, coroutine: Any, **_: Any) -> Any:
            handler = coroutine.cr_frame.f_locals["coroutine"]
            coroutine.close()
            handler.close()
            raise RuntimeError("no task")

        asyncio.get_running_loop().set_task_factory(no_task)

    bench.script[0] = [spoil]
    bench.submit(0, "a")
    bench.submit(1, "b")
    with pytest.raises(RuntimeError, match="no task"):
        until(member_of(bench, coroutines_max=1), lambda: bench.committed() == 2)
