"""What a traced worker tells of its runs: whose children they are, what they are linked to."""

from __future__ import annotations

import asyncio
import cProfile
import pstats
import re
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import StatusCode, format_span_id, format_trace_id

from processor.adapters.pool import ThreadPool
from processor.adapters.tracing import OpenTelemetry
from processor.contracts import headers
from processor.core.lane import Ordering
from processor.errors import RegistryUnavailable, Reject, SinkUnavailable
from processor.model import Record
from processor.sinks.no_ledger import NoLedger
from processor.testing.memory_ledger import MemoryLedger, MemorySink
from tests.engine.bench import DELAYS, LETTERS, TIER_1, TIER_2, Bench

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
NEVER = Reject("never")


class Told:
    """A tracer, and the spans that have ended."""

    def __init__(self, **provider: Any) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, **provider)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracing = OpenTelemetry(self.provider, version="1", group="g")

    def named(self, name: str) -> list[ReadableSpan]:
        return [each for each in self._exporter.get_finished_spans() if each.name == name]

    def one(self, name: str) -> ReadableSpan:
        (found,) = self.named(name)
        return found

    @property
    def names(self) -> list[str]:
        return [each.name for each in self._exporter.get_finished_spans()]


class Place(NamedTuple):
    """Whose child a span is, and in which trace."""

    trace: str
    parent: str | None


def place(span: ReadableSpan) -> Place:
    assert span.context is not None
    parent = None if span.parent is None else format_span_id(span.parent.span_id)
    return Place(format_trace_id(span.context.trace_id), parent)


def id_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return format_span_id(span.context.span_id)


def links(span: ReadableSpan) -> dict[str, str]:
    """What a span is linked to: kind by span id."""
    return {
        format_span_id(each.context.span_id): str((each.attributes or {})["processor.link"])
        for each in span.links
    }


def attribute(span: ReadableSpan, name: str) -> Any:
    return (span.attributes or {}).get(name)


def trace_of(record: Record) -> bytes | None:
    return dict(record.headers).get(headers.HOP_TRACE)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def bench() -> Bench:
    ledger = MemoryLedger()
    return Bench(ledger, MemorySink(), lambda: [each.result["n"] for each in ledger.written])


def test_run_is_a_child_of_its_submission_and_says_what_it_ran(bench: Bench, told: Told):
    bench.submit(0, "anna@example.org", traceparent=TRACEPARENT)
    bench.member(tracing=told.tracing).go()

    span = told.one("process t")
    assert place(span) == (TRACE, PARENT)
    assert span.kind is trace.SpanKind.CONSUMER
    assert {
        name: attribute(span, f"messaging.{name}")
        for name in ("system", "operation.name", "operation.type", "destination.name",
                     "destination.partition.id", "kafka.offset", "consumer.group.name",
                     "message.id", "message.body.size")
    } == {
        "system": "kafka", "operation.name": "process", "operation.type": "process",
        "destination.name": "t", "destination.partition.id": "0", "kafka.offset": 0,
        "consumer.group.name": "g", "message.id": "job-0", "message.body.size": 12,
    }  # fmt: skip
    assert attribute(span, "processor.job.type") == "count"
    assert attribute(span, "processor.job.attempt") == 1
    assert attribute(span, "processor.job.outcome") == "succeeded"
    assert len(attribute(span, "processor.key_hash")) == 16
    assert "anna" not in span.to_json()


def test_write_and_ledger_are_children_of_each_job_they_are_for(bench: Bench, told: Told):
    for n in range(3):
        bench.submit(n, f"k{n}", traceparent=TRACEPARENT)
    bench.member(tracing=told.tracing).go()

    runs = {id_of(each) for each in told.named("process t")}
    writes = told.named("write MemorySink")
    ledger = told.named("write ledger")
    assert len(runs) == 3
    assert {place(each).parent for each in writes} == runs
    assert {place(each).parent for each in ledger} == runs
    assert {attribute(each, "messaging.batch.message_count") for each in writes} == {3}


def test_retries_stay_in_the_trace_and_are_linked_to_the_attempt_before(bench: Bench, told: Told):
    bench.submit(0, traceparent=TRACEPARENT, tracestate="vendor=1")
    bench.fail(0, times=2)
    member = bench.member(tracing=told.tracing)
    for delay in (0.0, *DELAYS):
        bench.clock.advance(delay)
        member.go(20)

    first, second, third = (told.one(f"process {name}") for name in ("t", "t.retry.1", "t.retry.2"))
    assert [place(each) for each in (first, second, third)] == [(TRACE, PARENT)] * 3
    assert [attribute(each, "processor.job.attempt") for each in (first, second, third)] == [
        1,
        2,
        3,
    ]
    assert links(first) == {}
    assert links(second) == {id_of(first): "attempt before"}
    assert links(third) == {id_of(second): "attempt before"}
    assert [each.status.status_code for each in (first, second, third)] == [
        StatusCode.ERROR, StatusCode.ERROR, StatusCode.UNSET,
    ]  # fmt: skip
    assert attribute(first, "error.type") == "OSError"
    appended = told.one("send t.retry.1")
    assert place(appended) == (TRACE, id_of(first))
    assert attribute(appended, "messaging.kafka.offset") == bench.copies(TIER_1)[0].offset
    assert place(told.one("send t.retry.2")) == (TRACE, id_of(second))
    for copy in (*bench.copies(TIER_1), *bench.copies(TIER_2)):
        assert dict(copy.headers)["traceparent"] == TRACEPARENT.encode()


def test_dead_letter_is_appended_in_the_trace(bench: Bench, told: Told):
    bench.submit(0, traceparent=TRACEPARENT)
    bench.fail(0, fault=NEVER)
    bench.member(tracing=told.tracing).go(20)

    run = told.one("process t")
    assert place(told.one("send t.dlt")) == (TRACE, id_of(run))
    assert trace_of(bench.copies(LETTERS)[0]) == f"00-{TRACE}-{id_of(run)}-01".encode()


def test_replay_is_a_trace_of_its_own_linked_to_the_original(bench: Bench, told: Told):
    bench.submit(0, traceparent=TRACEPARENT)
    bench.fail(0, fault=NEVER)
    member = bench.member(tracing=told.tracing)
    member.go(20)
    bench.replay(1, 0)
    member.go(20)

    dead, again = told.named("process t")
    assert place(dead) == (TRACE, PARENT)
    assert place(again).trace != TRACE
    assert links(again) == {PARENT: "original"}
    assert attribute(again, "processor.job.replay") == 1


@pytest.mark.parametrize(
    "traceparent", ["00-1-1-00", "garbage", f"00-{'0' * 32}-{PARENT}-01", "9" * 600, "\u00e9", ""]
)
def test_malformed_traceparent_is_ignored_and_the_job_runs(
    bench: Bench, told: Told, traceparent: str
):
    bench.submit(0, traceparent=traceparent)
    bench.member(tracing=told.tracing).go()

    assert bench.effects() == [0]
    assert place(told.one("process t")).parent is None


def test_job_that_nobody_has_traced_is_one_trace_from_its_first_run_on(bench: Bench, told: Told):
    bench.submit(0)
    bench.fail(0)
    member = bench.member(tracing=told.tracing)
    member.go(20)
    bench.clock.advance(DELAYS[0])
    member.go(20)

    first, second = told.one("process t"), told.one("process t.retry.1")
    assert place(first).parent is None
    assert place(second) == (place(first).trace, id_of(first))
    assert "traceparent" not in dict(bench.copies(TIER_1)[0].headers)


def test_job_whose_submission_was_not_sampled_leaves_no_spans(bench: Bench, told: Told):
    bench.submit(0, traceparent=f"{TRACEPARENT[:-2]}00")
    bench.fail(0)
    bench.member(tracing=told.tracing).go(20)

    assert told.names == []
    assert bench.numbers(TIER_1) == [0]
    assert (trace_of(bench.copies(TIER_1)[0]) or b"").endswith(b"-00")


def test_sampled_submission_is_kept_whatever_the_worker_s_own_ratio(bench: Bench):
    told = Told(sampler=ParentBased(ALWAYS_OFF))
    bench.submit(0, "a", traceparent=TRACEPARENT)
    bench.submit(1, "b")
    bench.member(tracing=told.tracing).go(20)

    assert [place(each).trace for each in told.named("process t")] == [TRACE]


def test_span_is_current_in_the_handler(bench: Bench, told: Told):
    own = told.provider.get_tracer("mine")

    def handler(_: object) -> None:
        with own.start_as_current_span("mine"):
            pass

    bench.script[0] = [handler]
    bench.submit(0, traceparent=TRACEPARENT)
    bench.member(tracing=told.tracing).go()

    assert place(told.one("mine")) == (TRACE, id_of(told.one("process t")))
    assert not trace.get_current_span().get_span_context().is_valid


def thread_pool(runner: Any) -> ThreadPool:
    return ThreadPool(runner, threads=2, coroutines_max=10)


def test_span_is_current_in_each_coroutine(bench: Bench, told: Told):
    bench.is_async = True
    own = told.provider.get_tracer("mine")
    both = threading.Barrier(2, timeout=10.0)

    async def handler(context: Any) -> None:
        await asyncio.to_thread(both.wait)  # Side by side: neither may see the other's span.
        with own.start_as_current_span(f"mine {context.job_id}"):
            await asyncio.sleep(0)

    for n in range(2):
        bench.script[n] = [handler]
        bench.submit(n, f"k{n}", traceparent=TRACEPARENT)
    member = bench.member(ordering=Ordering.KEY, pool_of=thread_pool, tracing=told.tracing)
    for _ in range(1000):
        member.worker.step()
        if bench.committed() == 2:
            break
        member.pool.wait(0.05)

    runs = {
        attribute(each, "messaging.message.id"): id_of(each) for each in told.named("process t")
    }
    assert len(runs) == 2
    for job_id, run in runs.items():
        assert place(told.one(f"mine {job_id}")) == (TRACE, run)


def test_batch_has_a_span_that_is_linked_to_each_of_its_jobs(told: Told):
    bench = Bench(NoLedger(), None, list, sinks=())  # type: ignore[arg-type]
    bench.batch_max = 3
    own = told.provider.get_tracer("mine")
    bench.script[1] = [lambda _: own.start_span("mine").end()]
    bench.script[2] = [OSError("no answer")]
    for n in range(3):
        trace_id = f"{n + 1:032x}"
        bench.submit(n, f"k{n}", traceparent=f"00-{trace_id}-{PARENT}-01")
    bench.member(tracing=told.tracing).go(20)

    runs, batch = told.named("process t"), told.one("process batch t")
    assert {place(each).trace for each in runs} == {f"{n + 1:032x}" for n in range(3)}
    assert links(batch) == {id_of(each): "job" for each in runs}
    assert all(links(each) == {id_of(batch): "batch"} for each in runs)
    assert attribute(batch, "messaging.batch.message_count") == 3
    assert place(told.one("mine")).parent == id_of(batch)
    outcomes = [attribute(each, "processor.job.outcome") for each in runs]
    assert sorted(outcomes) == ["failed", "succeeded", "succeeded"]
    assert place(told.one("send t.retry.1")).trace == f"{3:032x}"


def test_job_that_meets_an_outage_says_so_and_its_next_run_is_traced_too(bench: Bench, told: Told):
    bench.decode_faults = [RegistryUnavailable("no answer")]
    bench.submit(0, traceparent=TRACEPARENT)
    member = bench.member(tracing=told.tracing)
    member.go()
    bench.clock.advance(10.0)
    member.go()

    runs = told.named("process t")
    assert [attribute(each, "processor.job.outcome") for each in runs] == [
        "unavailable",
        "succeeded",
    ]
    assert attribute(runs[0], "error.type") == "RegistryUnavailable"
    assert bench.effects() == [0]


def test_effects_that_could_not_be_written_are_written_later_in_the_same_trace(
    bench: Bench, told: Told
):
    class Away(MemorySink):
        def __init__(self) -> None:
            self.faults = [SinkUnavailable("no answer")]

        def write_in(self, transaction: Any, effects: Any) -> None:
            if self.faults:
                raise self.faults.pop()
            super().write_in(transaction, effects)

    bench.sinks = (Away(),)
    bench.submit(0, traceparent=TRACEPARENT)
    member = bench.member(tracing=told.tracing)
    member.go()
    bench.clock.advance(10.0)
    member.go()

    run = told.one("process t")
    first, second = told.named("write Away")
    assert (bench.runs, bench.effects()) == ([0], [0])
    assert attribute(run, "processor.job.outcome") == "unavailable"
    assert place(first) == place(second) == (TRACE, id_of(run))
    assert attribute(first, "error.type") == "SinkUnavailable"
    assert second.status.status_code is StatusCode.UNSET


def test_job_that_is_abandoned_ends_its_span_and_is_retried_in_the_trace(bench: Bench, told: Told):
    member = bench.member(timeout_seconds=5.0, timeout_grace_seconds=1.0, tracing=told.tracing)

    def hang(_: object) -> None:
        for _ in range(2):
            bench.clock.advance(10.0)
            member.worker.step()  # The loop gives it up while it hangs.

    bench.script[0] = [hang]
    bench.submit(0, traceparent=TRACEPARENT)
    member.go(20)

    run = told.named("process t")[0]
    assert attribute(run, "processor.job.outcome") == "abandoned"
    assert attribute(run, "error.type") == "JobTimeout"
    assert place(told.one("send t.retry.1")) == (TRACE, id_of(run))


def test_duplicate_says_so(bench: Bench, told: Told):
    bench.submit(0, traceparent=TRACEPARENT)
    bench.submit(0, traceparent=TRACEPARENT)
    bench.member(tracing=told.tracing).go()

    outcomes = [attribute(each, "processor.job.outcome") for each in told.named("process t")]
    assert outcomes == ["succeeded", "duplicate"]


def test_log_lines_about_a_failed_run_carry_its_ids(bench: Bench, told: Told):
    bench.submit(0, traceparent=TRACEPARENT)
    bench.fail(0)
    bench.member(tracing=told.tracing).go(20)

    (line,) = bench.logger.told("job will be retried")
    run = told.one("process t")
    assert (line["trace_id"], line["span_id"]) == (TRACE, id_of(run))


def of_nothing() -> Bench:
    return Bench(NoLedger(), None, list, sinks=())  # type: ignore[arg-type]


def with_a_ledger() -> Bench:
    return Bench(MemoryLedger(), MemorySink(), list)


@pytest.mark.parametrize("make", [of_nothing, with_a_ledger])
def test_nothing_is_called_for_tracing_while_it_is_off(make: Callable[[], Bench]):
    bench = make()
    for n in range(50):
        bench.submit(n, f"k{n}", traceparent=TRACEPARENT)
    bench.fail(7)
    member = bench.member()

    profile = cProfile.Profile()
    profile.runcall(member.go, 20)

    called = {code[0] for code in pstats.Stats(profile).stats}  # type: ignore[attr-defined]
    assert bench.committed() == 50
    assert any("journey" in each for each in called)
    assert [
        each for each in called if re.search(r"tracing\.py|traced\.py|opentelemetry", each)
    ] == []
