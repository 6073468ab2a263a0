"""A cluster in memory and workers made of production code, for tests that tell a job's way."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from processor.contracts import headers
from processor.contracts.avro import Decoded
from processor.contracts.own_subjects import any_subject
from processor.core.lane import Ordering
from processor.core.retry import RetryPolicy
from processor.engine.call import Caller
from processor.engine.context import JobContext
from processor.engine.job import JobSpec
from processor.engine.ports import Sink, TransactionalSink
from processor.engine.quick import Admit, Quick
from processor.engine.replay import in_order, letter_of, replay_end, replayed
from processor.engine.run import Runner
from processor.engine.takeover import Rules, Takeover
from processor.engine.telemetry import Telemetry
from processor.engine.traced import TracedRunner
from processor.engine.tracing import Tracing
from processor.engine.worker import Limits, Worker
from processor.errors import ContractError
from processor.model import Headers, Hop, JobStatus, Partition, Record
from processor.testing import Broker, ManualClock, ManualPool, MemoryLog

GROUP = "g"
MAIN = Partition("t", 0)
TIER_1 = Partition("t.retry.1", 0)
TIER_2 = Partition("t.retry.2", 0)
LETTERS = Partition("t.dlt", 0)
DELAYS = (5.0, 60.0)


class Crash(BaseException):
    """The worker's process ends here."""


def crash_at(*names: str) -> Callable[[str], None]:
    """End the process at these ledger calls: for `before` and `after`."""

    def crash(call: str) -> None:
        if call in names:
            raise Crash

    return crash


class Telling:
    """A logger that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, dict[str, Any]]] = []

    def info(self, event: str, **more: Any) -> None:
        self.events.append(("info", event, more))

    def warning(self, event: str, **more: Any) -> None:
        self.events.append(("warning", event, more))

    def error(self, event: str, **more: Any) -> None:
        self.events.append(("error", event, more))

    def told(self, event: str) -> list[dict[str, Any]]:
        return [more for _, name, more in self.events if name == event]


class Counting(Telemetry):
    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.commits: Counter[str] = Counter()
        self.attempts: Counter[int] = Counter()  # Jobs that ended, by their attempts.
        self.stalled: dict[str, float] = {}
        self.on_revoke: Callable[[], object] = lambda: None

    def rebalanced(self, change: str) -> None:
        if change == "revoked":
            self.on_revoke()

    def settled(self, topic: str, job_type: str, outcome: str, count: int = 1) -> None:
        self.outcomes[outcome] += count

    def ended(self, topic: str, attempts: int, count: int = 1) -> None:
        self.attempts[attempts] += count

    def committed(self, result: str, count: int = 1) -> None:
        self.commits[result] += count

    def partition_stalled(self, topic: str, seconds: float) -> None:
        self.stalled[topic] = seconds


@dataclass(frozen=True, slots=True)
class Topic:
    name: str
    tiers: int

    @property
    def retry_topics(self) -> tuple[str, ...]:
        return tuple(f"{self.name}.retry.{tier + 1}" for tier in range(self.tiers))

    @property
    def dead_letter_topic(self) -> str:
        return f"{self.name}.dlt"

    @property
    def status_topic(self) -> str:
        return f"{self.name}.status"


@dataclass
class Member:
    """A worker and the parts that only it has."""

    worker: Worker
    log: MemoryLog
    pool: ManualPool
    telemetry: Counting

    def go(self, turns: int = 8) -> None:
        """Turn the loop, with the pool working whenever there is work."""
        for _ in range(turns):
            self.worker.step()
            self.pool.run_all()
        self.worker.step()

    def go_until_crash(self, turns: int = 20) -> None:
        """Go on until the process ends somewhere; in time the group notices."""
        with pytest.raises(Crash):
            self.go(turns)
        self.log.expel()

    def pool_runs_between_turns(self) -> None:
        """Have the pool work whenever the loop has nothing to read: for `Worker.run`."""
        self.log.idle = lambda _: self.pool.run_next()

    @property
    def lane(self) -> Any:
        return self.worker.assignments[0].lanes[0]


@dataclass
class Bench:
    """One group's broker, clock, ledger and handler. Jobs are numbered and JSON."""

    ledger: Any  # A ledger (port), watched or not.
    sink: Sink | TransactionalSink
    effects: Callable[[], list[int]]  # The numbers of the jobs that took effect, in order.
    partitions: int = 1
    clock: ManualClock = field(default_factory=ManualClock)
    logger: Telling = field(default_factory=Telling)
    runs: list[int] = field(default_factory=list)  # The numbers of the jobs run, in order.
    attempts: list[tuple[int, int]] = field(default_factory=list)
    # By a job's number: what its next runs raise, or do before they succeed.
    script: dict[int, list[BaseException | Callable[[JobContext], object]]] = field(
        default_factory=dict
    )
    decode_faults: list[BaseException] = field(default_factory=list)
    admit: Admit = any_subject
    # Called where the registry would be asked; it may raise.
    on_new_schema: Callable[[bytes | None], None] = lambda _: None
    sinks: tuple[Any, ...] | None = None  # Instead of `sink`.
    batch_max: int | None = None  # The handler is given so many jobs at once.
    linger_seconds: float = 0.0
    batches: list[list[int]] = field(default_factory=list)  # What it was given.
    contexts: list[JobContext] = field(default_factory=list)  # Of the latest batch, if it asks.
    is_async: bool = False  # The handler is a coroutine.
    payload_alone: bool = False  # And asks for nothing else.

    def __post_init__(self) -> None:
        self.make_topics()

    def make_topics(self) -> None:
        """Make the topics and the group, or make them anew: then offsets begin at 0 again."""
        names = ("t", "t.retry.1", "t.retry.2", "t.dlt", "t.status")
        self.broker = Broker(dict.fromkeys(names, self.partitions), now=self.clock.now)

    def submit(
        self, n: int, key: str | None = "k", *, partition: int = 0, **more: str | int | None
    ) -> int:
        """Append job number n to the main topic; `more` are headers (`_` for `-`)."""
        named = {"ce_id": f"job-{n}", "ce_type": "count", **more}
        written: Headers = [
            (name.replace("_", "-") if not name.startswith("ce_") else name, str(value).encode())
            for name, value in named.items()
            if value is not None
        ]
        value = json.dumps(n).rjust(12).encode()  # All begin alike, as with one schema.
        return self.append(value, key, partition=partition, written=written)

    def append(
        self, value: bytes, key: str | None = "k", *, partition: int = 0, written: Headers
    ) -> int:
        named = key.encode() if key is not None else None
        return self.broker.append("t", partition, key=named, value=value, headers=written)

    def fail(self, n: int, times: int = 1, fault: BaseException | None = None) -> None:
        """Let the next runs of a job fail."""
        self.script[n] = [fault or OSError("no answer")] * times

    def member(
        self,
        *,
        tiers: int = 2,
        attempts_max: int = 3,
        ordering: Ordering = Ordering.PARTITION,
        fence: Ordering = Ordering.KEY,
        hold: bool = False,
        fence_records_max: int = 100_000,
        publish_status: bool = False,
        lane_records_max: int = 1000,
        aside_seconds: float = 1.0,
        when_offset_lost: Any = "stop",
        start_from: Any = "earliest",
        timeout_seconds: float = 60.0,
        slots: int = 4,
        log_type: type[MemoryLog] = MemoryLog,
        pool_of: Callable[[Runner], Any] | None = None,
        join: bool = True,
        tracing: Tracing | None = None,
        **limits: Any,
    ) -> Member:
        """Make one more worker of the group. It hears what it owns in its first turn."""
        log = log_type(self.broker, group=GROUP)
        rules = {
            "t": Rules(
                topic=Topic("t", tiers),
                ordering=ordering,
                policy=RetryPolicy(DELAYS[:tiers], attempts_max),
                publish_status=publish_status,
                fence=fence,
                hold=hold,
                is_async=self.is_async,
                batch_max=self.batch_max or 1,
                linger_seconds=self.linger_seconds,
                aside_seconds=aside_seconds,
            )
        }
        runs = Runner if tracing is None else partial(TracedRunner, tracing=tracing)
        runner = runs(
            jobs=self._jobs(),
            decode=self._decode_admitted,
            admit=self.admit,
            ledger=self.ledger,
            claims=None,
            clock=self.clock,
            caller=Caller(
                ledger=self.ledger,
                objects=None,  # type: ignore[arg-type] - no job here opens one.
                clock=self.clock,
                timeout_seconds=timeout_seconds,
                bind_log=lambda entry, job, attempt: self.logger,
                tracing=tracing,
            ),
            quick=None
            if tracing is not None
            else Quick(
                jobs=self._jobs(),
                reading=self._reading,
                admit=self.admit,
                clock=self.clock,
                timeout_seconds=timeout_seconds,
                bind_log=lambda entry, job, attempt: self.logger,
            ),
        )
        pool: Any = ManualPool(runner.run, clock=self.clock, slots=slots)
        if pool_of is not None:
            pool = pool_of(runner)
        takeover = Takeover(
            log=log,
            ledger=self.ledger,
            group=GROUP,
            rules=rules,
            lane_records_max=lane_records_max,
            start_from=start_from,
            fence_records_max=fence_records_max,
            when_offset_lost=when_offset_lost,
        )
        telemetry = Counting()
        worker = Worker(
            log=log,
            pool=pool,
            ledger=self.ledger,
            takeover=takeover,
            rules=rules,
            encode_status=_encode_status,
            clock=self.clock,
            jitter=lambda: 0.0,
            telemetry=telemetry,
            logger=self.logger,
            limits=Limits(**{"commit_interval_seconds": 0.0, **limits}),
            worker_id="w",
        )
        if join:
            worker.join()
        return Member(worker, log, pool, telemetry)

    def restart(self, **how: Any) -> Member:
        """Make a worker for one that has crashed; nothing goes wrong any more."""
        self.ledger.before = self.ledger.after = lambda _: None
        return self.member(**how)

    def replay(self, number: int, *jobs: int, key: str = "k", end: bool = True) -> None:
        """Append a replay of these jobs' letters and its end record, as an operator does."""
        letters = in_order(each for r in self.copies(LETTERS) if (each := letter_of(r)) is not None)
        for each in letters:
            if json.loads(each.record.value or b"") in jobs:
                self.broker.land(replayed(each, topic="t", replay=number))
        if end:
            ended = replay_end(topic="t", partition=0, key=key.encode(), replay=number)
            self.broker.land(ended)

    # What can be seen from outside.

    def committed(self, partition: Partition = MAIN) -> int | None:
        found = self.broker.group(GROUP).committed.get(partition)
        return None if found is None else found.offset

    def mains(self) -> list[Partition]:
        """The main topic's partitions."""
        return [Partition("t", number) for number in range(self.partitions)]

    def note(self, partition: Partition = MAIN) -> str:
        return self.broker.group(GROUP).committed[partition].metadata

    def numbers(self, partition: Partition) -> list[int]:
        """Which jobs are on a partition, in order."""
        return [json.loads(record.value or b"null") for record in self.copies(partition)]

    def hops(self, partition: Partition) -> list[Hop]:
        found = [headers.read_hop(record) for record in self.copies(partition)]
        return [hop for hop in found if hop is not None]

    def copies(self, partition: Partition) -> list[Record]:
        """What is on a partition, takeover markers left out."""
        found = self.broker.read(partition, 0, 10_000)
        return [record for record in found if headers.read_marker(record) is None]

    def left(self, partition: Partition) -> int:
        """How many offsets of a partition, markers included, are not committed."""
        return self.broker.bounds(partition)[1] - (self.committed(partition) or 0)

    def markers(self, partition: Partition) -> list[int]:
        """The epochs of a tier's takeover markers, in order."""
        found = [headers.read_marker(each) for each in self.broker.read(partition, 0, 10_000)]
        return [epoch for epoch in found if epoch is not None]

    def statuses(self) -> list[Mapping[str, Any]]:
        return [json.loads(record.value or b"") for record in self.broker.records("t.status")]

    def own_headers(self, record: Record) -> list[tuple[str, bytes]]:
        return [each for each in record.headers if not each[0].startswith(headers.HOP_PREFIX)]

    # What workers share.

    def _jobs(self) -> dict[str, JobSpec]:
        spec = JobSpec(
            job_type="count",
            topic="t",
            call=self._handle_async if self.is_async else self._handle,
            convert=lambda payload: payload,
            is_async=self.is_async,
            timeout_seconds=None,
            permanent=(ZeroDivisionError,),
            sinks=(self.sink,) if self.sinks is None else self.sinks,
            simple=self._simple,
        )
        if self.batch_max is not None:
            spec = replace(
                spec,
                batch_max=self.batch_max,
                call=self._handle_batch,
                simple=lambda numbers: self._handle_batch(numbers, []),
            )
        return {"count": spec}

    @property
    def _simple(self) -> Callable[[int], Any] | None:
        if not self.is_async:
            return lambda n: self._handle(n, None)
        return (lambda n: self._handle_async(n, None)) if self.payload_alone else None

    def _decode_admitted(self, value: bytes | None, admit: Callable[[str], object]) -> Decoded:
        admit("count")
        return self._decode(value)

    def _decode(self, value: bytes | None) -> Decoded:
        if self.decode_faults:
            raise self.decode_faults.pop(0)
        try:
            return Decoded("count", json.loads(value or b""))
        except ValueError:
            raise ContractError("the value is no job") from None

    def _reading(self, value: bytes | None) -> Any:
        self.on_new_schema(value)
        job_type = self._decode(value).job_type

        def read(value: bytes) -> Any:
            return self._decode(value).payload

        return SimpleNamespace(job_type=job_type, read=read, open=None)

    async def _handle_async(self, n: int, context: JobContext) -> dict[str, int]:
        self.runs.append(n)
        for step in self.script.pop(n, []):
            if isinstance(step, BaseException):
                raise step
            awaited = step(context)
            if awaited is not None:
                await awaited  # type: ignore[misc]
        return {"n": n}

    def _handle_batch(self, numbers: list[int], contexts: list[JobContext]) -> list[Any]:
        self.batches.append(list(numbers))
        self.contexts = contexts
        results: list[Any] = []
        for n in numbers:
            step = self.script[n].pop(0) if self.script.get(n) else None
            if callable(step):
                step(None)  # type: ignore[arg-type]
                step = None
            results.append({"n": n} if step is None else step)
        return results

    def _handle(self, n: int, context: Any) -> dict[str, int]:
        self.runs.append(n)
        if context is not None:
            self.attempts.append((n, context.attempt))
        if self.script.get(n):
            step = self.script[n].pop(0)
            if isinstance(step, BaseException):
                raise step
            step(context)
        return {"n": n}


def _encode_status(topic: str, status: JobStatus) -> bytes:
    told = {
        "job_id": status.job_id,
        "state": status.state,
        "attempts": status.attempts,
        "result": status.result,
        "error_class": status.error_class,
        "error_message": status.error_message,
    }
    return json.dumps(told).encode()
