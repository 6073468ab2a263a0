"""How long calls of the ledger and of sinks take, as it is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from processor.engine.job import JobSpec
from processor.engine.ports import TransactionalSink
from processor.engine.telemetry import Telemetry
from processor.engine.timed import TimedLedger, timed_jobs
from processor.errors import SinkUnavailable
from processor.model import Effect
from processor.testing import ManualClock, MemoryLedger, WatchedLedger
from tests.engine.bench import Bench


class Heard(Telemetry):
    def __init__(self) -> None:
        self.ledger: list[tuple[str, float]] = []
        self.sinks: list[tuple[str, float]] = []

    def ledger_took(self, call: str, seconds: float) -> None:
        self.ledger.append((call, seconds))

    def sink_took(self, sink: str, seconds: float) -> None:
        self.sinks.append((sink, seconds))


class SlowSink:
    def __init__(self, clock: ManualClock, fault: Exception | None = None) -> None:
        self.clock = clock
        self.fault = fault

    def write(self, effects: Sequence[Effect]) -> list[str]:
        self.clock.advance(0.5)
        if self.fault is not None:
            raise self.fault
        return ["" for _ in effects]


class RowSink:
    def write_in(self, transaction: Any, effects: Sequence[Effect]) -> None:
        transaction.append(len(effects))


def spec(name: str, *sinks: Any) -> JobSpec:
    return JobSpec(
        job_type=name,
        topic=None,
        call=lambda payload, context: None,
        convert=lambda payload: payload,
        is_async=False,
        timeout_seconds=None,
        permanent=(),
        sinks=sinks,
    )


def test_each_call_of_the_ledger_is_told_with_its_time():
    clock, heard = ManualClock(), Heard()
    real = WatchedLedger(MemoryLedger())
    real.before = lambda _: clock.advance(0.25)
    ledger = TimedLedger(real, clock=clock, telemetry=heard)

    assert ledger.lookup(["a"]) == {}
    assert heard.ledger == [("lookup", 0.25)]
    assert ledger.remembers


def test_call_that_fails_is_told_too():
    clock, heard = ManualClock(), Heard()
    real = WatchedLedger(MemoryLedger())

    def fault(_: object) -> None:
        clock.advance(3.0)
        raise SinkUnavailable("away")

    real.before = fault
    ledger = TimedLedger(real, clock=clock, telemetry=heard)

    with pytest.raises(SinkUnavailable):
        ledger.lookup(["a"])

    assert heard.ledger == [("lookup", 3.0)]


@pytest.mark.parametrize("fault", [None, SinkUnavailable("away")])
def test_sink_is_told_by_its_class_s_name_with_its_time(fault: Exception | None):
    clock, heard = ManualClock(), Heard()
    jobs = timed_jobs({"a": spec("a", SlowSink(clock, fault))}, clock=clock, telemetry=heard)

    (sink,) = jobs["a"].sinks
    if fault is None:
        assert sink.write([]) == []
    else:
        with pytest.raises(SinkUnavailable):
            sink.write([])

    assert heard.sinks == [("SlowSink", 0.5)]


def test_sink_stays_of_its_kind_and_one_for_all_jobs():
    clock, heard = ManualClock(), Heard()
    plain, rows = SlowSink(clock), RowSink()
    jobs = timed_jobs(
        {"a": spec("a", plain, rows), "b": spec("b", plain)}, clock=clock, telemetry=heard
    )
    transaction: list[int] = []

    jobs["a"].sinks[1].write_in(transaction, [])

    kinds = [isinstance(sink, TransactionalSink) for sink in jobs["a"].sinks]
    assert kinds == [False, True]
    assert jobs["a"].sinks[0] is jobs["b"].sinks[0]
    assert transaction == [0]
    assert heard.sinks == [("RowSink", 0.0)]


@pytest.mark.parametrize("bench", ["memory"], indirect=True)
def test_worker_goes_its_whole_way_with_a_timed_ledger(bench: Bench):
    heard = Heard()
    bench.ledger = TimedLedger(bench.ledger, clock=bench.clock, telemetry=heard)
    for n in range(3):
        bench.submit(n)
    bench.fail(1, fault=ZeroDivisionError())

    bench.member(hold=True).go()

    assert bench.effects() == [0]
    calls = {call for call, _ in heard.ledger}
    assert calls == {"raise_owner", "holds", "lookup", "record", "dying", "dead", "held"}
