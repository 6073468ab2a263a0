"""A project with a topic full of jobs, and the ways to work through it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastavro
import psutil
from confluent_kafka import Producer

from processor import Client
from processor.contracts.avro import subject_for
from processor.stack import Stack
from tests.acceptance.project import Process, Project, eventually
from tests.bench.peers import Peer, clean_environment

PARTITIONS = 8
WAYS = Path(__file__).parent / "ways"
SECONDS_MAX = 300.0
FIELDS = [
    {"name": "job_id", "type": "string"},
    {"name": "type", "type": "string"},
    {"name": "idem", "type": "string"},
    {"name": "created", "type": "long"},
    {"name": "payload", "type": "bytes"},
]


def payload_of(number: int) -> dict[str, Any]:
    """A job like those that the peers are measured with: 200 bytes and some."""
    return {
        "job_id": f"job-{number}",
        "type": "copy",
        "idem": f"idem-{number}",
        "created": number,
        "payload": b"x" * 200,
    }


@dataclass(frozen=True, slots=True)
class Measured:
    """What one way took. `rss_mb`: the largest resident memory, and how it was over the run."""

    per_second: float
    cpu_us: float
    rss_mb: float = 0.0
    rss_over_time: tuple[float, ...] = ()


class Site:
    """A project on a running stack."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.servers = stack.kafka.bootstrap_servers
        self._tables = {"kafka": {"bootstrap.servers": self.servers},
                        "registry": {"url": stack.registry.url}}  # fmt: skip
        self._folder = folder
        folder.mkdir()
        self.project = self.new_project("bench")
        self.project.write_settings(ledger={"url": "none"})
        self.project.add_schema("bench.copy", FIELDS)
        for module in ("meter", "handlers"):
            self.project.add_module(module, (WAYS / f"{module}.py").read_text())
        self.schema_path = self.project.folder / "schemas" / "bench.copy.avsc"
        self.schema = fastavro.parse_schema(json.loads(self.schema_path.read_text()))

    def new_project(self, name: str) -> Project:
        """Make another project on the same servers."""
        folder = self._folder / name
        folder.mkdir()
        return Project(folder, self._tables)

    def topic(self, name: str, ordering: str, **more: Any) -> str:
        """Make a topic, which takes over the job type from the one before."""
        for path in (self.project.folder / "topics").glob("*.yaml"):
            path.unlink()
        topic = self.project.add_topic(
            name, ["bench.copy"], partitions=PARTITIONS, ordering=ordering,
            status={"publish": False}, **more,
        )  # fmt: skip
        self.project.provision()
        return topic

    def schema_id(self, topic: str) -> int:
        """The id that values on a topic begin with."""
        with Client(self.project.settings()) as client:
            schema = client.schema_of("bench.copy")
            return client._registry.id_of(subject_for(topic, "bench.copy"), schema.text)

    def encode(self, number: int, schema_id: int) -> bytes:
        """Write a job as any Avro producer does."""
        body = io.BytesIO()
        body.write(b"\0" + schema_id.to_bytes(4, "big"))
        fastavro.schemaless_writer(body, self.schema, payload_of(number))
        return body.getvalue()

    def fill(self, topic: str, jobs: int, keys: int) -> None:
        """Append jobs without headers, as a producer does that knows nothing of this project."""
        schema_id = self.schema_id(topic)
        producer = Producer(
            {"bootstrap.servers": self.servers, "linger.ms": 20, "compression.type": "lz4",
             "partitioner": "murmur2_random", "queue.buffering.max.messages": 1_000_000}
        )  # fmt: skip
        for number in range(jobs):
            key = b"k%d" % (number % keys)
            producer.produce(topic, self.encode(number, schema_id), key=key)
            if number % 1000 == 0:
                producer.poll(0)
        producer.flush()

    def raw(self, topic: str, jobs: int) -> Measured:
        """Work through a topic with the client alone."""
        env = self._environment(topic, jobs, {"PYTHONPATH": str(WAYS)})
        process = subprocess.Popen([sys.executable, str(WAYS / "raw.py")], env=env)
        return _measured(process, Path(env["BENCH_OUT"]))

    def latency(self, topic: str, jobs: int, rate: int, way: str) -> dict[str, float]:
        """How long jobs take that are produced at a steady rate: p50 and p99 in milliseconds."""
        env = self._environment(topic, jobs, {"BENCH_LATENCY": "1"})
        out = Path(env["BENCH_OUT"])
        log: Path | None = None
        if way == "raw loop":
            env["PYTHONPATH"] = str(WAYS)
            process = subprocess.Popen([sys.executable, str(WAYS / "raw.py")], env=env)
            eventually(out.with_suffix(".ready").exists)
        else:
            self.project.write_settings(worker={"group": f"g-{uuid.uuid4().hex[:8]}"})
            mine = {name: value for name, value in env.items() if name.startswith("BENCH_")}
            worker = self.project.start("work", "handlers:timed", "--topic", topic, env=mine)
            worker.wait_for("partition taken over", count=PARTITIONS)
            process, log = worker.process, worker.log
        self._produce_steadily(topic, jobs, rate)
        told = {name: _told(process, out, log)[name] for name in ("p50_ms", "p99_ms")}
        process.terminate()
        process.wait(60)
        return told

    def _produce_steadily(self, topic: str, jobs: int, rate: int) -> None:
        schema_id = self.schema_id(topic)
        # The client's own linger. Without one each job is a request, and the broker falls behind.
        producer = Producer(
            {"bootstrap.servers": self.servers, "linger.ms": 5, "partitioner": "murmur2_random"}
        )
        began = time.monotonic()
        for number in range(jobs):
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
            body = io.BytesIO()
            body.write(b"\0" + schema_id.to_bytes(4, "big"))
            payload = {**payload_of(number), "created": time.monotonic_ns()}
            fastavro.schemaless_writer(body, self.schema, payload)
            producer.produce(topic, body.getvalue(), key=b"k%d" % (number % 997))
            producer.poll(0)
        producer.flush()

    def worked(
        self, topic: str, jobs: int, app: str = "plain", *, env: dict[str, str] | None = None,
        ledger: str = "none", seconds_max: float = SECONDS_MAX, **worker: Any,
    ) -> Measured:  # fmt: skip
        """Work through a topic with a worker of a new group."""
        self.project.write_settings(
            worker={"group": f"g-{uuid.uuid4().hex[:8]}", **worker}, ledger={"url": ledger}
        )
        given = self._environment(topic, jobs, env or {})
        mine = {name: value for name, value in given.items() if name.startswith("BENCH_")}
        worker_process: Process = self.project.start(
            "work", f"handlers:{app}", "--topic", topic, env=mine
        )
        told = _measured(
            worker_process.process, Path(given["BENCH_OUT"]), worker_process.log, seconds_max
        )
        if app == "failing":
            self._order_kept(Path(given["BENCH_OUT"]))
        assert worker_process.end() == 0, worker_process.log.read_text()[-3000:]
        return told

    @staticmethod
    def _order_kept(out: Path) -> None:
        """Wait for the jobs that failed too: no key was out of order."""
        eventually(out.with_suffix(".all").exists, timeout=120)
        assert not out.with_suffix(".disorder").exists()

    def peer(self, peer: Peer, python: Path, topic: str, jobs: int, redis: str | None) -> Measured:
        """Let a peer work through a topic, or through jobs that it has sent to Redis."""
        env = self._environment(topic, jobs, {"PYTHONPATH": str(WAYS), "BENCH_REDIS": redis or ""})
        env = {**clean_environment(), **env}
        log = self.project.folder / f"{peer.script}.log"
        arguments = [str(python), str(WAYS / peer.script)]
        with log.open("wb") as stream:
            if peer.redis:
                subprocess.run([*arguments, "fill"], env=env, stdout=stream, stderr=stream,
                               check=True, timeout=SECONDS_MAX)  # fmt: skip
                arguments.append("work")
            process = subprocess.Popen(
                arguments, env=env, cwd=self.project.folder, stdout=stream, stderr=stream
            )
        measured = _measured(process, Path(env["BENCH_OUT"]), log)
        process.kill()
        process.wait()
        return measured

    def busy(self, jobs: int, processes: int) -> Measured:
        """Work through CPU-bound jobs with some processes, all of which own partitions."""
        topic = self.topic(f"busy-{uuid.uuid4().hex[:8]}", "partition")
        self.project.write_settings(worker={"group": f"g-{uuid.uuid4().hex[:8]}"})
        tally = self.project.folder / f"tally-{uuid.uuid4().hex[:8]}"
        env = {**self._environment(topic, jobs, {}), "BENCH_TALLY": str(tally)}
        mine = {name: value for name, value in env.items() if name.startswith("BENCH_")}
        worker = self.project.start(
            "work", "handlers:busy", "--topic", topic, "--processes", str(processes), env=mine
        )

        def owners() -> int:
            told = [json.loads(line) for line in worker.log.read_text().splitlines()]
            return len({e["worker_id"] for e in told if e["event"] == "partition taken over"})

        def done() -> int:
            return tally.stat().st_size if tally.exists() else 0

        eventually(lambda: owners() == processes, otherwise=worker.log.read_text)
        self.fill(topic, jobs, keys=997)
        # What is measured is the work, not the start.
        first = eventually(lambda: done() > jobs // 10 and done(), otherwise=worker.log.read_text)
        began, cpu = time.monotonic(), _cpu_seconds(worker.pid)
        eventually(lambda: done() >= jobs, timeout=SECONDS_MAX, otherwise=worker.log.read_text)
        seconds, cpu = time.monotonic() - began, _cpu_seconds(worker.pid) - cpu
        assert worker.end() == 0, worker.log.read_text()[-3000:]
        return Measured((jobs - first) / seconds, cpu / (jobs - first) * 1e6)

    def cold(self, topic: str, way: str) -> float:
        """Seconds from starting a process to its second job: it joins, fetches, decodes, runs."""
        env = self._environment(topic, 2, {})
        out = Path(env["BENCH_OUT"])
        self.project.write_settings(worker={"group": f"g-{uuid.uuid4().hex[:8]}"})
        began = time.monotonic()
        if way == "raw loop":
            env["PYTHONPATH"] = str(WAYS)
            process = subprocess.Popen([sys.executable, str(WAYS / "raw.py")], env=env)
        else:
            mine = {name: value for name, value in env.items() if name.startswith("BENCH_")}
            process = self.project.start(
                "work", "handlers:plain", "--topic", topic, env=mine
            ).process
        while not out.exists() and time.monotonic() < began + SECONDS_MAX:
            time.sleep(0.002)
        seconds = time.monotonic() - began
        process.terminate()
        process.wait(60)
        return seconds

    def _environment(self, topic: str, jobs: int, more: dict[str, str]) -> dict[str, str]:
        return {
            **os.environ,
            "BENCH_JOBS": str(jobs),
            "BENCH_ALL": str(jobs),
            "BENCH_OUT": str(self.project.folder / f"out-{uuid.uuid4().hex[:8]}"),
            "BENCH_SERVERS": self.servers,
            "BENCH_TOPIC": topic,
            "BENCH_SCHEMA": str(self.schema_path),
            **more,
        }


def _measured(
    process: subprocess.Popen[bytes], out: Path, log: Path | None = None,
    seconds_max: float = SECONDS_MAX,
) -> Measured:  # fmt: skip
    told = _told(process, out, log, seconds_max)
    if log is None:
        process.wait(SECONDS_MAX)
    return Measured(told["per_second"], told["cpu_us"], told["rss_mb"], tuple(told["rss"]))


def _cpu_seconds(pid: int) -> float:
    """CPU time of a process and its children so far."""
    process = psutil.Process(pid)
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def _told(
    process: subprocess.Popen[bytes], out: Path, log: Path | None = None,
    seconds_max: float = SECONDS_MAX,
) -> dict[str, Any]:  # fmt: skip
    """Wait for what the meter writes; adds the memory that was taken meanwhile, in MB."""
    until = time.monotonic() + seconds_max
    rss: list[float] = []
    while not out.exists():
        with contextlib.suppress(psutil.Error):
            rss.append(psutil.Process(process.pid).memory_info().rss / 1e6)
        gone = process.poll() is not None and not out.exists()
        if gone or time.monotonic() > until:
            process.kill()
            raise AssertionError("it ended early: " + (log.read_text()[-3000:] if log else ""))
        time.sleep(0.05)
    told: dict[str, Any] = json.loads(out.read_text())
    every = max(1, len(rss) // 20)
    return {**told, "rss_mb": max(rss, default=0.0), "rss": [round(each) for each in rss[::every]]}
