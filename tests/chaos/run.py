"""One run of chaos: brokers, workers, jobs, and what is done to them, from one seed."""

from __future__ import annotations

import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException

from processor import Client, NewJob
from processor.engine.submit import Accepted
from processor.errors import OutageError
from processor.stack import Stack
from tests.acceptance.project import Process, Project, eventually
from tests.chaos import evidence
from tests.chaos.checker import ATTEMPTS_MAX, Job, Verdict, judge, must_die

PARTITIONS = 12
SESSION_SECONDS = 6.0
PROTOCOLS: dict[str, dict[str, Any]] = {
    "cooperative-sticky": {"partition.assignment.strategy": "cooperative-sticky"},
    "range": {"partition.assignment.strategy": "range"},
    "consumer": {"group.protocol": "consumer"},
}
HANDLERS = Path(__file__).with_name("handlers.py")


@dataclass(frozen=True, slots=True)
class Plan:
    """How large a run is. `kills` and `zombies` are for each worker; `jobs` come over `seconds`."""

    jobs: int
    keys: int
    workers: int
    kills: int
    zombies: int
    terms: int
    broker_kills: int
    rolling: bool
    seconds: float


SHORT = Plan(jobs=6_000, keys=200, workers=2, kills=1, zombies=1, terms=1, broker_kills=1,
             rolling=False, seconds=16)  # fmt: skip
FULL = Plan(jobs=100_000, keys=2_000, workers=4, kills=3, zombies=1, terms=1, broker_kills=2,
            rolling=True, seconds=90)  # fmt: skip


@dataclass
class Told:
    """What came of one run."""

    protocol: str
    seed: int
    submitted: int
    verdict: Verdict
    faults: Counter[str]
    lag_zero_seconds: float | None  # After the last fault; None: it was never zero in time.
    seconds: float
    notes: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return self.verdict.good and self.lag_zero_seconds is not None


class Run:
    """Workers and brokers of one run, and the hands that hurt them."""

    handlers = HANDLERS
    job_types = ("chaos.count",)
    lag_seconds_max = 60.0  # After the last fault.

    def __init__(self, stack: Stack, folder: Path, protocol: str, seed: int, plan: Plan) -> None:
        self.plan = plan
        self.seed = seed
        self.random = random.Random(f"{seed}-{protocol}")
        self.stack = stack
        self.protocol = protocol
        kafka = {"bootstrap.servers": stack.kafka.bootstrap_servers, **PROTOCOLS[protocol]}
        if protocol != "consumer":  # There the brokers decide.
            kafka |= {"session.timeout.ms": int(SESSION_SECONDS * 1000),
                      "heartbeat.interval.ms": 1000}  # fmt: skip
        folder.mkdir()
        tables = {"kafka": kafka, "registry": {"url": stack.registry.url}, **self.settings()}
        self.project = Project(folder, tables)
        for job_type in self.job_types:
            self.project.add_schema(
                job_type, [{"name": "key", "type": "string"}, {"name": "seq", "type": "long"}]
            )
        self.topic = self.project.add_topic(
            "chaos", self.job_types, partitions=PARTITIONS, status={"publish": False},
            retry={"delays": ["100ms", "500ms", "2s"], "jitter": 0.1, "attempts": ATTEMPTS_MAX},
        )  # fmt: skip
        self.project.add_module("chaos_handlers", self.handlers.read_text())
        self.project.provision()
        self.workers: dict[int, Process] = {}
        self.stopped: dict[int, float] = {}  # Slot -> when it was stopped (monotonic seconds).
        self.faults: Counter[str] = Counter()
        self.accepted: list[Job] = []
        self.unanswered: list[Job] = []

    def settings(self) -> dict[str, dict[str, Any]]:
        """More tables of processor.toml."""
        return {}

    def environment(self) -> dict[str, str]:
        """What a worker's handlers are told."""
        return {"CHAOS_SEED": str(self.seed)}

    # Jobs.

    def feed(self) -> None:
        """Submit all jobs, evenly over the run; each key's in order."""
        began, plan = time.monotonic(), self.plan
        step = 200
        with Client(self.project.settings()) as client:
            for start in range(0, plan.jobs, step):
                due = began + plan.seconds * start / plan.jobs
                time.sleep(max(0.0, due - time.monotonic()))
                jobs = [Job(f"k{i % plan.keys:04d}", i // plan.keys)
                        for i in range(start, min(start + step, plan.jobs))]  # fmt: skip
                self._submit(client, jobs)

    def _submit(self, client: Client, jobs: list[Job]) -> None:
        types = self.job_types  # A key's jobs are all of one type.
        new = (NewJob(types[int(each.key[1:]) % len(types)], each._asdict(), key=each.key)
               for each in jobs)  # fmt: skip
        answers: list[Any] = []
        try:
            answers += client.submit_many(new)
        except (OutageError, KafkaException) as fault:
            say(f"submission: {fault}")
        for at, job in enumerate(jobs):
            known = at < len(answers) and isinstance(answers[at], Accepted)
            (self.accepted if known else self.unanswered).append(job)

    # Workers.

    def start(self, slot: int) -> None:
        worker = self.project.start(
            "work", "chaos_handlers:app", "--topic", self.topic, env=self.environment()
        )
        self.workers[slot] = worker

    def kill(self, slot: int) -> None:
        self.workers[slot].end(signal.SIGKILL)
        self.faults["sigkill"] += 1
        self.start(slot)

    def term(self, slot: int) -> None:
        self.leave(slot)
        self.faults["sigterm"] += 1
        self.start(slot)

    def leave(self, slot: int) -> None:
        """End a worker as a deployment does."""
        worker = self.serving(slot)
        del self.workers[slot]
        code = worker.end(signal.SIGTERM, timeout=60)
        assert code == 0, f"exit {code}: {worker.log.read_text()[-3000:]}"

    def serving(self, slot: int) -> Process:
        """A worker that has begun: before that a signal ends the interpreter.

        One that found the ledger away at its start has ended, and is started again as a deployment
        does.
        """
        while True:
            worker = self.workers[slot]
            ended = eventually(
                lambda w=worker: (
                    w.process.poll() or ("worker starting" in w.log.read_text() and -1)
                ),
                otherwise=worker.log.read_text,
            )
            if ended == -1:
                return worker
            told = worker.log.read_text()
            assert "the ledger" in told and "does not answer" in told, told
            for asleep in list(self.stopped):  # One that was stopped in a commit locks SQLite.
                self.wake(asleep)
            self.start(slot)

    def stop(self, slot: int) -> None:
        """Stop it as a long pause would: its session ends, and it does not know."""
        self.workers[slot].process.send_signal(signal.SIGSTOP)
        self.stopped[slot] = time.monotonic()
        self.faults["zombie"] += 1

    def wake(self, slot: int) -> None:
        if slot not in self.stopped:
            return  # It was woken for another's sake.
        asleep = time.monotonic() - self.stopped.pop(slot)
        time.sleep(max(0.0, SESSION_SECONDS + 2.0 - asleep))
        self.workers[slot].process.send_signal(signal.SIGCONT)

    # Brokers.

    def kill_broker(self) -> None:
        broker = self.random.choice(self.stack.kafka.brokers)
        broker.stop(kill=True)
        self.faults["broker kill"] += 1
        time.sleep(2.0)
        broker.start()

    def roll(self) -> None:
        for broker in self.stack.kafka.brokers:
            broker.stop()
            broker.start()
            self.faults["broker restart"] += 1
            time.sleep(1.0)

    # The run.

    def hurts(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """What is done, in an order that the seed chooses."""
        plan, slots = self.plan, range(self.plan.workers)
        todo: list[tuple[str, Callable[[], None]]] = []
        for slot in slots:
            todo += [(f"kill {slot}", lambda s=slot: self.kill(s))] * plan.kills
            todo += [(f"term {slot}", lambda s=slot: self.term(s))] * plan.terms
        todo += [("kill a broker", self.kill_broker)] * plan.broker_kills
        todo += [("roll the brokers", self.roll)] * plan.rolling
        self.random.shuffle(todo)
        asleep = [slot for slot in slots for _ in range(plan.zombies)]
        self.random.shuffle(asleep)
        every = max(1, len(todo) // max(1, len(asleep)))
        for number, each in enumerate(todo):
            if number % every == 0 and asleep:
                yield from self._zombie(asleep.pop(), todo[number])
            else:
                yield each
        for slot in asleep:
            yield from self._zombie(slot, None)

    def _zombie(
        self, slot: int, meanwhile: tuple[str, Callable[[], None]] | None
    ) -> Iterator[tuple[str, Callable[[], None]]]:
        """Stop a worker; while it is stopped something else goes wrong, unless it is its own."""
        yield f"stop {slot}", lambda: self.stop(slot)
        own = meanwhile is not None and meanwhile[0].endswith(f" {slot}")
        if meanwhile is not None and not own:
            yield meanwhile
        yield f"wake {slot}", lambda: self.wake(slot)
        if meanwhile is not None and own:
            yield meanwhile

    def scale(self, count: int) -> None:
        for slot in range(count):
            if slot not in self.workers:
                self.start(slot)
        for slot in [each for each in self.workers if each >= count]:
            self.leave(slot)
        self.faults["scale"] += 1

    def go(self) -> Told:
        began = time.monotonic()
        feeding = threading.Thread(target=self.feed, daemon=True)
        self.start(0)
        self.workers[0].wait_for("partition taken over", timeout=60)
        feeding.start()
        self.scale(self.plan.workers)
        for name, hurt in self.hurts():
            say(f"{time.monotonic() - began:6.1f} s  {name}")
            hurt()
            time.sleep(self.random.uniform(0.2, 2.0))
        self.scale(1)
        last_fault = time.monotonic()
        feeding.join()
        zero = self._wait_for_no_lag(time.monotonic() + self.lag_seconds_max)
        # Jobs may still come after the last fault: their time is counted too.
        lag_zero_seconds = None if zero is None else zero - last_fault
        for slot in list(self.workers):
            self.leave(slot)
        verdict = self.judged()
        told = Told(self.protocol, self.seed, len(self.accepted), verdict, self.faults,
                    lag_zero_seconds, time.monotonic() - began)  # fmt: skip
        told.notes += [f"{len(self.unanswered)} submissions unanswered"] * bool(self.unanswered)
        return told

    def _wait_for_no_lag(self, until: float) -> float | None:
        servers, group = self.stack.kafka.bootstrap_servers, self.project.name
        topics = [self.topic, *(f"{self.topic}.retry.{n}" for n in (1, 2, 3))]
        while time.monotonic() < until:
            if evidence.lag(servers, group, topics, PARTITIONS) == 0:
                return time.monotonic()
            time.sleep(0.3)
        return None

    def judged(self) -> Verdict:
        database = self.project.folder / ".processor" / "ledger.db"
        servers = self.stack.kafka.bootstrap_servers
        return judge(
            accepted=self.accepted,
            unanswered=self.unanswered,
            effects=evidence.effects(database),
            letters=evidence.letters(servers, f"{self.topic}.dlt", PARTITIONS),
            dies=lambda job: must_die(self.seed, job),
        )

    def end(self) -> None:
        """End what still runs, whatever happened."""
        for worker in self.workers.values():
            if worker.process.poll() is None:
                worker.process.kill()
                worker.process.wait()


def chaos(protocols: list[str], seed: int, plan: Plan) -> Iterator[Told]:
    """Run each protocol on one cluster of three brokers."""
    folder = Path(tempfile.mkdtemp(prefix="processor-chaos-"))
    stack = Stack(folder / "stack", ["kafka", "registry"], brokers=3)
    try:
        stack.start("kafka", "registry")
        for protocol in protocols:
            say(f"{protocol}, seed {seed}, in {folder}")
            run = Run(stack, folder / protocol, protocol, seed, plan)
            try:
                yield run.go()
            finally:
                run.end()
    finally:
        stack.stop(kill=True)


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
