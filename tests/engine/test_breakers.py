"""A topic that an outage of a sink has closed is opened by any job of it that takes effect."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from processor.adapters.pool import ThreadPool
from processor.contracts.avro import Decoded
from processor.core.lane import Ordering
from processor.engine.job import JobSpec
from processor.errors import SinkUnavailable
from processor.model import Effect
from processor.sinks.no_ledger import NoLedger
from tests.engine.bench import LETTERS, Bench
from tests.engine.test_coroutines import until


class AwaySink:
    """Away, until it is there and takes nothing."""

    away = True

    def write(self, effects: Sequence[Effect]) -> None:
        if self.away:
            raise SinkUnavailable("away")
        raise ValueError("not this one")


class Mixed(Bench):
    """Results of numbers from 100 on go to the sink, those of the others nowhere."""

    def _jobs(self) -> dict[str, JobSpec]:
        spec = super()._jobs()["count"]
        kept = replace(spec, job_type="kept", simple=None, sinks=(self.sink,))
        return {"count": spec, "kept": kept}

    def _decode(self, value: bytes | None) -> Decoded:
        n = json.loads(value or b"")
        return Decoded("kept" if n >= 100 else "count", n)


@pytest.mark.parametrize("kind", ["coroutines", "functions"])
def test_topic_goes_on_though_the_job_that_closed_it_has_died(kind: str):
    sink = AwaySink()
    bench = Mixed(NoLedger(), sink, list, sinks=())  # type: ignore[arg-type]
    bench.is_async = bench.payload_alone = kind == "coroutines"
    kept = [("ce_id", b"job-100"), ("ce_type", b"kept")]
    bench.append(json.dumps(100).rjust(12, "\t").encode(), "a", written=kept)
    member = bench.member(
        ordering=Ordering.PARTITION, pool_of=lambda runner: ThreadPool(runner, threads=2)
    )
    breakers = member.worker._runs._breakers
    until(member, lambda: "t" in breakers)
    sink.away = False
    bench.clock.advance(10.0)
    until(member, lambda: bench.numbers(LETTERS) == [100])
    bench.clock.advance(10.0)
    for n in range(5):
        bench.submit(n, f"k{n}")

    until(member, lambda: bench.committed() == 6)

    assert "t" not in breakers
