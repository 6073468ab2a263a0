"""Something that the engine needs is away, or a run does not end: what waits and what goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from processor.core.lane import Ordering
from processor.errors import (
    ContractError,
    JobTimeout,
    OutageError,
    PermanentError,
    RegistryUnavailable,
    Reject,
    Retry,
    SinkUnavailable,
    StoreUnavailable,
    UsageError,
)
from processor.model import Effect
from tests.engine.bench import DELAYS, LETTERS, TIER_1, Bench, Member

TIMEOUT, GRACE = 10.0, 5.0


# The ledger and the sink.


def test_outage_of_the_ledger_during_flush_does_not_run_the_handler_again(bench: Bench):
    for n in range(3):
        bench.submit(n)
    away = ["record"] * 3

    def fault(call: str) -> None:
        if call in away:
            away.remove(call)
            raise SinkUnavailable("the ledger is away")

    bench.ledger.before = fault
    member = bench.member()

    member.go()
    left = []
    for wait in (1.0, 2.0, 4.0):  # A second, and twice as long each time.
        bench.clock.advance(wait - 0.5)
        member.go()
        left.append((len(away), bench.effects()))
        bench.clock.advance(0.5)
        member.go()

    assert left == [(2, []), (1, []), (0, [])]
    assert bench.runs == [0, 1, 2]
    assert bench.effects() == [0, 1, 2]
    assert bench.numbers(TIER_1) == []


class AwaySink:
    """A sink that is away for all jobs, or for those of some keys, until it is told otherwise."""

    def __init__(self, *keys: str) -> None:
        self.away = True
        self.keys = keys
        self.tries = 0
        self.wrote: list[int] = []

    def write(self, effects: Sequence[Effect]) -> list[str]:
        if self.away and any(not self.keys or each.key in self.keys for each in effects):
            self.tries += 1
            raise SinkUnavailable("no answer")
        self.wrote += [each.result["n"] for each in effects]
        return ["" for _ in effects]


@pytest.mark.parametrize("partitions", [1, 3])
def test_outage_of_a_sink_stops_all_handlers_but_one_probe_at_a_time(bench: Bench, partitions: int):
    bench = Bench(bench.ledger, bench.sink, bench.effects, partitions=partitions)
    sink = AwaySink()
    bench.sinks = (sink,)
    for n in range(60):
        bench.submit(n, f"k{n % 30}", partition=n % partitions)
    member = bench.member(ordering=Ordering.KEY, slots=4, slice_records_max=1)

    member.go(50)
    at_once = (len(bench.runs), sink.tries)
    for _ in range(60):
        bench.clock.advance(1.0)
        member.go(4)
    in_a_minute = sink.tries - at_once[1]
    ran = len(bench.runs)
    sink.away = False
    bench.clock.advance(5.0)
    member.go(100)

    assert at_once == (4, 4)
    assert in_a_minute == 13  # After 1 s, 2 s, 4 s, and then every 5 s.
    assert ran <= 4 + 13
    assert sorted(sink.wrote) == sorted(bench.runs) == list(range(60))
    for key in range(30):
        assert [n for n in sink.wrote if n % 30 == key] == [key, key + 30]
    assert {attempt for _, attempt in bench.attempts} == {1}
    assert [bench.committed(each) for each in bench.mains()] == [60 // partitions] * partitions


def test_jobs_of_a_topic_that_do_not_need_what_is_away_go_on(bench: Bench):
    sink = AwaySink("k0")
    bench.sinks = (sink,)
    for n in range(40):
        bench.submit(n, f"k{n % 8}")
    member = bench.member(ordering=Ordering.KEY, slots=2, slice_records_max=1)

    for _ in range(60):
        bench.clock.advance(1.0)
        member.go(4)

    assert sorted(sink.wrote) == [n for n in range(40) if n % 8 > 0]
    assert sink.tries < 40


def test_jobs_that_fail_or_are_known_meanwhile_do_not_hold_a_closed_topic_back(bench: Bench):
    sink = AwaySink("k0")
    bench.sinks = (sink,)
    bench.submit(0, "k0")
    member = bench.member(ordering=Ordering.KEY, slots=1)
    member.go()
    sink.keys = ("nobody",)
    for n in range(1, 20):
        bench.submit(n, f"k{n}")
        bench.fail(n, fault=Reject("never"))
    bench.clock.advance(1.0)

    member.go(60)

    assert len(bench.numbers(LETTERS)) == 19
    assert sink.wrote == [0]


def test_results_wait_with_the_ledger_of_a_closed_topic_until_one_is_written(bench: Bench):
    away = True

    def fault(call: str) -> None:
        if away and call == "lookup":
            raise SinkUnavailable("the ledger is away")

    bench.ledger.before = fault
    for n in range(20):
        bench.submit(n, f"k{n}")
    member = bench.member(ordering=Ordering.KEY, slots=4)
    for _ in range(30):
        member.go(4)
        bench.clock.advance(1.0)
    ran = list(bench.runs)
    away = False
    bench.clock.advance(5.0)
    member.go(40)

    assert ran == []
    assert sorted(bench.effects()) == list(range(20))
    assert bench.logger.told("the sink answers again: the topic's jobs go on") == [{"topic": "t"}]


def test_outage_of_the_ledger_before_a_run_waits_without_counting_an_attempt(bench: Bench):
    bench.submit(1)
    away = ["lookup"]

    def fault(call: str) -> None:
        if call in away:
            away.remove(call)
            raise SinkUnavailable("the ledger is away")

    bench.ledger.before = fault
    member = bench.member()

    member.go()
    waiting = (list(bench.runs), bench.committed())
    bench.clock.advance(1.0)
    member.go()

    assert waiting == ([], 0)
    assert bench.attempts == [(1, 1)]
    assert bench.committed() == 1


def test_results_that_cannot_be_written_wait_with_their_jobs_and_in_their_order(bench: Bench):
    for n in range(3):
        bench.submit(n)
    bench.fail(1)
    member, other = bench.member(), bench.member()
    bench.ledger.before = away_at("record")

    member.go()
    left = (bench.effects(), bench.numbers(TIER_1), bench.committed(), list(bench.runs))
    bench.ledger.before = lambda call: None
    member.log.expel()
    other.go()

    # Job 1 failed, but it may not be parked before job 0, which ran before it, is written.
    assert left == ([], [], 0, [0, 1])
    assert bench.effects() == [0, 1, 2]
    assert bench.committed() == 3


def test_jobs_that_need_nothing_of_what_is_away_go_on_with_one_thread(bench: Bench):
    two = Bench(bench.ledger, bench.sink, bench.effects, partitions=2)
    wrote: list[int] = []

    class Away:
        def write(self, effects: Any) -> list[str]:
            if any(each.origin.partition == 0 for each in effects) and two.clock.now() < healed:
                raise SinkUnavailable("no answer")
            wrote.extend(each.result["n"] for each in effects)
            return ["" for _ in effects]

    healed = two.clock.now() + 30.0
    two.sinks = (Away(),)
    for n in range(3):
        two.submit(n, partition=0)
    for n in range(10, 20):
        two.submit(n, partition=1)
    member = two.member(slots=1)

    for _ in range(10):
        member.go(1)
        two.clock.advance(1.0)
    others = list(wrote)
    two.clock.advance(60.0)
    member.go()

    assert others == list(range(10, 20))
    assert wrote == [*others, 0, 1, 2]
    assert sorted(two.runs) == [0, 1, 2, *range(10, 20)]


def away_at(wanted: str) -> Any:
    def away(call: str) -> None:
        if call == wanted:
            raise SinkUnavailable("the ledger is away")

    return away


def test_slice_asked_to_stop_writes_nothing_of_a_job_that_comes_twice(bench: Bench):
    bench.submit(1, idempotency_key="order-7")
    bench.submit(2, idempotency_key="order-7")
    member = bench.member()
    member.worker.step()
    work = member.pool.pending[0]

    def away(call: str) -> None:
        if call == "record":
            work.stop = True  # type: ignore[union-attr]
            raise SinkUnavailable("the ledger is away")

    bench.ledger.before = away
    member.pool.run_next()

    assert bench.runs == [1]
    assert bench.effects() == []


def test_result_that_the_sink_refuses_for_good_fails_only_its_own_job(bench: Bench):
    for n in range(4):
        bench.submit(n)
    sink, refused = bench.sink, []

    class Picky:
        def write_in(self, transaction: Any, effects: Any) -> None:
            for effect in effects:
                if effect.result["n"] == 2:
                    refused.append(2)
                    raise PermanentError("column n is too small")
            sink.write_in(transaction, effects)  # type: ignore[union-attr]

    bench.sink = Picky()

    bench.member().go()

    assert refused
    assert bench.effects() == [0, 1, 3]
    assert bench.numbers(LETTERS) == [2]
    # What ran after it waits until its death is noted, and is run again.
    assert bench.runs == [0, 1, 2, 3, 3]
    assert bench.committed() == 4


class Raising:
    """A sink that does not take job 2's result; `way` is how it is called."""

    def __init__(self, way: str, fault: Exception, times: int) -> None:
        self.left = times

        def take(*given: Any) -> None:
            for effect in given[-1]:
                if effect.result["n"] == 2 and self.left:
                    self.left -= 1
                    raise fault

        setattr(self, way, take)


@pytest.mark.parametrize("way", ["write", "write_in"])
@pytest.mark.parametrize(
    ("fault", "error_class", "attempts"),
    [
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates"), "PermanentError", 1),
        (TypeError("expected str"), "PermanentError", 1),
        (Retry("not now"), "Retry", 2),
        (LookupError("no such thing"), "LookupError", 2),
        (UsageError("no address"), "UsageError", 2),
        (ZeroDivisionError("never"), "ZeroDivisionError", 1),  # The job lists it as permanent.
    ],
    ids=repr,
)
def test_whatever_a_sink_raises_is_a_failed_run_of_its_own_job(
    bench: Bench, way: str, fault: Exception, error_class: str, attempts: int
):
    bench.sinks = (bench.sink, Raising(way, fault, 99))
    for n in range(4):
        bench.submit(n, str(n))
    member = bench.member(tiers=1, attempts_max=2)

    for _ in range(3):
        member.go(16)
        bench.clock.advance(3600)

    assert sorted(bench.effects()) == [0, 1, 3]
    assert bench.numbers(LETTERS) == [2]
    assert [(hop.error_class, hop.attempt) for hop in bench.hops(LETTERS)] == [
        (error_class, attempts)
    ]
    assert bench.committed() == 4


@pytest.mark.parametrize("way", ["write", "write_in"])
def test_sink_whose_other_side_does_not_answer_is_waited_for(bench: Bench, way: str):
    bench.sinks = (bench.sink, Raising(way, ConnectionError("refused"), 3))
    for n in range(4):
        bench.submit(n)
    member = bench.member(tiers=0, attempts_max=1)

    for _ in range(6):
        member.go()
        bench.clock.advance(60)

    assert bench.effects() == [0, 1, 2, 3]
    assert bench.numbers(LETTERS) == []
    assert bench.committed() == 4


@pytest.mark.parametrize("result", [{"n": "\ud800"}, {1: 2}, {"n": 2**70}], ids=repr)
@pytest.mark.parametrize("bench", ["sqlite", "postgres"], indirect=True)
def test_result_that_is_no_row_fails_its_own_job(bench: Bench, result: dict[Any, Any]):
    handle = bench._handle
    bench._handle = lambda n, context: result if n == 1 else handle(n, context)  # type: ignore[method-assign, assignment, return-value]
    for n in range(3):
        bench.submit(n, str(n))

    bench.member().go(16)

    assert bench.effects() == [0, 2]
    assert bench.numbers(LETTERS) == [1]
    assert bench.committed() == 3


# The registry and the claim store.


@pytest.mark.parametrize(
    "outage", [RegistryUnavailable("no answer"), StoreUnavailable("no answer")]
)
def test_outage_in_decode_waits_without_counting_an_attempt(bench: Bench, outage: OutageError):
    bench.submit(1)
    bench.submit(2)
    bench.decode_faults = [outage] * 3
    member = bench.member()

    member.go()
    waiting = (len(bench.decode_faults), list(bench.runs), bench.committed())
    for wait in (1.0, 2.0):
        bench.clock.advance(wait)
        member.go()

    assert waiting == (2, [], 0)
    assert bench.decode_faults == []
    assert bench.runs == []
    bench.clock.advance(4.0)
    member.go()
    assert bench.attempts == [(1, 1), (2, 1)]
    assert bench.effects() == [1, 2]
    assert bench.numbers(TIER_1) == bench.numbers(LETTERS) == []


def test_value_of_a_foreign_schema_is_dead_before_its_body_is_looked_at(bench: Bench):
    def refuse(topic: str, value: bytes | None, job_type: str) -> None:
        raise ContractError(f"`{job_type}` is none of `{topic}`")

    bench.submit(1)
    bench.admit = refuse
    bench.decode_faults = [AssertionError("it was looked at")]
    member = bench.member()

    member.go()

    assert [hop.error_message for hop in bench.hops(LETTERS)] == ["`count` is none of `t`"]
    assert len(bench.decode_faults) == 1
    assert bench.committed() == 1


def test_outage_in_decode_keeps_what_ran_before_it(bench: Bench):
    bench.submit(1)
    bench.submit(2)
    member = bench.member()
    bench.script[1] = [lambda _: bench.decode_faults.append(RegistryUnavailable("no answer"))]

    member.go()
    before = (bench.effects(), bench.committed())
    bench.clock.advance(1.0)
    member.go()

    assert before == ([1], 1)
    assert bench.runs == [1, 2]
    assert bench.committed() == 2


# Runs that do not end.


def overrun(bench: Bench, member: Member, *, seconds: float = TIMEOUT + GRACE) -> Any:
    """A job's step that lasts so long while the loop goes on turning, deaf to all requests."""

    def run_on(_: Any) -> None:
        bench.clock.advance(TIMEOUT)
        member.worker.step()
        bench.clock.advance(seconds - TIMEOUT)
        member.worker.step()

    return run_on


def impatient(bench: Bench, **how: Any) -> Member:
    return bench.member(timeout_seconds=TIMEOUT, timeout_grace_seconds=GRACE, **how)


def deadline_in(bench: Bench, seconds: float) -> int:
    return int((bench.clock.now() + seconds) * 1000)


@pytest.mark.parametrize(("until", "earlier"), [(4.0, 4.0), (2 * TIMEOUT, TIMEOUT)])
def test_handler_is_told_the_earlier_of_its_timeout_and_the_job_s_deadline(
    bench: Bench, until: float, earlier: float
):
    bench.submit(1, deadline=deadline_in(bench, until))
    started = bench.clock.now()
    member = impatient(bench)
    seen: list[Any] = []

    def listen(context: Any) -> None:
        seen.append(context.deadline - started)
        for wait in (earlier - 0.5, 0.5):
            bench.clock.advance(wait)
            member.worker.step()
            seen.append(context.cancelled)

    bench.script[1] = [listen]
    member.go()

    assert seen == pytest.approx([earlier, False, True])
    assert bench.effects() == [1]


def test_job_whose_deadline_passes_while_it_runs_is_not_tried_again(bench: Bench):
    bench.submit(1, deadline=deadline_in(bench, 4.0))
    bench.submit(2)
    member = impatient(bench)

    def obey(context: Any) -> None:
        bench.clock.advance(4.0)
        member.worker.step()
        context.raise_if_cancelled()

    bench.script[1] = [obey]
    member.go()

    (hop,) = bench.hops(LETTERS)
    assert (hop.error_class, hop.attempt) == ("JobTimeout", 1)
    assert "deadline has passed" in (hop.error_message or "")
    assert bench.effects() == [2]


def test_run_that_is_deaf_to_its_deadline_is_abandoned_and_its_job_dies(bench: Bench):
    bench.submit(1, deadline=deadline_in(bench, 4.0))
    bench.submit(2)
    member = impatient(bench)

    def deaf(_: Any) -> None:
        for wait in (4.0, GRACE):
            bench.clock.advance(wait)
            member.worker.step()

    bench.script[1] = [deaf]
    member.go()

    assert bench.numbers(LETTERS) == [1]
    assert bench.effects() == [2]
    assert member.pool.replaced == 1


def test_run_that_outlives_its_timeout_is_told_to_stop_and_fails(bench: Bench):
    bench.submit(1)
    member = impatient(bench)
    told = []

    def listen(context: Any) -> None:
        bench.clock.advance(TIMEOUT - 0.1)
        member.worker.step()
        told.append(context.cancelled)
        bench.clock.advance(0.1)
        member.worker.step()
        told.append(context.cancelled)
        context.raise_if_cancelled()

    bench.script[1] = [listen]
    member.go()

    assert told == [False, True]
    assert bench.effects() == []
    hop = bench.hops(TIER_1)[0]
    assert (hop.error_class, hop.error_message) == ("JobTimeout", "job job-1 ran out of time")
    assert member.pool.replaced == 0


def test_abandoned_run_fails_its_job_and_writes_no_effect_afterwards(bench: Bench):
    bench.submit(1)
    member = impatient(bench)
    bench.script[1] = [overrun(bench, member)]

    member.go()
    abandoned = (bench.effects(), bench.numbers(TIER_1), bench.committed(), member.pool.replaced)
    bench.clock.advance(DELAYS[0])
    member.go()

    assert abandoned == ([], [1], 1, 1)
    hop = bench.hops(TIER_1)[0]
    assert (hop.error_class, hop.attempt) == ("JobTimeout", 1)
    assert hop.error_message == "still running after 15 seconds"
    assert bench.attempts == [(1, 1), (1, 2)]
    assert bench.effects() == [1]
    assert member.pool.free == 4


def test_run_that_ends_within_the_grace_counts_as_it_ended(bench: Bench):
    bench.submit(1)
    member = impatient(bench)
    bench.script[1] = [overrun(bench, member, seconds=TIMEOUT + GRACE - 0.1)]

    member.go()

    assert bench.effects() == [1]
    assert bench.numbers(TIER_1) == []
    assert member.pool.replaced == 0


@pytest.mark.parametrize("ordering", [Ordering.PARTITION, Ordering.KEY])
def test_abandoned_run_keeps_the_order_of_its_key(bench: Bench, ordering: Ordering):
    for n in range(4):
        bench.submit(n)
    member = impatient(bench, ordering=ordering)
    bench.script[2] = [overrun(bench, member)]

    member.go(turns=12)
    for delay in DELAYS:
        bench.clock.advance(delay)
        member.go()

    # Jobs 0 and 1 had run, but were not written down: they come again, ahead of job 2.
    assert bench.numbers(TIER_1) == [2, 3]
    assert bench.hops(TIER_1)[0].attempt == 1
    assert bench.effects() == [0, 1, 2, 3]
    assert bench.committed() == 4


def test_abandoned_run_ahead_of_other_keys_lets_them_pass(bench: Bench):
    bench.submit(0, "a")
    bench.submit(1, "b")
    bench.submit(2, "c")
    member = impatient(bench)
    bench.script[1] = [overrun(bench, member)]

    member.go(turns=12)

    assert bench.numbers(TIER_1) == [1]
    assert bench.effects() == [0, 2]
    assert bench.committed() == 3


def test_run_abandoned_in_its_last_attempt_is_dead(bench: Bench):
    bench.submit(0)
    bench.submit(1)
    member = impatient(bench, attempts_max=1)
    bench.script[1] = [overrun(bench, member)]

    member.go(turns=12)

    assert bench.effects() == [0]
    assert bench.numbers(LETTERS) == [1]
    assert bench.committed() == 2


def test_run_abandoned_where_there_are_no_tiers_waits_in_place(bench: Bench):
    for n in range(3):
        bench.submit(n)
    member = impatient(bench, tiers=0, attempts_max=2)
    bench.script[1] = [overrun(bench, member)]

    member.go(turns=12)
    before = bench.effects()
    bench.clock.advance(1.0)
    member.go()

    assert before == [0]
    assert bench.effects() == [0, 1, 2]
    assert bench.committed() == 3


def test_abandoned_run_of_a_dropped_partition_is_forgotten(bench: Bench):
    bench.submit(1)
    member = impatient(bench)

    def run_on(_: Any) -> None:
        member.log.expel()
        member.worker.step()
        bench.clock.advance(TIMEOUT + GRACE)
        member.worker.step()

    bench.script[1] = [run_on]
    member.go()

    assert bench.numbers(TIER_1) == []
    assert bench.effects() == [1]
    assert member.pool.free == 4


# What handlers raise.


@pytest.mark.parametrize(
    ("fault", "permanent"),
    [
        (OSError("no answer"), False),
        (JobTimeout("its own"), False),
        (SystemExit(3), False),
        (__import__("asyncio").CancelledError(), False),
        (Reject("never"), True),
    ],
    ids=lambda each: type(each).__name__,
)
def test_whatever_a_handler_raises_is_a_failed_run(
    bench: Bench, fault: BaseException, permanent: bool
):
    bench.submit(1)
    bench.submit(2, "other")
    bench.fail(1, fault=fault)

    bench.member().go()

    assert bench.numbers(LETTERS if permanent else TIER_1) == [1]
    assert bench.effects() == [2]


def test_result_that_cannot_be_kept_is_a_failed_run(bench: Bench):
    bench.submit(1)
    member = bench.member()
    handler = bench.script

    handler[1] = []
    spec = member.pool._run.__self__._jobs["count"]  # type: ignore[attr-defined]
    assert spec.job_type == "count"
