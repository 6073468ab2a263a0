"""What only a Kafka topic can do to results: refuse one, be away, mix those of several threads."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from processor.contracts import headers
from processor.errors import PermanentError, SinkUnavailable, UsageError
from processor.model import Effect, Position, Record
from processor.preflight import prepare_sinks
from processor.sinks.kafka import KafkaSink
from processor.sinks.no_ledger import NoLedger
from tests.acceptance.project import Project, eventually

pytestmark = [pytest.mark.broker, pytest.mark.registry]

FITS, TOO_LARGE = 100, 50_000


class Topic:
    """A topic of results, of one partition, that takes no request above 20 kB."""

    def __init__(self, project: Project) -> None:
        project.add_schema("test.report", [{"name": "body", "type": "bytes"}])
        self.name = project.add_topic("report", ["test.report"], partitions=1)
        project.provision()
        self.kafka = dict(project.settings().kafka)
        self.sink = KafkaSink(self.name, schema="test.report", settings=project.settings())
        admin = AdminClient(self.kafka)
        entry = ConfigEntry(
            "max.message.bytes", "20000", incremental_operation=AlterConfigOpType.SET
        )
        resource = ConfigResource(ConfigResource.Type.TOPIC, self.name, incremental_configs=[entry])
        admin.incremental_alter_configs([resource])[resource].result(20)
        eventually(
            lambda: (
                admin.describe_configs([resource])[resource].result(20)["max.message.bytes"].value
                == "20000"
            )
        )

    def ids(self) -> list[str]:
        """The ids on the topic, each where it is first."""
        reader = Consumer({**self.kafka, "group.id": "r", "log_level": 0})
        end = reader.get_watermark_offsets(TopicPartition(self.name, 0), timeout=20)[1]
        reader.assign([TopicPartition(self.name, 0, 0)])
        found: list[str] = []
        at = 0
        while at < end:
            for each in reader.consume(100, 1.0):
                at = (each.offset() or 0) + 1
                record = Record("t", 0, 0, None, None, each.headers() or [], 0)
                found.append(headers.read_job(record, Position("t", 0, 0)).job_id)
        reader.close()
        return list(dict.fromkeys(found))


@pytest.fixture
def topic(project: Project) -> Topic:
    return Topic(project)


def effect(job_id: str, sizes: int | Sequence[int], *, key: str = "k") -> Effect:
    result: Any = [{"body": random.randbytes(size)} for size in _many(sizes)]
    if isinstance(sizes, int):
        result = result[0]
    return Effect(job_id, "test.make", f"job:{job_id}", Position("t", 0, 0), 1, key, result)


def _many(sizes: int | Sequence[int]) -> Sequence[int]:
    return [sizes] if isinstance(sizes, int) else sizes


def test_result_behind_one_that_the_broker_refuses_does_not_land(topic: Topic):
    with pytest.raises(PermanentError, match="refuses the result"):
        topic.sink.write([effect("a", FITS), effect("b", TOO_LARGE), effect("c", FITS)])

    assert topic.ids() == ["a"]
    topic.sink.write([effect("c", FITS)])
    assert topic.ids() == ["a", "c"]


def test_results_too_large_only_together_are_written(topic: Topic):
    topic.sink.write([effect("a", [9000] * 4), effect("b", 9000)])

    assert topic.ids() == ["a-0", "a-1", "a-2", "a-3", "b"]


def test_refused_result_of_one_thread_is_no_other_s(topic: Topic):
    started = threading.Barrier(4)

    def write(number: int) -> list[str]:
        started.wait(20)
        refused = []
        for n in range(10):
            job_id = f"{number}-{n}"
            try:
                size = TOO_LARGE if number == 0 else FITS
                topic.sink.write([effect(job_id, size, key=str(number))])
            except PermanentError:
                refused.append(job_id)
        return refused

    with ThreadPoolExecutor(4) as pool:
        refused = list(pool.map(write, range(4)))

    assert refused == [[f"0-{n}" for n in range(10)], [], [], []]
    found = topic.ids()
    for number in (1, 2, 3):
        mine = [each for each in found if each.startswith(f"{number}-")]
        assert mine == [f"{number}-{n}" for n in range(10)]


def test_outage_is_told_and_leaves_nothing_queued(
    topic: Topic, kafka: Any, monkeypatch: pytest.MonkeyPatch
):
    topic.sink.write([effect("a", FITS)])
    monkeypatch.setattr("processor.sinks.kafka.ANSWER_SECONDS", 1.0)
    broker = kafka.brokers[0]
    broker.stop(kill=True)
    try:
        for _ in range(3):
            with pytest.raises(SinkUnavailable, match="did not acknowledge"):
                topic.sink.write([effect("b", FITS)])
    finally:
        broker.start()
    monkeypatch.undo()
    topic.sink.write([effect("c", FITS)])
    topic.sink.write([effect("b", FITS)])

    assert topic.ids() == ["a", "c", "b"]


def test_worker_asks_for_the_schema_of_a_sink_at_its_start(project: Project):
    project.add_schema("test.report", [{"name": "body", "type": "bytes"}])
    unregistered = KafkaSink(
        f"{project.name}.report", schema="test.report", settings=project.settings()
    )
    topic, spec = SimpleNamespace(jobs=["x"]), SimpleNamespace(sinks=(unregistered,))

    with pytest.raises(UsageError, match=r"test\.report"):
        prepare_sinks(NoLedger(), [topic], {"x": spec})  # type: ignore[list-item, dict-item]
