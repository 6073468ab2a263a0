"""Jobs' traces as a collector receives them, from real producers, relays and workers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import Producer

from processor.adapters.reader import TopicReader
from processor.contracts import headers
from processor.model import Partition
from tests.acceptance.otlp_receiver import Got, Receiver, receiving, tree
from tests.acceptance.project import Process, Project, eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.broker, pytest.mark.registry]

MODULE = """
from pathlib import Path
from opentelemetry import trace
from processor import App, ObjectRef, Reject, load_settings
from processor.adapters.objects.stores import Objects
from processor.sinks.objects import ObjectSink

settings = load_settings()
app = App()
own = trace.get_tracer("report.app")

@app.job("report.make", sink=ObjectSink(Objects(settings), "RESULTS"))
def make(payload: dict, ctx) -> dict:
    if payload["fate"] == "dies":
        raise Reject("no such report")
    ctx.log.info("report begun")
    with own.start_as_current_span("render"):
        if payload["source"] is not None:
            with ctx.open(ObjectRef(payload["source"])) as source:
                source.read()
    if payload["fate"] == "fails twice" and ctx.attempt < 3:
        raise OSError("secret@example.org cannot be reached")
    return {"size": len(payload["text"])}
"""
SUBMIT = """
import sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from processor import Client

with Client() as client:
    # What the application traces itself: its span is current when it submits.
    mine = TracerProvider().get_tracer("shop")
    with mine.start_as_current_span("order") as order:
        client.submit("report.make", {"text": "x" * int(sys.argv[1]), "fate": sys.argv[2],
                      "source": sys.argv[3] or None}, key="anna@example.org", job_id=sys.argv[4])
    print(format(order.get_span_context().trace_id, "032x"))
    print(format(order.get_span_context().span_id, "016x"))
"""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


def environment(url: str) -> dict[str, str]:
    """Turns tracing on, for a collector at this URL."""
    return {
        "PROCESSOR_TRACING_ENABLED": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }


@pytest.fixture
def topic(project: Project) -> str:
    project.add_schema(
        "report.make",
        [
            {"name": "text", "type": "string"},
            {"name": "fate", "type": "string"},
            {"name": "source", "type": ["null", "string"], "default": None},
        ],
    )
    name = project.add_topic(
        "reports", ["report.make"], partitions=1, message_max="1KiB",
        retry={"delays": ["100ms", "300ms"], "jitter": 0},
    )  # fmt: skip
    results = (project.folder / "results").as_uri()
    project.add_module("handlers", MODULE.replace("RESULTS", results))
    project.provision()
    return name


def work(project: Project, topic: str, url: str) -> Process:
    worker = project.start("work", "handlers:app", "--topic", topic, env=environment(url))
    worker.wait_for("partition taken over")
    return worker


def submit(
    project: Project, url: str, job_id: str, *, fate: str = "", size: int = 1, source: str = ""
) -> tuple[str, str]:
    """Submit a job inside an application's own span: the trace and that span."""
    done = subprocess.run(
        [sys.executable, "-c", SUBMIT, str(size), fate, source, job_id],
        cwd=project.folder, env={**os.environ, **environment(url)}, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    trace_id, span_id = done.stdout.split()
    return trace_id, span_id


def whole(receiver: Receiver, trace_id: str, *names: str) -> list[Got]:
    """A trace, when spans with all of these names have come."""

    def came() -> list[Got] | None:
        spans = receiver.trace(trace_id)
        return spans if set(names) <= {each.name for each in spans} else None

    return eventually(came, timeout=30, otherwise=lambda: tree(receiver.spans))


def one(spans: list[Got], name: str, parent: Got | None = None) -> Got:
    (found,) = [
        e for e in spans if e.name == name and (parent is None or e.parent_id == parent.span_id)
    ]
    return found


@pytest.mark.s3
def test_job_that_failed_twice_and_then_succeeded_is_one_trace(
    project: Project, topic: str, receiver: Receiver, s3: Any
) -> None:
    project.write_settings(
        s3=s3.settings,
        claims={"store": f"s3://processor-claims/{project.name}"},
        files={"folders": [str(project.folder)]},
    )
    source = project.folder / "anna.txt"
    source.write_text("a source")
    worker = work(project, topic, receiver.url)

    trace_id, order = submit(
        project, receiver.url, "job-1", fate="fails twice", size=5000, source=source.as_uri()
    )
    tier_1, tier_2 = f"{topic}.retry.1", f"{topic}.retry.2"
    spans = whole(receiver, trace_id, f"process {tier_2}", f"send {topic}.status")
    print(tree(spans))

    sent = one(spans, f"send {topic}")
    runs = [one(spans, f"process {each}") for each in (topic, tier_1, tier_2)]
    assert sent.parent_id == order
    assert [each.parent_id for each in runs] == [sent.span_id] * 3
    assert [each.links for each in runs] == [
        {}, {runs[0].span_id: "attempt before"}, {runs[1].span_id: "attempt before"},
    ]  # fmt: skip
    assert [each.failed for each in runs] == [True, True, False]
    assert one(spans, f"send {tier_1}").parent_id == runs[0].span_id
    assert one(spans, f"send {tier_2}").parent_id == runs[1].span_id
    assert one(spans, "write claim").parent_id == sent.span_id
    for run in runs:
        assert one(spans, "read claim", run).attributes["processor.object.bytes"] > 5000
        assert one(spans, "read object", one(spans, "render", run))
    assert one(spans, "write ObjectSink").parent_id == runs[2].span_id
    assert one(spans, "write ledger").parent_id == runs[2].span_id
    assert {each.service for each in spans} == {"processor", project.name}
    told = repr([(each.name, each.attributes) for each in spans])
    assert "anna" not in told
    assert "secret" not in told
    lines = [row for row in worker.logged() if row["event"] == "report begun"]
    assert [(row["trace_id"], row["span_id"]) for row in lines] == [
        (trace_id, each.span_id) for each in runs
    ]
    worker.end()


def test_dead_letter_is_in_the_trace_and_its_replay_is_linked_to_it(
    project: Project, topic: str, receiver: Receiver
) -> None:
    worker = work(project, topic, receiver.url)
    trace_id, _ = submit(project, receiver.url, "job-1", fate="dies")
    dead = whole(receiver, trace_id, f"send {topic}.dlt")

    env = environment(receiver.url)
    project.run("dead", "replay", topic, "--yes", env=env).ok()
    replays = eventually(lambda: [e for e in receiver.named(f"process {topic}") if e.links])

    died = one(dead, f"process {topic}")
    assert one(dead, f"send {topic}.dlt").parent_id == died.span_id
    letter = records(project, f"{topic}.dlt")[0]  # The replay died like it.
    assert dict(letter.headers)[headers.HOP_TRACE].decode().split("-")[1:3] == [
        trace_id, died.span_id,
    ]  # fmt: skip
    (again,) = replays
    sent = next(e for e in receiver.spans if e.span_id == again.parent_id)
    original = one(dead, f"send {topic}")
    assert again.trace_id == sent.trace_id != trace_id
    assert again.links == {original.span_id: "original"}
    assert sent.links == {original.span_id: "original", died.span_id: "original"}
    worker.end()


def test_malformed_traceparent_of_a_stranger_is_ignored(
    project: Project, topic: str, receiver: Receiver
) -> None:
    submit(project, receiver.url, "job-1")
    (record,) = records(project, topic)
    producer = Producer({"bootstrap.servers": project.tables["kafka"]["bootstrap.servers"]})
    kept = [each for each in record.headers if each[0] not in ("traceparent", "ce_id")]
    for n, trace in enumerate([b"\xff\xfe", b"00-nonsense", b"0" * 10_000]):
        more = [*kept, ("traceparent", trace), ("ce_id", f"bad-{n}".encode())]
        producer.produce(topic, record.value, headers=more, partition=0)
    assert producer.flush(30) == 0
    worker = work(project, topic, receiver.url)

    runs = eventually(lambda: len(found := receiver.named(f"process {topic}")) == 4 and found)

    assert {each.attributes["processor.job.outcome"] for each in runs} == {"succeeded"}
    assert [each.parent_id for each in runs[1:]] == [""] * 3
    worker.end()


def test_collector_that_is_away_stops_no_job_and_no_worker(project: Project, topic: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Nobody listens there.
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        worker = work(project, topic, url)
        for n in range(3):
            submit(project, url, f"job-{n}", fate="fails twice")
        eventually(lambda: len(list((project.folder / "results").rglob("*.json"))) == 3)

        code = worker.end(signal.SIGTERM)

    assert code == 0  # Had its last spans held it beyond its time, it would be 1.


def test_job_of_an_outbox_is_in_the_trace_of_the_transaction_that_wrote_it(
    project: Project, topic: str, receiver: Receiver
) -> None:
    database = project.folder / "app.db"
    url = f"sqlite:///{database}"
    project.run("outbox", "create", "--url", url).ok()
    env = environment(receiver.url)
    write = (
        "import sqlite3; from processor.outbox import Outbox\n"
        "connection = sqlite3.connect('app.db'); connection.execute('BEGIN')\n"
        "Outbox(connection).submit('report.make', {'text': 'x', 'fate': ''}, key='k')\n"
        "connection.commit()"
    )
    done = subprocess.run([sys.executable, "-c", write], cwd=project.folder, timeout=60,
                          env={**os.environ, **env}, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    worker = work(project, topic, receiver.url)

    project.run("outbox", "relay", "--once", "--url", url, env=env).ok()
    run = eventually(lambda: receiver.named(f"process {topic}"))[0]

    spans = receiver.trace(run.trace_id)
    created, sent = one(spans, f"create {topic}"), one(spans, f"send {topic}")
    assert run.parent_id == sent.parent_id == created.span_id
    assert created.parent_id == ""
    worker.end()


OFF = """
import sys
from processor import Client
from processor.serve import Served, load_app
from processor.settings import load_settings

with Client() as client:
    client.submit("report.make", {"text": "x", "fate": ""}, key="k")
served = Served(load_app("plain:app"), load_settings())
found = sorted(name for name in sys.modules if name.startswith("opentelemetry"))
assert found == [], found
print("none")
"""


def test_nothing_of_opentelemetry_is_imported_while_tracing_is_off(
    project: Project, topic: str
) -> None:
    project.add_module(
        "plain", "from processor import App\napp = App()\n"
        "@app.job('report.make')\ndef make(payload: dict) -> None: ...\n",
    )  # fmt: skip

    done = subprocess.run([sys.executable, "-c", OFF], cwd=project.folder, capture_output=True,
                          text=True, timeout=60, env=dict(os.environ))  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "none"


def records(project: Project, topic: str) -> list[Any]:
    with TopicReader(project.settings().kafka) as reader:
        found = list(reader.read_all([Partition(topic, 0)]))
    return [each for each in found if headers.read_marker(each) is None]
