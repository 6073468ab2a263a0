"""The demo's story: a stack, jobs, two workers, one killed in the middle, and an end to judge."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processor.adapters.objects.stores import Objects
from processor.adapters.registry import Registry
from processor.adapters.topic_admin import TopicAdmin
from processor.client import Client, new_job_id
from processor.contracts.builtin import schema_directories, topic_directories
from processor.contracts.schemas import SchemaSet
from processor.contracts.subjects import declared_subjects
from processor.contracts.topics import Topic, TopicSet
from processor.demo.sources import ROOT, Wish, flaky_server, wishes
from processor.demo.verdict import Order, Verdict, judge
from processor.engine.submit import NewJob, Refused
from processor.errors import ProcessorError
from processor.settings import Settings, load_settings
from processor.stack import Stack
from processor.status import StatusReader

WORKERS = 2
BUCKET = "s3://processor-claims/demo"
OUTCOMES_SECONDS = 180.0

# The built-in topic with delays that a spectator can wait for.
TOPIC = {
    "name": "copy",
    "jobs": ["object.copy", "object.checksum"],
    "partitions": 12,
    "retry": {"delays": ["300ms", "1s", "2s"]},
}


@dataclass(frozen=True, slots=True)
class Show:
    """What the story tells its spectator while it goes on."""

    say: Callable[[str], None]
    outcome: Callable[[dict[str, Any], int], None]  # (status, jobs in all)


@dataclass(frozen=True, slots=True)
class Ending:
    """How it ended."""

    verdict: Verdict
    seconds: float


def play(folder: Path, show: Show, *, kill: bool = True) -> Ending:
    """Run the whole story in a folder of its own; what was there of an earlier run is deleted."""
    started = time.monotonic()
    with ExitStack() as scene:
        stack = Stack(folder / "stack", parts=("kafka", "registry", "s3"), ports="free")
        stack.reset()
        shutil.rmtree(folder / "work", ignore_errors=True)
        scene.callback(stack.reset)
        show.say("starting Kafka, the schema registry and S3")
        stack.start()
        settings = _settings(folder / "work", stack)
        topic = _provision(settings)
        server = scene.enter_context(flaky_server())
        todo = wishes(server)
        show.say(
            f"{len(todo)} files to copy, by {WORKERS} workers on {topic.partitions} partitions"
        )
        outcomes = StatusReader(settings, topic).from_now()
        workers = scene.enter_context(_workers(folder / "work"))
        orders = _submit(settings, todo)
        show.say(f"{len(orders)} jobs are on the log")
        _watch(outcomes, orders, workers, show, kill=kill)
        workers.stop()
        show.say("comparing every object with its source")
        verdict = judge(
            orders,
            settings=settings,
            topic=topic,
            objects=Objects(settings),
            database=folder / "work" / ".processor" / "ledger.db",
        )
    return Ending(verdict, time.monotonic() - started)


def _settings(folder: Path, stack: Stack) -> Settings:
    """Write the demo's own project: settings and topic; the schemas are the built-in ones."""
    (folder / "topics").mkdir(parents=True)
    (folder / "topics" / "copy.yaml").write_text(json.dumps(TOPIC))
    tables = stack.settings_path.read_text()
    # A killed worker is missed after 6 seconds instead of 45.
    quick = '"session.timeout.ms" = 6000\n"heartbeat.interval.ms" = 1000\n'
    tables = tables.replace("[kafka]\n", f"[kafka]\n{quick}")
    top = f'topics_dir = "{(folder / "topics").resolve()}"\n'
    more = '[worker]\ngroup = "demo"\n[log]\nformat = "json"\n'
    more += f"[files]\nfolders = {json.dumps([str(ROOT)])}\n"
    more += '[http]\nnetworks = ["127.0.0.0/8"]\n'  # Where the sources' server is.
    (folder / "processor.toml").write_text(f"{top}{tables}\n{more}")
    return load_settings(folder=folder, environ={})


def _provision(settings: Settings) -> Topic:
    schemas = SchemaSet.load(schema_directories(settings))
    topics = TopicSet.load(topic_directories(settings), schemas)
    topic = topics.get("copy")
    admin = TopicAdmin(settings.kafka)
    for spec in topic.all_topics(brokers=1):
        admin.create(spec)
    registry = Registry(settings.registry)
    for subject, schema in declared_subjects(topics, schemas):
        registry.register(subject, schema.text)
    return topic


def _submit(settings: Settings, todo: Sequence[Wish]) -> list[Order]:
    orders = [Order(wish, f"{BUCKET}/{wish.name}", new_job_id()) for wish in todo]
    jobs = [
        NewJob(
            "object.copy",
            {"source": {"uri": order.wish.uri}, "target": order.target},
            key=order.wish.key,
            job_id=order.job_id,
        )
        for order in orders
    ]
    with Client(settings, source="processor-demo") as client:
        for answer in client.submit_many(jobs):
            if isinstance(answer, Refused):
                raise ProcessorError(f"a job was refused: {answer.message}", hint=answer.hint)
    return orders


def _watch(
    outcomes: StatusReader, orders: Sequence[Order], workers: Workers, show: Show, *, kill: bool
) -> None:
    """Show each outcome as it comes; in the middle, kill a worker and start another."""
    until = time.monotonic() + OUTCOMES_SECONDS
    ids = (order.job_id for order in orders)
    told = outcomes.wait_for(ids, until=until, meanwhile=workers.check)
    for count, status in enumerate(told, start=1):
        show.outcome(status, len(orders))
        if kill and count == len(orders) // 2:
            pid = workers.kill_one()
            show.say(f"worker {pid} was killed with SIGKILL; another takes its place")


class Workers:
    """The demo's worker processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[subprocess.Popen[bytes]] = []
        self._started = 0
        for _ in range(WORKERS):
            self._start()

    def _start(self) -> None:
        self._started += 1
        with (self._folder / f"worker-{self._started}.log").open("wb") as log:
            self._running.append(
                subprocess.Popen(
                    [sys.executable, "-m", "processor", "work", "processor.demo.app:app"],
                    cwd=self._folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )

    def kill_one(self) -> int:
        """Kill the first worker where it stands and start another; returns its process id."""
        process = self._running.pop(0)
        process.send_signal(signal.SIGKILL)
        process.wait()
        self._start()
        return process.pid

    def check(self) -> None:
        """Raise ProcessorError when a worker has ended by itself."""
        for process in self._running:
            if process.poll() is not None:
                raise ProcessorError(
                    f"a worker ended with code {process.returncode}",
                    hint=f"see the logs in {self._folder}",
                )

    def stop(self) -> None:
        """Stop all cleanly. Twice does no harm."""
        for process in self._running:
            process.terminate()
        for process in self._running:
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()


@contextmanager
def _workers(folder: Path) -> Iterator[Workers]:
    workers = Workers(folder)
    try:
        yield workers
    finally:
        workers.stop()
