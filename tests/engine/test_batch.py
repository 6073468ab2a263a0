"""Handlers that are given many jobs at once: order, failures of single jobs, effects once."""

from __future__ import annotations

from typing import Any

import pytest

from processor import App
from processor.core.lane import Ordering
from processor.engine.batch import results_of
from processor.errors import Reject, UsageError
from processor.sinks.no_ledger import NoLedger
from processor.testing.memory_ledger import MemoryLedger, MemorySink
from tests.engine.bench import LETTERS, MAIN, TIER_1, Bench

NO_ANSWER = OSError("no answer")


def with_ledger() -> Bench:
    ledger = MemoryLedger()
    return Bench(ledger, MemorySink(), lambda: [each.result["n"] for each in ledger.written])


def without_ledger() -> Bench:
    return Bench(NoLedger(), None, list, sinks=())  # type: ignore[arg-type]


@pytest.fixture(params=[with_ledger, without_ledger])
def bench(request: pytest.FixtureRequest) -> Bench:
    made: Bench = request.param()
    made.batch_max = 3
    return made


def test_handler_is_given_batches_in_order(bench: Bench):
    for n in range(8):
        bench.submit(n, f"k{n % 2}")
    member = bench.member()
    member.go()

    assert bench.batches == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert bench.committed() == 8
    assert member.telemetry.outcomes == {"done": 8}


def test_batch_that_is_not_full_waits_for_its_linger_whatever_the_wall_clock_does():
    bench = without_ledger()
    bench.batch_max, bench.linger_seconds = 10, 1.0
    bench.submit(0, "a")
    member = bench.member()
    member.go(3)
    before = list(bench.batches)
    bench.clock.jump(-3600.0)
    bench.clock.advance(1.1)
    member.go(3)

    assert before == []
    assert bench.batches == [[0]]


def test_keys_of_one_lane_linger_once_and_not_one_after_the_other():
    bench = with_ledger()
    bench.batch_max, bench.linger_seconds = 100, 1.0
    member = bench.member(ordering=Ordering.KEY)
    for n in range(40):
        bench.submit(n, f"k{n}")
    member.go(3)
    before = list(bench.batches)
    bench.clock.advance(1.1)
    member.go(100)

    assert before == []
    assert sum(map(len, bench.batches)) == 40


def test_job_that_fails_in_a_batch_is_retried_and_only_its_key_comes_again(bench: Bench):
    for n, key in enumerate(["a", "b", "a"]):
        bench.submit(n, key)
    bench.script[0] = [NO_ANSWER]
    member = bench.member()
    member.go()
    parked = bench.numbers(TIER_1)
    bench.clock.advance(10.0)
    member.go()

    assert parked == [0, 2]
    assert bench.batches == [[0, 1, 2], [0, 2]]
    assert bench.left(MAIN) == bench.left(TIER_1) == 0


def test_effects_of_a_batch_are_in_the_order_of_their_key_and_once():
    bench = with_ledger()
    bench.batch_max = 3
    for n, key in enumerate(["a", "b", "a"]):
        bench.submit(n, key)
    bench.submit(3, "b", ce_id="job-1")  # Submitted twice.
    bench.script[0] = [NO_ANSWER]
    member = bench.member()
    member.go()
    bench.clock.advance(10.0)
    member.go()

    assert bench.effects() == [1, 0, 2]


def test_what_the_handler_raises_fails_every_job_of_the_batch(bench: Bench):
    def raises(_: object) -> None:
        raise Reject("never")

    for n in range(4):
        bench.submit(n, f"k{n}")
    bench.script[1] = [raises]
    member = bench.member()
    member.go(20)

    assert sorted(bench.numbers(LETTERS)) == [0, 1, 2]
    assert bench.batches == [[0, 1, 2], [3]]
    assert bench.committed() == 4


def test_job_that_cannot_be_decoded_is_no_part_of_a_batch(bench: Bench):
    bench.submit(0, "a")
    bench.append(b"       10000{", "b", written=[])
    bench.submit(2, "c")
    member = bench.member()
    member.go(20)

    assert bench.batches == [[0], [2]]
    assert len(bench.copies(LETTERS)) == 1
    assert bench.committed() == 3


def test_batch_waits_to_become_full_but_no_longer_than_its_linger(bench: Bench):
    bench.linger_seconds = 1.0
    bench.submit(0, "a")
    member = bench.member()
    member.go()
    waited = list(bench.batches)
    bench.submit(1, "b")
    bench.submit(2, "c")
    member.go()
    full = list(bench.batches)
    bench.submit(3, "d")
    member.go()
    bench.clock.advance(1.0)
    member.go()

    assert waited == []
    assert full == [[0, 1, 2]]
    assert bench.batches == [[0, 1, 2], [3]]


# What a batch handler is told of each job.


def test_every_job_of_a_batch_is_told_when_its_time_is_up():
    bench = with_ledger()
    bench.batch_max = 3
    for n in range(3):
        bench.submit(n, f"k{n}")
    member = bench.member(timeout_seconds=10.0)
    told: list[list[bool]] = []

    def wait(_: object) -> None:
        for _turn in range(2):
            member.worker.step()
            told.append([each.cancelled for each in bench.contexts])
            bench.clock.advance(10.0)

    bench.script[2] = [wait]
    member.go()

    assert told == [[False] * 3, [True] * 3]


def test_each_job_of_a_batch_finds_its_last_checkpoint():
    bench = with_ledger()
    bench.batch_max = 2
    for n in range(2):
        bench.submit(n, f"k{n}")
    found: list[tuple[int, Any]] = []

    def look(n: int, then: Exception | None = None) -> Any:
        def step(_: object) -> None:
            (mine,) = [each for each in bench.contexts if each.job_id == f"job-{n}"]
            found.append((n, mine.last_checkpoint))
            assert mine.checkpoint({"step": n})
            if then is not None:
                raise then

        return step

    bench.script = {0: [look(0), look(0)], 1: [look(1, NO_ANSWER), look(1)]}
    member = bench.member()
    member.go()
    bench.clock.advance(10.0)
    member.go()

    assert found[:2] == [(0, None), (1, None)]
    assert sorted(found[2:], key=lambda each: each[0]) == [(0, {"step": 0}), (1, {"step": 1})]


def test_job_whose_deadline_passes_in_a_batch_is_not_tried_again():
    bench = with_ledger()
    bench.batch_max = 3
    bench.submit(0, "a", deadline=int((bench.clock.now() + 5.0) * 1000))
    bench.submit(1, "b")
    bench.submit(2, "c", deadline=int((bench.clock.now() + 5.0) * 1000))
    bench.script = {0: [NO_ANSWER], 1: [NO_ANSWER], 2: [lambda _: bench.clock.advance(5.0)]}
    member = bench.member()
    deadlines = [bench.clock.now() + each for each in (5.0, 60.0, 5.0)]
    member.go()

    assert [each.deadline for each in bench.contexts] == pytest.approx(deadlines)
    assert (bench.numbers(LETTERS), bench.numbers(TIER_1), bench.effects()) == ([0], [1], [2])


@pytest.mark.parametrize("returned", ["two", [1], {"a": 1, "b": 2}, 7])
def test_return_value_that_says_nothing_of_each_job_is_refused(returned: Any):
    with pytest.raises(UsageError, match="given 2 jobs"):
        results_of(returned, 2)


def test_app_takes_batch_handlers_and_refuses_what_makes_no_sense():
    app = App()

    @app.job("a", batch=10, linger="50ms")
    def many(payloads: list[dict[str, Any]]) -> None: ...

    spec = app.jobs["a"]
    assert (spec.batch_max, spec.linger_seconds, spec.simple) == (10, 0.05, many)
    for wrong in ({"batch": 0}, {"batch": True}, {"linger": 1.0}, {"batch": 2, "linger": "soon"}):
        with pytest.raises(UsageError):
            app.job("b", **wrong)(many)  # type: ignore[arg-type]

    async def waits(payloads: list[dict[str, Any]]) -> None: ...

    with pytest.raises(UsageError, match="is a coroutine"):
        app.job("b", batch=2)(waits)
    assert list(app.jobs) == ["a"]
