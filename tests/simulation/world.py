"""A seeded world: production workers over a log, clock, ledger and pool in memory, and faults.

One seed is one run and reproduces exactly. Every choice comes from one random generator: which
worker turns its loop, which piece of pool work is done, which append lands, and what goes wrong.
A zombie is a worker that the group has expelled and that does not know it yet: its loop stands
still between `poll` and the rest of its turn, its pool and its producer go on.
"""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from processor.contracts import headers
from processor.contracts.avro import Decoded
from processor.core.lane import Ordering
from processor.core.retry import RetryPolicy
from processor.engine.call import Caller
from processor.engine.job import JobSpec
from processor.engine.ports import CommitRefused, Delivery
from processor.engine.quick import Quick
from processor.engine.run import Runner
from processor.engine.takeover import Rules, Takeover
from processor.engine.telemetry import Telemetry
from processor.engine.worker import Limits, Worker
from processor.errors import BrokerUnavailable, Reject, SinkUnavailable
from processor.model import Effect, Hop, JobStatus, Outgoing, Partition, Position, Record
from processor.sinks.no_ledger import NoLedger
from processor.testing import Broker, ManualClock, ManualPool, MemoryLog, WatchedLedger
from processor.testing.memory_ledger import MemoryLedger, MemorySink
from tests.simulation.operators import operate, prune

GROUP = "g"
WORKERS = 3
TICKS_MAX = 6000
FAULTS_UNTIL = 400
CALM_FROM = 800  # From here on every run of a handler succeeds: what is left must end.
REPLAYS_MAX = 12  # Before that.
TIMEOUT_SECONDS = 50.0  # Of a run. Only one that hangs takes so long.
GRACE_SECONDS = 1.0


class Crash(BaseException):
    """The worker's process ends here."""


class Silent:
    """A logger for nobody."""

    def info(self, event: str, **more: Any) -> None: ...
    def warning(self, event: str, **more: Any) -> None: ...
    def error(self, event: str, **more: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class Topic:
    tiers: int
    name: str = "t"
    dead_letter_topic: str = "t.dlt"
    status_topic: str = "t.status"

    @property
    def retry_topics(self) -> tuple[str, ...]:
        return tuple(f"t.retry.{tier + 1}" for tier in range(self.tiers))


class SimLog(MemoryLog):
    """A log whose appends land when the world says so, in order for each partition."""

    def __init__(self, world: World) -> None:
        super().__init__(world.broker, group=GROUP)
        self._world = world
        self.outbox: dict[tuple[str, int | None], deque[tuple[Outgoing, Any]]] = {}

    def send(self, outgoing: Outgoing, token: Any) -> None:
        where = (outgoing.topic, outgoing.partition)
        self.outbox.setdefault(where, deque()).append((outgoing, token))

    def append(self, outgoing: Sequence[Outgoing]) -> list[int]:
        for each in outgoing:  # One producer's appends to a partition keep their order.
            while self.outbox.get((each.topic, each.partition)):
                self._land((each.topic, each.partition))
        if self._world.happens(0.02):
            landed = self._world.random.randint(0, len(outgoing))
            for each in outgoing[:landed]:
                self._broker.land(each)
            raise BrokerUnavailable("the broker did not answer")
        return super().append(outgoing)

    def land_one(self) -> bool:
        """Let one append land; its answer comes, or is lost and comes as an error."""
        waiting = [where for where, queue in self.outbox.items() if queue]
        if not waiting:
            return False
        self._land(self._world.random.choice(waiting))
        return True

    def _land(self, where: tuple[str, int | None]) -> None:
        outgoing, token = self.outbox[where].popleft()
        offset = self._broker.land(outgoing)
        error = "the answer was lost" if self._world.happens(0.01) else None
        self._answers.append(Delivery(token, offset, error))

    def die(self) -> None:
        """End the producer: of each partition's appends a beginning lands."""
        for queue in self.outbox.values():
            for outgoing, _ in list(queue)[: self._world.random.randint(0, len(queue))]:
                self._broker.land(outgoing)
        self.outbox.clear()

    def fetched(self, records_max: int, timeout_seconds: float) -> list[Record]:
        # What arrives together is chance: a partition's leader may be slow, or far behind.
        draw = self._world.random.random
        order = sorted(self._positions, key=lambda _: draw())
        self._positions = {each: self._positions[each] for each in order}
        records_max = self._world.random.choice((1, 2, records_max))
        records = super().fetched(records_max, timeout_seconds)
        if records and self._world.happens(0.03):  # Fetched twice, as around a pause.
            again = self._world.random.choice(records)
            records += self._broker.read(Partition(again.topic, again.partition), 0, 3)
        return records


class Numbers:
    """How the jobs of a world are read."""

    job_type = "count"
    open = None

    def read(self, value: bytes) -> Any:
        return json.loads(value)


@dataclass(eq=False)
class Member:
    """One worker of the world and the parts that die with it."""

    worker: Worker
    log: SimLog
    pool: ManualPool
    zombie: bool = False


@dataclass
class Told:
    """What the checkers look at: nothing of it comes from the workers' own counters."""

    submitted: dict[int, str | None] = field(default_factory=dict)  # Job's number -> key.
    numbers: dict[Position, int] = field(default_factory=dict)  # Where it is on the main topic.
    violations: list[str] = field(default_factory=list)
    faults: int = 0
    replays: int = 0
    replayed: int = 0  # Records that operators appended.
    ended: bool = False
    ticks: int = 0


Defect = Callable[["World"], None]


def number_of(effect: Effect) -> int:
    """Which job took effect."""
    return int(effect.job_id.removeprefix("job-"))


class World:
    """One run. `defect` plants a fault of the program before it begins."""

    def __init__(self, seed: int, defect: Defect | None = None) -> None:
        self.random = r = random.Random(seed)
        self.told = Told()
        self._hops: dict[Position, Hop | None] = {}
        self.clock = ManualClock()
        hot = seed % 2 == 1  # Every other world: one or two hot keys, many failures and faults.
        self.tiers = r.randint(1, 3)
        self.keys = r.randint(1, 2) if hot else r.randint(1, 4)
        self.todo = r.randint(2, 8)
        self.attempts_max = self.tiers + 1 + r.choice((0, 0, 1))
        self.p_transient = r.choice((0.4, 0.6)) if hot else r.choice((0.0, 0.2, 0.4))
        self.p_permanent = r.choice((0.0, 0.0, 0.1, 0.3))
        self.p_fault = r.choice((0.03, 0.06, 0.1)) if hot else r.choice((0.01, 0.03))
        self.faults_left = r.randint(3, 9) if hot else r.randint(0, 6)
        self.p_trouble = r.choice((0.0, 0.0, 0.02))  # Of the ledger, and of commits.
        self.ordering = r.choice((Ordering.PARTITION, Ordering.KEY, Ordering.NONE))
        if self.ordering is Ordering.NONE and seed % 8 != 7:
            self.ordering = Ordering.KEY  # There is nothing to see of it where jobs are entries.
        self.fence = Ordering.PARTITION if r.random() < 0.1 else Ordering.KEY
        self.hold = self.fence is Ordering.KEY and r.random() < 0.4
        self.replays = self.hold or r.random() < 0.2
        # One world in eight: nothing but Kafka, and jobs that are run in stretches.
        self.ledgerless = seed % 8 == 7
        self.is_simple = seed % 64 < 40  # Else a handler asks for more than its payload.
        # Half of those have many jobs that wait in place behind a few that are tried again. In half
        # of these so does whatever has failed, however often; else jitter decides, and in the other
        # half much fails again and again.
        many_aside = seed % 16 == 7
        self.aside_seconds = 10.0 if seed % 32 == 7 else 1.03
        if seed % 32 == 23:
            self.p_transient, self.p_permanent = 0.5, 0.0
        self.todo += 12 * many_aside
        if self.ledgerless:
            self.hold = self.replays = False
        # One in four: handlers that are given many jobs at once. One in four: runs that hang.
        self.batch_max = r.choice((1, 2, 3, 10)) if r.random() < 0.25 else None
        self.linger_seconds = r.choice((0.0, 0.3)) if self.batch_max else 0.0
        self.p_hang = 0.05 if r.random() < 0.25 else 0.0
        self.replay = 0
        self.lane_records_max = r.choice((100,) if many_aside else (1, 3, 100))
        self.fence_records_max = r.choice((1, 3, 100))
        self.slice_records_max = r.choice((1, 2, 100))
        self.depth = 0
        self.store = MemoryLedger()
        self.sink = MemorySink()
        self.topic = Topic(self.tiers)
        names = (self.topic.name, *self.topic.retry_topics, "t.dlt", "t.status")
        self.partitions = r.choice((1, 1, 1, 2, 3))
        self.broker = Broker(dict.fromkeys(names, self.partitions), now=self.clock.now)
        self.p_prune = r.choice((0.0, 0.03))  # Of the ledger, each tick.
        self.group = self.broker.group(GROUP)
        self.watch_commits()
        self.takeover_type: type[Takeover] = Takeover
        if defect is not None:
            defect(self)
        self.members = [self.member() for _ in range(WORKERS)]
        for _ in range(r.choice((0, self.todo))):
            self.submit()

    # Chance.

    def happens(self, probability: float) -> bool:
        """Whether something goes wrong here; never once the faults have ended."""
        return self.told.ticks < FAULTS_UNTIL and self.random.random() < probability

    # The world's parts.

    def submit(self) -> None:
        self.todo -= 1
        key = f"k{self.random.randrange(self.keys)}"
        if self.random.random() < 0.05 and self.fence is Ordering.KEY:
            key_bytes = None
        else:
            key_bytes = key.encode()
        n = len(self.told.submitted)
        partition = int(key[1:]) % self.partitions
        named = [(headers.JOB_ID, f"job-{n}".encode()), (headers.JOB_TYPE, b"count")]
        at = self.broker.append("t", partition, key=key_bytes, value=str(n).encode(), headers=named)
        self.told.submitted[n] = None if key_bytes is None else key
        self.told.numbers[Position("t", partition, at)] = n
        if self.happens(0.1):
            self.broker.leave_gap(Partition("t", partition), self.random.randint(1, 3))

    def member(self) -> Member:
        log = SimLog(self)
        ledger: Any = NoLedger()
        if not self.ledgerless:
            ledger = WatchedLedger(self.store)
            ledger.before = ledger.after = self.trouble
        made: list[Member | None] = [None]
        jobs = {"count": self.spec(lambda: made[0])}
        runner = Runner(
            jobs=jobs,
            decode=lambda value, _: Decoded("count", json.loads(value or b"null")),
            ledger=ledger,
            claims=None,
            clock=self.clock,
            caller=Caller(
                ledger=ledger,
                objects=None,  # type: ignore[arg-type] - no job here opens one.
                clock=self.clock,
                timeout_seconds=TIMEOUT_SECONDS,
                bind_log=lambda *_: Silent(),
            ),
            quick=Quick(
                jobs=jobs,
                reading=lambda value: Numbers(),
                clock=self.clock,
                timeout_seconds=TIMEOUT_SECONDS,
                bind_log=lambda *_: Silent(),
            ),
        )
        pool = ManualPool(runner.run, clock=self.clock, slots=self.random.randint(1, 3))
        rules = {
            "t": Rules(
                topic=self.topic,
                ordering=self.ordering,
                policy=RetryPolicy((0.5, 1.0, 2.0)[: self.tiers], self.attempts_max, 0.1),
                publish_status=False,
                fence=self.fence,
                hold=self.hold,
                batch_max=self.batch_max or 1,
                linger_seconds=self.linger_seconds,
                aside_seconds=self.aside_seconds,
            )
        }
        takeover = self.takeover_type(
            log=log,
            ledger=ledger,
            group=GROUP,
            rules=rules,
            lane_records_max=self.lane_records_max,
            start_from="earliest",
            when_offset_lost="stop",
            fence_records_max=self.fence_records_max,
        )
        worker = Worker(
            log=log,
            pool=pool,
            ledger=ledger,
            takeover=takeover,
            rules=rules,
            encode_status=lambda topic, status: _nothing(topic, status),
            clock=self.clock,
            jitter=self.random.random,
            telemetry=Telemetry(),
            logger=Silent(),
            limits=Limits(
                slice_records_max=self.slice_records_max,
                commit_interval_seconds=self.random.choice((0.0, 0.2, 1.0)),
                drain_seconds=self.random.choice((0.0, 0.5, 5.0)),
                takeover_again_seconds=0.2,
                timeout_grace_seconds=GRACE_SECONDS,
            ),
            worker_id="w",
        )
        worker.watch._gauges.look = lambda *_: None  # Nobody reads them.
        member = made[0] = Member(worker, log, pool)
        pool.on_wait = lambda seconds: self.while_draining(member, seconds)
        log.before_commit = log.after_commit = self.commit_trouble
        worker.join()
        return member

    def spec(self, member: Callable[[], Member | None]) -> JobSpec:
        spec = JobSpec(
            job_type="count",
            topic="t",
            call=lambda n, _: self.hang(member) or self.handle(n),
            convert=lambda payload: payload,
            is_async=False,
            timeout_seconds=None,
            permanent=(),
            simple=self.simple(member, self.handle) if self.is_simple else None,
            sinks=() if self.ledgerless else (self.sink,),
        )
        if self.batch_max is None:
            return spec
        return replace(
            spec,
            batch_max=self.batch_max,
            call=lambda numbers, _: self.hang(member) or self.handle_batch(numbers),
            simple=self.simple(member, self.handle_batch) if self.is_simple else None,
        )

    def simple(
        self, member: Callable[[], Member | None], handle: Callable[[Any], Any]
    ) -> Callable[[Any], Any]:
        return lambda given: self.hang(member) or handle(given)

    def hang(self, member: Callable[[], Member | None]) -> None:
        """Ignore the timeout now and then: the loop gives the run up while it goes on."""
        mine = member()
        if self.depth > 0 or mine is None or not self.happens(self.p_hang):
            return
        self.clock.advance(TIMEOUT_SECONDS + GRACE_SECONDS + 1.0)
        self.depth += 1
        try:
            mine.worker.step()
        finally:
            self.depth -= 1

    def handle_batch(self, numbers: list[int]) -> list[Any]:
        """Each by itself; what follows a failure within a key is left out."""
        results: list[Any] = []
        failed: set[str] = set()
        for n in numbers:
            key = self.told.submitted[n]
            if key is not None and key in failed:
                results.append(None)
                continue
            try:
                results.append(self.handle(n))
            except Exception as fault:  # noqa: BLE001 - as any handler's.
                results.append(fault)
                failed.add(key or "")
        return results

    def main(self, number: int) -> Partition:
        """A main partition."""
        return Partition("t", number)

    def handle(self, n: int) -> dict[str, int]:
        if self.depth < 2 and self.random.random() < 0.2:
            self.depth += 1  # The world goes on while the job runs.
            try:
                for _ in range(self.random.randint(1, 4)):
                    self.act(inside=True)
            finally:
                self.depth -= 1
        chance = self.random.random() if self.told.ticks < CALM_FROM else 1.0
        if chance < self.p_transient:
            raise OSError("no answer")
        if chance < self.p_transient + self.p_permanent:
            raise Reject("never")
        if self.ledgerless:
            self.store.written.append(
                Effect(f"job-{n}", "count", f"job:job-{n}", Position("t", 0, 0), 1, None, {"n": n})
            )
        return {"n": n}

    def trouble(self, call: str) -> None:
        if self.happens(self.p_trouble):
            raise SinkUnavailable(f"the ledger did not answer to {call}")
        if self.faults_left > 0 and self.depth == 0 and self.happens(0.01):
            self.faults_left -= 1
            raise Crash

    def commit_trouble(self, positions: Mapping[Partition, Any]) -> None:
        if self.happens(self.p_trouble):
            kind = CommitRefused if self.random.random() < 0.5 else BrokerUnavailable
            raise kind("the answer was lost")
        if self.faults_left > 0 and self.depth == 0 and self.happens(0.01):
            self.faults_left -= 1
            raise Crash

    def watch_commits(self) -> None:
        """Check each accepted commit against what is on the log and in the ledger."""
        keep = self.group.commit

        def commit(member: Any, offsets: Mapping[Partition, Any]) -> None:
            keep(member, offsets)
            for place, n in self.told.numbers.items():
                position = offsets.get(Partition("t", place.partition))
                below = position is not None and place.offset < (position.offset or 0)
                if below and not self.safe(place, n):
                    self.told.violations.append(f"commit {position} above job {n} at {place}")

        self.group.commit = commit  # type: ignore[method-assign]

    def safe(self, place: Position, n: int) -> bool:
        """Whether a job has taken effect, or is on a tier or among the dead letters."""
        if any(number_of(effect) == n for effect in self.store.written):
            return True
        return any(
            hop is not None and hop.origin == place
            for topic in (*self.topic.retry_topics, "t.dlt")
            for record in self.broker.records(topic)
            for hop in (self.hop_of(record),)
        )

    def hop_of(self, record: Record) -> Hop | None:
        """A record's way so far: read once, since it is asked for at every commit."""
        place = Position(record.topic, record.partition, record.offset)
        if place not in self._hops:
            self._hops[place] = headers.read_hop(record)
        return self._hops[place]

    # Time goes on.

    def run(self) -> Told:
        told = self.told
        while told.ticks < TICKS_MAX:
            told.ticks += 1
            self.clock.advance(self.random.choice((0.0, 0.05, 0.3)))
            if self.happens(self.p_fault) and self.faults_left > 0:
                self.faults_left -= 1
                told.faults += 1
                self.fault()
            if self.todo > 0 and self.random.random() < 0.1:
                self.submit()
            if self.replays and told.replays < REPLAYS_MAX and self.random.random() < 0.03:
                operate(self)
            if self.p_prune and self.random.random() < self.p_prune:
                prune(self)
            self.act()
            if told.ticks % 20 == 0 and self.quiet() and not (self.hold and operate(self)):
                told.ended = True
                return told
        return told

    def act(self, *, inside: bool = False) -> None:
        """Let one member do one thing."""
        member = self.random.choice(self.members)
        chance = self.random.random()
        try:
            if chance < 0.3:
                member.log.land_one()
            elif chance < 0.55 and member.pool.pending:
                member.pool.run_next(self.random.randrange(len(member.pool.pending)))
            elif member.zombie:
                self.act_zombie(member)
            else:
                member.worker.step()
                told = bounds_broken(member.worker, member.pool)
                self.told.violations += [f"bound: {each}" for each in told]
        except Crash:
            if inside:
                raise
            self.crash(member)

    def act_zombie(self, member: Member) -> None:
        """The rest of a turn that began before the group went on without it; or it wakes."""
        if self.told.ticks >= FAULTS_UNTIL or self.random.random() < 0.05:
            member.zombie = False
        else:
            member.worker._turn()

    def while_draining(self, member: Member, seconds: float) -> None:
        self.clock.advance(seconds)
        chance = self.random.random()
        if chance < 0.4 and member.pool.pending and self.depth < 2:
            self.depth += 1
            try:
                member.pool.run_next()
            finally:
                self.depth -= 1
        elif chance < 0.8:
            member.log.land_one()
        else:
            self.clock.advance(0.3)

    def fault(self) -> None:
        member = self.random.choice(self.members)
        owners = [each for each in self.members if each.worker.assignments and not each.zombie]
        if owners and self.random.random() < 0.8:
            member = self.random.choice(owners)
        chance = self.random.random()
        if chance < 0.3:
            self.crash(member)
        elif chance < 0.6:
            live = [m.log.member for m in self.members if m.log.member in self.group.members]
            if live:
                number = self.random.randrange(self.partitions)
                self.group.reassign({Partition("t", number): self.random.choice(live)})
        elif chance < 0.9:
            member.log.expel()
            member.zombie = True
        elif chance < 0.95:
            self.clock.jump(self.random.choice((-3.0, 3.0)))
        else:
            self.group.generation += 1

    def crash(self, member: Member) -> None:
        """End a process: what was not on the wire is gone, and another takes its place."""
        if self.depth > 0:
            return  # It is up the stack: a process cannot die and go on.
        member.log.die()
        member.log.expel()
        self.members[self.members.index(member)] = self.member()

    def quiet(self) -> bool:
        """Whether nothing is left to do."""
        if self.todo > 0 or any(m.zombie or m.pool.pending for m in self.members):
            return False
        if any(queue for m in self.members for queue in m.log.outbox.values()):
            return False
        names = (self.topic.name, *self.topic.retry_topics)
        for partition in (each for name in names for each in self.broker.partitions_of(name)):
            last = self.broker.read(partition, 0, 10**9)
            found = self.group.committed.get(partition)
            if last and (found is None or (found.offset or 0) <= last[-1].offset):
                return False
        return True


def bounds_broken(worker: Worker, pool: ManualPool) -> list[str]:
    """After a whole turn: what is full is paused, and no more runs than there is room for.

    And nothing is left of what was aside in a lane that has settled everything.
    """
    broken = []
    for each in worker.assignments:
        main = each.lanes[0]
        if main.idle and (main.aside or main._tried or main.aside.wakes_at is not None):
            broken.append(f"{each.partition} is idle, and something is aside")
        if main.watermark._begun and main.watermark._begun[0] in main.watermark._settled:
            broken.append(f"the watermark of {each.partition} stands before what is settled")
        for partition, lane in zip(each.partitions, each.lanes, strict=True):
            if lane.full and partition not in each.paused and not worker.intake.holds_back:
                broken.append(f"{partition} is full and goes on")
        if each.fence.full and each.partition not in each.paused:
            broken.append(f"the fence of {each.partition} is full and it goes on")
    if pool.free < 0:
        broken.append("more slices than slots")
    return broken


def _nothing(topic: str, status: JobStatus) -> bytes:
    return b""
