"""What is measured. Each scenario runs its ways in turn, some rounds, and gives a row for each."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psycopg
from confluent_kafka import Producer

from processor import Client, NewJob
from processor.engine.ports import Owner
from processor.engine.submit import Accepted
from processor.model import Effect, Position
from processor.sinks.postgres import PostgresLedger
from processor.sinks.sql import COLUMNS, done_row
from tests.bench.site import Measured, Site, payload_of
from tests.bench.ways.meter import fails

Ways = Mapping[str, Callable[[], Measured]]


@dataclass(frozen=True, slots=True)
class Row:
    """One way of one scenario: medians over its rounds, and every round's rate."""

    scenario: str
    way: str
    per_second: float
    cpu_us: float
    rounds: tuple[float, ...]


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
        )
        for name, told in found.items()
    ]


def no_op(site: Site, jobs: int, rounds: int) -> list[Row]:
    """Jobs that do nothing: what the engine itself costs, beside the raw loop on the same topic."""
    rows = []
    for ordering in ("partition", "key", "none"):
        topic = site.topic(f"noop-{ordering}", ordering)
        site.fill(topic, jobs, keys=997)
        ways: dict[str, Callable[[], Measured]] = {
            "raw loop": lambda topic=topic: site.raw(topic, jobs),  # type: ignore[misc]
            "processor": lambda topic=topic: site.worked(topic, jobs),  # type: ignore[misc]
        }
        if ordering == "partition":
            ways["processor, batch"] = lambda topic=topic: site.worked(topic, jobs, "many")  # type: ignore[misc]
        rows += measured(f"no-op, {ordering}", ways, rounds)
    return rows


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


def latencies(site: Site, seconds: float) -> dict[str, dict[str, float]]:
    """From produced to handled at 2,000 jobs a second, both ways in turn."""
    found = {}
    for way in ("raw loop", "processor"):
        topic = site.topic(f"latency-{way[:3]}", "key")
        found[way] = site.latency(topic, int(2000 * seconds), 2000, way)
        print(f"latency at 2,000 jobs/s: {way} {found[way]}", file=sys.stderr, flush=True)
    return found


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
