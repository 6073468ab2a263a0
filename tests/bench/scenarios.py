"""What is measured. Each scenario runs its ways in turn, some rounds, and gives a row for each."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg
from confluent_kafka import Producer

from processor import Client, NewJob
from processor.engine.ports import Owner
from processor.engine.submit import Accepted
from processor.model import Effect, Position
from processor.sinks.postgres import PostgresLedger
from processor.sinks.sql import COLUMNS, done_row
from tests.acceptance import order_workload
from tests.bench.peers import Peer
from tests.bench.site import Measured, Site, payload_of
from tests.bench.ways.meter import fails

PACED_PER_SECOND = 3_500  # What 8 threads do of jobs that sleep for 2 ms, and a little less.
Ways = Mapping[str, Callable[[], Measured]]


@dataclass(frozen=True, slots=True)
class Row:
    """One way of one scenario: medians over its rounds, and every round's rate."""

    scenario: str
    way: str
    per_second: float
    cpu_us: float
    rounds: tuple[float, ...]
    rss_mb: float = 0.0


def measured(scenario: str, ways: Ways, rounds: int) -> list[Row]:
    """Run every way in each round, in turn."""
    found: dict[str, list[Measured]] = {}
    for number in range(rounds):
        for name, way in ways.items():
            told = way()
            found.setdefault(name, []).append(told)
            line = f"{scenario}, round {number + 1}: {name} {told.per_second:,.0f} jobs/s"
            print(line, file=sys.stderr, flush=True)
    return [
        Row(
            scenario,
            name,
            statistics.median(each.per_second for each in told),
            statistics.median(each.cpu_us for each in told),
            tuple(round(each.per_second) for each in told),
            round(max(each.rss_mb for each in told)),
        )
        for name, told in found.items()
    ]


def no_op(site: Site, jobs: int, rounds: int, peers: Mapping[Peer, Path]) -> list[Row]:
    """Jobs that do nothing: what the engine costs, beside the raw loop and peers on one topic."""
    rows = []
    for ordering in ("partition", "key", "none"):
        topic = site.topic(f"noop-{ordering}", ordering)
        site.fill(topic, jobs, keys=997)
        ways: dict[str, Callable[[], Measured]] = {
            "raw loop": lambda topic=topic: site.raw(topic, jobs),  # type: ignore[misc]
            "processor": lambda topic=topic: site.worked(topic, jobs),  # type: ignore[misc]
            "processor, coroutine": lambda topic=topic: site.worked(topic, jobs // 8, "coroutine"),  # type: ignore[misc]
        }
        if ordering == "partition":
            ways["processor, batch"] = lambda topic=topic: site.worked(topic, jobs, "many")  # type: ignore[misc]
            for peer, python in peers.items():
                if not peer.redis and not peer.slow:
                    ways[peer.name] = partial(site.peer, peer, python, topic, jobs, None)
        rows += measured(f"no-op, {ordering}", ways, rounds)
    return rows


def slow_peers(
    site: Site, jobs: int, rounds: int, peers: Mapping[Peer, Path], redis: str | None
) -> list[Row]:
    """Peers that take a millisecond a job and less: a share of the jobs is enough to measure."""
    topic = site.topic("slow-peers", "partition")
    site.fill(topic, jobs, keys=997)
    ways: dict[str, Callable[[], Measured]] = {
        "raw loop": lambda: site.raw(topic, jobs),
        "processor": lambda: site.worked(topic, jobs),
    }
    for peer, python in peers.items():
        if peer.slow or (peer.redis and redis):
            ways[peer.name] = partial(site.peer, peer, python, topic, jobs, redis)
    return measured("no-op, few jobs", ways, rounds)


def processes(site: Site, jobs: int, rounds: int) -> list[Row]:
    """CPU-bound jobs of some 300 microseconds, by one process and by two."""
    ways: Ways = {
        "1 process": lambda: site.busy(jobs, 1),
        "2 processes": lambda: site.busy(jobs, 2),
    }
    return measured("CPU-bound, partition", ways, rounds)


def backlog(site: Site, jobs: int, soak_seconds: float) -> list[Row]:
    """Memory while a large backlog is worked off: at full speed, and slowly for a while."""
    topic = site.topic("backlog", "partition")
    site.fill(topic, jobs, keys=9973)
    slow = min(jobs, int(soak_seconds * PACED_PER_SECOND))
    ways: Ways = {
        "at full speed": lambda: site.worked(topic, jobs),
        "2 ms a job": lambda: site.worked(
            topic, slow, "paced", seconds_max=10 * soak_seconds + 60, concurrency=8
        ),
    }
    rows = []
    for name, way in ways.items():
        told = way()
        print(f"backlog of {jobs}, {name}: RSS in MB over the run {told.rss_over_time}",
              file=sys.stderr, flush=True)  # fmt: skip
        rows.append(Row("backlog", name, told.per_second, told.cpu_us, (round(told.per_second),),
                        round(told.rss_mb)))  # fmt: skip
    return rows


def cold_starts(site: Site, rounds: int) -> dict[str, float]:
    """From starting a process to its second job, in seconds: medians."""
    topic = site.topic("cold", "partition")
    site.fill(topic, 2, keys=1)
    found: dict[str, list[float]] = {"raw loop": [], "processor": []}
    for _ in range(rounds):
        for way, seconds in found.items():
            seconds.append(site.cold(topic, way))
    return {way: round(statistics.median(seconds), 2) for way, seconds in found.items()}


def with_headers(site: Site, jobs: int, rounds: int) -> list[Row]:
    """The same, with the five headers that `Client.submit` writes; the raw loop reads none."""
    topic = site.topic("headers", "partition")
    with Client(site.project.settings()) as client:
        new = (NewJob("bench.copy", payload_of(n), key=f"k{n % 997}") for n in range(jobs))
        assert all(isinstance(each, Accepted) for each in client.submit_many(new))
    ways: Ways = {
        "raw loop": lambda: site.raw(topic, jobs),
        "processor": lambda: site.worked(topic, jobs),
    }
    return measured("no-op with headers, partition", ways, rounds)


def latencies(site: Site, seconds: float, rounds: int) -> dict[str, dict[str, float]]:
    """From produced to handled at 2,000 jobs a second, both ways in turn: medians."""
    found: dict[str, list[dict[str, float]]] = {"raw loop": [], "processor": []}
    # A young broker compiles what it is asked to do: whoever comes first would pay for it.
    site.latency(site.topic("latency-warm-up", "key"), int(2000 * seconds), 2000, "raw loop")
    for number in range(rounds):
        for way, told in found.items():
            topic = site.topic(f"latency-{way[:3]}-{number}", "key")
            told.append(site.latency(topic, int(2000 * seconds), 2000, way))
            print(f"latency at 2,000 jobs/s: {way} {told[-1]}", file=sys.stderr, flush=True)
    return {
        way: {name: round(statistics.median(each[name] for each in told), 2) for name in told[0]}
        for way, told in found.items()
    }


def coroutines(site: Site, jobs: int, rounds: int) -> list[Row]:
    """A coroutine of 20 ms, 1,000 keys, 200 in flight: 10,000 jobs/s are ideal."""
    topic = site.topic("async", "key")
    site.fill(topic, jobs, keys=1000)
    ways: Ways = {
        "processor": lambda: site.worked(topic, jobs, "waiting", coroutines_max=200),
    }
    return measured("20 ms coroutine, key", ways, rounds)


def failing(site: Site, jobs: int, rounds: int) -> list[Row]:
    """One job in a hundred fails once: how fast are the jobs of keys none of whose jobs fails?"""
    keys = max(10, jobs // 20)
    touched = {number % keys for number in range(jobs) if fails(number)}
    others = sum(number % keys not in touched for number in range(jobs))
    delays = {"delays": ["100ms", "1s", "5s"], "jitter": 0}

    def run(number: list[int], fail: str) -> Measured:
        number[0] += 1  # Groups share a topic's tiers: each run has a topic of its own.
        topic = site.topic(f"fail-{fail}-{number[0]}", "partition", retry=delays)
        site.fill(topic, jobs, keys)
        env = {"BENCH_KEYS": str(keys), "BENCH_FAILS": fail, "BENCH_ALL": str(jobs)}
        return site.worked(topic, others, "failing", env=env)

    count = [0]
    ways: Ways = {"none fails": lambda: run(count, "no"), "1 % fails": lambda: run(count, "yes")}
    return measured("other keys' jobs, partition", ways, rounds)


def order_under_failure(site: Site, jobs: int) -> dict[str, dict[str, float]]:
    """The workload of tests/acceptance/order_workload.py, also with a worker killed half way."""
    found = {}
    for name, kill in (("undisturbed", False), ("one worker killed", True)):
        project = site.new_project(f"order-{kill}")
        told = order_workload.worked(project, jobs=jobs, kill=kill)
        found[name] = {
            "seconds": round(told.seconds, 1), "lost": told.lost, "doubled": len(told.doubled),
            "keys_out_of_order": len(told.out_of_order), "dead": len(told.dead),
        }  # fmt: skip
        print(f"order under failure, {name}: {found[name]}", file=sys.stderr, flush=True)
    return found


def submission(site: Site, jobs: int, rounds: int) -> list[Row]:
    """`Client.submit_many` beside a loop that encodes and produces with the same headers."""
    topic = site.topic("submit", "key")
    schema_id = site.schema_id(topic)
    settings = {
        "bootstrap.servers": site.servers, "enable.idempotence": True, "acks": "all",
        "partitioner": "murmur2_random", "compression.type": "lz4", "linger.ms": 5,
        "queue.buffering.max.messages": 100_000,
    }  # fmt: skip

    def raw() -> None:
        producer, answered = Producer(settings), [0]

        def count(*_: object) -> None:
            answered[0] += 1

        for number in range(jobs):
            headers = [
                ("ce_id", b"%036d" % number), ("ce_type", b"bench.copy"),
                ("ce_source", b"processor"), ("ce_time", b"2026-01-01T00:00:00.000+00:00"),
                ("ce_specversion", b"1.0"),
            ]  # fmt: skip
            value, key = site.encode(number, schema_id), b"k%d" % (number % 997)
            while True:
                try:
                    producer.produce(topic, value, key, headers=headers, on_delivery=count)  # type: ignore[arg-type]
                    break
                except BufferError:
                    producer.poll(0.01)
            if number % 1000 == 0:
                producer.poll(0)
        producer.flush()
        assert answered[0] == jobs

    def ours() -> None:
        new = (NewJob("bench.copy", payload_of(n), key=f"k{n % 997}") for n in range(jobs))
        with Client(site.project.settings()) as client:
            assert all(isinstance(each, Accepted) for each in client.submit_many(new))

    def timed(call: Callable[[], None]) -> Measured:
        began, cpu = time.perf_counter(), time.process_time()
        call()
        seconds = time.perf_counter() - began
        return Measured(jobs / seconds, (time.process_time() - cpu) / jobs * 1e6)

    ways: Ways = {"raw loop": lambda: timed(raw), "processor": lambda: timed(ours)}
    return measured("submit", ways, rounds)


def ledgers(site: Site, jobs: int, rounds: int, url: str) -> list[Row]:
    """What the ledger costs, beside plain inserts of the same rows: 100 in a statement."""
    topic = site.topic("ledger", "partition")
    site.fill(topic, jobs, keys=997)
    PostgresLedger(url).close()
    count = [0]

    def sqlite() -> Measured:
        count[0] += 1
        return site.worked(topic, jobs, ledger=f"sqlite:///.processor/bench-{count[0]}.db")

    def postgres() -> Measured:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("TRUNCATE processor_ledger, processor_owner")
        return site.worked(topic, jobs, ledger=url)

    ways: Ways = {
        "no ledger": lambda: site.worked(topic, jobs),
        "SQLite": sqlite,
        "PostgreSQL": postgres,
        "plain inserts": lambda: inserted(url, topic, jobs),
    }
    return measured("ledger, partition", ways, rounds)


def inserted(url: str, topic: str, jobs: int) -> Measured:
    """Insert rows like the ledger's, each statement a transaction."""
    owner = Owner("g", topic, 0, 1)
    rows = [
        done_row(owner, Effect(f"job-{n}", "bench.copy", f"job:job-{n}", Position(topic, 0, n), 1,
                               f"k{n % 997}", None), 0.0)
        for n in range(jobs)
    ]  # fmt: skip
    places = "(" + ", ".join(["%s"] * len(rows[0])) + ")"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("TRUNCATE processor_ledger, processor_owner")
        began, cpu = time.perf_counter(), time.process_time()
        for start in range(0, len(rows), 100):
            some = rows[start : start + 100]
            connection.execute(
                f"INSERT INTO processor_ledger ({COLUMNS}) VALUES "
                + ", ".join([places] * len(some)),
                [value for row in some for value in row],
            )  # type: ignore[call-overload]
        seconds = time.perf_counter() - began
        return Measured(jobs / seconds, (time.process_time() - cpu) / jobs * 1e6)
