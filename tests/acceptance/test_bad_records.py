"""Records that are no jobs, and handlers that fail: each dies whole, and its lane goes on."""

from __future__ import annotations

import base64
import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from processor.adapters.objects.stores import Objects
from processor.adapters.reader import TopicReader
from processor.adapters.registry import Registry
from processor.contracts.avro import Encoder
from processor.contracts.claims import Claim, ClaimStore, claim_to_header
from processor.contracts.schemas import SchemaSet
from processor.contracts.topics import Topic, TopicSet
from processor.lag import PartitionLag, lag_of
from processor.model import Partition, Record
from processor.status import StatusReader
from tests.acceptance.gate import Gate
from tests.acceptance.project import Process, Project, eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.broker, pytest.mark.registry]

ATTEMPTS = 3  # Two delays, so three runs.
RETRY = {"delays": ["100ms", "200ms"], "jitter": 0}
FIELDS = [{"name": "to", "type": "string"}, {"name": "act", "type": "string"}]
MODULE = """
import asyncio, json, sys, threading, time
from processor import App, Reject, Retry

app = App()

def ran(payload, ctx):
    with open("runs.log", "a") as log:
        line = {"to": payload["to"], "attempt": ctx.attempt, "at": time.time()}
        log.write(json.dumps(line) + chr(10))

class Hopeless(Exception):
    pass

@app.job("mail.send", permanent=[Hopeless])
def send(payload: dict, ctx) -> object:
    ran(payload, ctx)
    match payload["act"]:
        case "send":
            return {"sent": payload["to"]}
        case "reject":
            raise Reject("there is no such mailbox")
        case "fail":
            raise ConnectionError("the mail server is away")
        case "fail twice" if ctx.attempt < 3:
            raise ConnectionError("the mail server is away")
        case "ask for time" if ctx.attempt == 1:
            raise Retry("greylisted", after=1.2)
        case "hopeless":
            raise Hopeless("the address is malformed")
        case "exit":
            sys.exit(7)
        case "interrupt":
            raise KeyboardInterrupt
        case "odd result":
            return {"sent": {1, 2}}
        case "no number":
            return {"sent": float("nan")}
        case "long result":
            return "x" * 2_000_000
        case "long complaint":
            raise ConnectionError("y" * 2_000_000)
        case "bad text":
            raise ConnectionError("a lone \\ud800 surrogate")
    return None

@app.job("mail.slow", timeout="300ms")
def slow(payload: dict, ctx) -> None:
    ran(payload, ctx)
    if payload["act"] == "ignore":
        threading.Event().wait(600)
    while True:
        time.sleep(0.01)
        ctx.raise_if_cancelled()

@app.job("mail.poll", timeout="300ms")
async def poll(payload: dict, ctx) -> str:
    ran(payload, ctx)
    if payload["act"] == "exit":
        sys.exit(7)
    if payload["act"] == "sleep":
        await asyncio.sleep(600)
    return "polled"
"""


@dataclass(frozen=True)
class Sent:
    """What a test puts on the main topic, byte for byte."""

    value: bytes | None
    headers: list[tuple[str, bytes]] = field(default_factory=list)
    key: bytes | None = b"a key \xff"


@dataclass(frozen=True)
class Bad(Sent):
    """A record that must die at once, and what its letter must say."""

    says: str = ""
    error_class: str = "ContractError"


class Bench:
    """A project with one topic of one partition, a worker, and a producer of raw bytes."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.jobs = ["mail.send", "mail.slow", "mail.poll"]
        for job in [*self.jobs, "mail.stray"]:
            project.add_schema(job, FIELDS)
        project.add_module("handlers", MODULE)
        self.topic = project.add_topic("mail", self.jobs, partitions=1, retry=RETRY)
        project.provision()
        self.settings = project.settings()
        self.claims = ClaimStore(Objects(self.settings), str(self.settings.claims.store))
        self._schemas = SchemaSet.load([project.folder / "schemas"])
        self._registry = Registry(self.settings.registry)
        self._encoders: dict[str, Encoder] = {}
        self._producer = Producer({
            "bootstrap.servers": self.settings.kafka["bootstrap.servers"],
            "message.max.bytes": 4_000_000, "log_level": 0,
        })  # fmt: skip

    def start(self, **env: str) -> Process:
        return self.project.start("work", "handlers:app", "--topic", self.topic, env=env)

    def encoded(self, job: str, **payload: str) -> bytes:
        if job not in self._encoders:
            schema = self._schemas.get(job)
            schema_id = self._registry.register(f"{self.topic}-{job}", schema.text)
            self._encoders[job] = Encoder(schema, schema_id)
        return self._encoders[job].encode(payload)

    def of_another_topic(self, job: str, **payload: str) -> bytes:
        """A value whose schema is registered, but not for this topic."""
        schema = self._schemas.get(job)
        other = json.dumps({**json.loads(schema.text), "doc": f"Of another {self.topic}."})
        schema_id = self._registry.register(f"{self.topic}.other-{job}", other)
        return Encoder(schema, schema_id).encode(payload)

    def job(self, to: str, act: str = "send", job: str = "mail.send") -> Sent:
        """A good record, with a key of its own."""
        value = self.encoded(job, to=to, act=act)
        return Sent(value, [("ce_id", to.encode()), ("ce_type", job.encode())], to.encode())

    def send(self, *records: Sent) -> None:
        for each in records:
            self._producer.produce(
                self.topic, value=each.value, key=each.key, partition=0,
                headers=each.headers, on_delivery=_require_delivery,
            )  # fmt: skip
        assert self._producer.flush(20) == 0

    def settle(self, worker: Process, timeout: float = 45) -> None:
        """Wait until everything is settled and committed, on the main topic and in the tiers."""
        eventually(
            lambda: sum(row.lag + row.retrying for row in self.lag()) == 0,
            timeout=timeout,
            otherwise=lambda: worker.log.read_text()[-4000:],
        )

    def lag(self) -> list[PartitionLag]:
        return list(lag_of(self.settings, self.declared(), self.settings.worker.group))

    def declared(self) -> Topic:
        return TopicSet.load([self.project.folder / "topics"]).get(self.topic)

    def letters(self) -> list[Record]:
        with TopicReader(self.settings.kafka) as reader:
            return list(reader.read_all([Partition(f"{self.topic}.dlt", 0)]))

    def runs(self) -> list[dict[str, Any]]:
        log = self.project.folder / "runs.log"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def status(self, job_id: str) -> dict[str, Any]:
        found = StatusReader(self.settings, self.declared()).find(job_id)
        assert found is not None, f"no status of {job_id}"
        return found

    def ledger(self) -> list[tuple[str, str]]:
        """(job id, state) of every row."""
        with sqlite3.connect(self.project.folder / ".processor" / "ledger.db") as connection:
            return connection.execute("SELECT job_id, state FROM processor_ledger").fetchall()


def _require_delivery(error: object, _: object) -> None:
    assert error is None, error


def own(letter: Record) -> dict[str, str]:
    """The engine's headers of a letter, each of which there is one."""
    mine = [(name, value) for name, value in letter.headers if name.startswith("processor-")]
    assert len(dict(mine)) == len(mine)
    return {name: value.decode() for name, value in mine}


def origins(letters: list[Record]) -> dict[int, Record]:
    return {int(own(letter)["processor-origin-offset"]): letter for letter in letters}


@pytest.fixture(scope="module")
def make_bench(
    kafka: Any, registry: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Bench]]:
    workers: list[Process] = []

    def make(**tables: Mapping[str, Any]) -> Bench:
        folder = tmp_path_factory.mktemp("bench")
        project = Project(folder, {
            "kafka": {"bootstrap.servers": kafka.bootstrap_servers},
            "registry": {"url": registry.url},
            "claims": {"store": (folder / "claims").as_uri()},
            "worker": {"timeout_grace_seconds": "200ms"},
        })  # fmt: skip
        project.write_settings(**tables)
        start = project.start

        def remembered(*arguments: str, **more: Any) -> Process:
            workers.append(start(*arguments, **more))
            return workers[-1]

        project.start = remembered  # type: ignore[method-assign]
        return Bench(project)

    yield make
    for each in workers:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()


# Records that cannot become jobs.


def bad_records(bench: Bench) -> dict[str, Bad]:
    """Each with what its dead letter must say; the last part of a name is no part of its sense."""
    good = bench.encoded("mail.send", to="x", act="send")
    kept = bench.claims.put(good)
    base = str(bench.settings.claims.store)
    sha = "0" * 64
    stranger = (bench.project.folder / "elsewhere").as_uri()
    (bench.project.folder / "elsewhere").write_bytes(good)
    spoiled = bench.claims.put(bench.encoded("mail.send", to="y", act="send"))
    Path(spoiled.uri.removeprefix("file://")).write_bytes(b"\0" * spoiled.size)

    def claim(uri: str, size: int, sha256: str) -> list[tuple[str, bytes]]:
        return [("claim", claim_to_header(Claim(uri, size, sha256)))]

    return {
        "text": Bad(b"hello, I am no Avro", says="no Avro"),
        "nothing": Bad(None, says="no value"),
        "no bytes": Bad(b"", says="no Avro"),
        "no key either": Bad(b"", key=None, says="no Avro"),
        "half a schema id": Bad(good[:3], says="truncated"),
        "an unknown schema id": Bad(b"\0\x7f\xff\xff\xff" + good[5:], says="not in the registry"),
        "a truncated body": Bad(good[:-2], says="truncated or corrupt"),
        "an empty body": Bad(good[:5], says="truncated or corrupt"),
        "trailing bytes": Bad(good + b"\0", says="follow the end"),
        "a length beyond all bounds": Bad(good[:5] + b"\xfe\xff\xff\xff\x0f", says="mail.send"),
        "a job type without a handler": Bad(
            bench.encoded("mail.stray", to="x", act="send"), says="no handler"
        ),
        "a schema of another topic": Bad(
            bench.of_another_topic("mail.send", to="x", act="send"), says="is not registered under"
        ),
        "a type that is not the value's": Bad(
            good, [("ce_type", b"mail.slow")], says="header says `mail.slow`"
        ),
        "a deadline that is no time": Bad(good, [("deadline", b"soon")], says="`deadline`"),
        "a start that is no time": Bad(good, [("not-before", b"-1")], says="`not-before`"),
        "an id too long": Bad(good, [("ce_id", b"i" * 300)], says="`ce_id`"),
        "an id that is no text": Bad(good, [("ce_id", b"\xff\xfe")], says="`ce_id`"),
        "an expired deadline": Bad(
            good, [("deadline", b"1000")], says="deadline", error_class="PermanentError"
        ),
        "a claim that is no claim": Bad(None, [("claim", b"{}")], says="claim header"),
        "a missing claim object": Bad(
            None, claim(f"{base}/00/{sha}", len(good), sha), says="does not exist"
        ),
        "a claim outside of the store": Bad(
            None, claim(stranger, len(good), kept.sha256), says="not a name under the claim store"
        ),
        "a claim that climbs out": Bad(
            None, claim(f"{base}/../elsewhere", len(good), kept.sha256), says="claim store"
        ),
        "a spoiled claim": Bad(
            None, claim(spoiled.uri, spoiled.size, spoiled.sha256), says="sha256"
        ),
        "a claim of another size": Bad(
            None, claim(kept.uri, kept.size + 1, kept.sha256), says="expected"
        ),
        "as much as the topic takes": Bad(os.urandom(1_048_400), says="no Avro"),
    }  # fmt: skip


NAMES = [
    "text", "nothing", "no bytes", "no key either", "half a schema id", "an unknown schema id",
    "a truncated body", "an empty body", "trailing bytes", "a length beyond all bounds",
    "a job type without a handler", "a schema of another topic", "a type that is not the value's",
    "a deadline that is no time", "a start that is no time", "an id too long",
    "an id that is no text", "an expired deadline", "a claim that is no claim",
    "a missing claim object", "a claim outside of the store", "a claim that climbs out",
    "a spoiled claim", "a claim of another size", "as much as the topic takes",
]  # fmt: skip


@dataclass
class Buried:
    bench: Bench
    bad: dict[str, Bad]
    places: dict[str, int]
    letters: dict[int, Record]


@pytest.fixture(scope="module")
def buried(make_bench: Callable[..., Bench]) -> Buried:
    """All bad records on one partition, a good job after each, and one worker that met them."""
    bench = make_bench()
    bad = bad_records(bench)
    assert list(bad) == NAMES
    places: dict[str, int] = {}
    for number, (name, record) in enumerate(bad.items()):
        places[name] = 2 * number
        bench.send(record, bench.job(f"good-{number}"))
    # Engine headers that nobody but the engine may write: the job itself is good.
    forged = [("processor-origin-offset", b"many"), ("processor-attempt", b"99")]
    good = bench.job("forged")
    bench.send(Sent(good.value, [*good.headers, *forged]))
    worker = bench.start()
    bench.settle(worker)
    assert worker.end() == 0
    return Buried(bench, bad, places, origins(bench.letters()))


@pytest.mark.parametrize("name", NAMES)
def test_record_dies_with_its_bytes_untouched_and_its_story_told(buried: Buried, name: str):
    record = buried.bad[name]

    letter = buried.letters[buried.places[name]]

    assert (letter.key, letter.value) == (record.key, record.value)
    assert letter.headers[: len(record.headers)] == record.headers
    told = own(letter)
    assert told["processor-error-class"] == record.error_class
    assert record.says in told["processor-error-message"]
    assert told["processor-origin-topic"] == buried.bench.topic
    assert told["processor-origin-partition"] == "0"
    assert told["processor-attempt"] == "1"
    assert int(told["processor-first-failure"]) <= int(told["processor-last-failure"])
    assert int(told["processor-origin-timestamp"]) > 0


def test_every_good_job_between_bad_records_is_done(buried: Buried):
    done = {run["to"] for run in buried.bench.runs()}

    assert done == {*(f"good-{n}" for n in range(len(NAMES))), "forged"}
    assert len(buried.letters) == len(NAMES)


def test_offsets_of_bad_records_are_committed(buried: Buried):
    (row,) = buried.bench.lag()

    assert row.committed == row.end == 2 * len(NAMES) + 1
    assert (row.lag, row.in_flight, row.retrying, row.dead) == (0, 0, 0, len(NAMES))


def test_dead_list_and_show_tell_of_bad_records(buried: Buried):
    project, topic = buried.bench.project, buried.bench.topic

    rows = project.run("dead", "list", topic, "--json").ok().rows()

    assert len(rows) == len(NAMES)
    place = f"{topic}-0-{buried.places['a truncated body']}"
    (row,) = [each for each in rows if each["origin"] == place]
    assert (row["job_id"], row["error_class"], row["attempts"]) == (place, "ContractError", 1)
    shown = project.run("dead", "show", place, "--topic", topic).ok().rows()[0]
    value = buried.bad["a truncated body"].value
    assert value is not None
    assert shown["value_base64"] == base64.b64encode(value).decode()
    assert "truncated or corrupt" in shown["headers"]["processor-error-message"]


def test_status_tells_that_a_bad_record_is_dead(buried: Buried):
    project, topic = buried.bench.project, buried.bench.topic
    place = f"{topic}-0-{buried.places['trailing bytes']}"

    status = project.run("status", place, "--topic", topic, "--json").ok().rows()[0]

    assert (status["state"], status["error_class"]) == ("dead", "ContractError")


def test_letters_are_not_written_again_after_a_crash_before_the_commit(
    make_bench: Callable[..., Bench],
):
    bench = make_bench(kafka={"session.timeout.ms": 3000, "heartbeat.interval.ms": 500})
    good = bench.job("good")
    bench.send(Sent(b"no Avro"), Sent(good.value, [("ce_id", b"\xff")]), good)
    worker = bench.start(PROCESSOR_WORKER_COMMIT_INTERVAL_SECONDS="60")
    worker.wait_for("job is dead", count=2)
    # A crash between a letter and the note of it would repeat the letter: all is noted first.
    ends = ["dead", "dead", "done"]
    eventually(lambda: sorted(state for _, state in bench.ledger()) == ends)

    worker.end(signal.SIGKILL)
    assert [row.lag for row in bench.lag()] == [3]
    again = bench.start()
    bench.settle(again)
    assert again.end() == 0

    assert [int(own(each)["processor-origin-offset"]) for each in bench.letters()] == [0, 1]
    assert ("good", "done") in bench.ledger()


# Handlers that fail.

ENDS = {
    # job, act: the state it ends in, its attempts, and what the letter or the result says.
    "reject": ("mail.send", "dead", 1, "Reject: there is no such mailbox"),
    "hopeless": ("mail.send", "dead", 1, "Hopeless: the address is malformed"),
    "fail": ("mail.send", "dead", ATTEMPTS, "ConnectionError: the mail server is away"),
    "fail twice": ("mail.send", "succeeded", ATTEMPTS, "null"),
    "ask for time": ("mail.send", "succeeded", 2, "null"),
    "exit": ("mail.send", "dead", ATTEMPTS, "SystemExit: 7"),
    "interrupt": ("mail.send", "dead", ATTEMPTS, "KeyboardInterrupt: KeyboardInterrupt"),
    "odd result": ("mail.send", "dead", ATTEMPTS, "TypeError: Object of type set"),
    "no number": ("mail.send", "dead", ATTEMPTS, "ValueError: Out of range float values"),
    "long result": ("mail.send", "succeeded", 1, "null"),
    "long complaint": ("mail.send", "dead", ATTEMPTS, "ConnectionError: yyyy"),
    "bad text": ("mail.send", "dead", ATTEMPTS, "ConnectionError: a lone"),
    "heed": ("mail.slow", "dead", ATTEMPTS, "JobTimeout: "),
    "ignore": ("mail.slow", "dead", ATTEMPTS, "JobTimeout: still running"),
    "async exit": ("mail.poll", "dead", ATTEMPTS, "SystemExit: 7"),
    "async sleep": ("mail.poll", "dead", ATTEMPTS, "JobTimeout: "),
    "async send": ("mail.poll", "succeeded", 1, '"polled"'),
}


@pytest.fixture(scope="module")
def handled(make_bench: Callable[..., Bench]) -> tuple[Bench, dict[str, Record], int]:
    """One job for each way to fail, a good one after each, and one worker that ran them."""
    bench = make_bench()
    for act, (job, *_) in ENDS.items():
        bench.send(bench.job(act, act.removeprefix("async "), job), bench.job(f"after {act}"))
    worker = bench.start()
    bench.settle(worker)
    assert worker.end() == 0
    letters = {dict(each.headers)["ce_id"].decode(): each for each in bench.letters()}
    return bench, letters, len(bench.letters())


@pytest.mark.parametrize("act", ENDS)
def test_failed_run_ends_as_its_failure_says(
    handled: tuple[Bench, dict[str, Record], int], act: str
):
    bench, letters, _ = handled
    job, state, attempts, says = ENDS[act]

    status = bench.status(act)

    assert (status["state"], status["attempts"]) == (state, attempts)
    assert [run["attempt"] for run in bench.runs() if run["to"] == act] == [*range(1, attempts + 1)]
    if state == "succeeded":
        assert json.dumps(json.loads(status["result"] or "null")) == says
        assert act not in letters
        return
    letter, original = letters[act], bench.job(act, act.removeprefix("async "), job)
    assert (letter.key, letter.value) == (original.key, original.value)
    told = own(letter)
    assert told["processor-attempt"] == str(attempts)
    assert f"{told['processor-error-class']}: {told['processor-error-message']}".startswith(says)
    assert len(told["processor-error-message"].encode()) <= 1024


def test_jobs_after_failing_ones_take_effect_once(
    handled: tuple[Bench, dict[str, Record], int],
):
    bench, letters, count = handled

    rows = bench.ledger()

    after = [f"after {act}" for act in ENDS]
    done = [act for act, end in ENDS.items() if end[1] == "succeeded"]
    assert sorted(job for job, state in rows if state == "done") == sorted([*after, *done])
    assert {run["to"] for run in bench.runs()} >= set(after)
    assert count == len(letters) == len(ENDS) - len(done)


def test_retry_waits_as_long_as_the_handler_asked(
    handled: tuple[Bench, dict[str, Record], int],
):
    bench, _, _ = handled

    first, second = [run["at"] for run in bench.runs() if run["to"] == "ask for time"]

    assert second - first >= 1.2


# Outages: nothing dies of them.


@pytest.mark.timeout(120)
def test_registry_outage_pauses_and_buries_nothing(make_bench: Callable[..., Bench], registry: Any):
    with Gate(registry.url) as gate:
        bench = make_bench(registry={"url": gate.url, "timeout_seconds": 2})
        bench.send(bench.job("before"))
        worker = bench.start()
        bench.settle(worker)

        asks = bench.job("asks the registry", job="mail.poll")
        unknown = Sent(b"\0\x7f\xff\xff\xf0xx")
        gate.close()
        bench.send(asks, unknown, bench.job("waits"))
        worker.wait_for("waiting for something that is away", count=2)

        assert bench.letters() == []
        assert [run["to"] for run in bench.runs()] == ["before"]
        assert [row.lag for row in bench.lag()] == [3]

        gate.open()
        bench.settle(worker)
        assert worker.end() == 0
        assert bench.status("asks the registry")["attempts"] == 1
        assert bench.status("waits")["state"] == "succeeded"
        assert list(origins(bench.letters())) == [2]


@pytest.mark.s3
@pytest.mark.timeout(120)
def test_claim_store_outage_pauses_and_buries_nothing(make_bench: Callable[..., Bench], s3: Any):
    with Gate(s3.endpoint_url) as gate:
        bench = make_bench(
            claims={"store": f"s3://processor-claims/{time.time_ns()}"},
            s3={**s3.settings, "endpoint_url": gate.url},
        )
        claim = bench.claims.put(bench.encoded("mail.send", to="claimed", act="send"))
        bench.send(bench.job("before"))
        worker = bench.start()
        bench.settle(worker)

        gate.close()
        header = ("claim", claim_to_header(claim))
        bench.send(Sent(None, [("ce_id", b"claimed"), header]), bench.job("waits"))
        worker.wait_for("waiting for something that is away")

        assert bench.letters() == []
        assert [run["to"] for run in bench.runs()] == ["before"]

        gate.open()
        bench.settle(worker)
        assert worker.end() == 0
        assert bench.status("claimed")["attempts"] == 1
        assert [run["to"] for run in bench.runs()] == ["before", "claimed", "waits"]
        assert bench.letters() == []
