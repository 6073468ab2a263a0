"""A stock Confluent producer that knows nothing of this project submits jobs."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import Any

import pytest
from confluent_kafka import Message, SerializingProducer
from confluent_kafka.schema_registry import (
    SchemaRegistryClient,
    topic_record_subject_name_strategy,
)
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import StringSerializer

from tests.acceptance.project import Process, Project, eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.broker, pytest.mark.registry]

MODULE = """
from processor import App
from processor.sinks.sqlite import SqliteSink

app = App()
TABLE = "CREATE TABLE IF NOT EXISTS effect (payload TEXT, job_id TEXT)"

@app.job("mail.send", sink=SqliteSink("effect", create=TABLE))
def send(payload: dict, ctx) -> dict:
    import json
    if payload["to"] == "nobody":
        from processor import Reject
        raise Reject("nobody is no address")
    return {"payload": json.dumps(payload, sort_keys=True), "job_id": ctx.job_id}
"""
TO = {"name": "to", "type": "string"}
SUBJECT_LINE = {"name": "subject", "type": "string", "default": "(none)"}


def schema_of_a_stranger(*fields: Mapping[str, Any]) -> str:
    """The contract as another team would have it: without our docs."""
    record = {"type": "record", "namespace": "mail", "name": "send", "fields": list(fields)}
    return json.dumps(record, indent=4)


@pytest.fixture
def topic(project: Project) -> str:
    """A topic that takes `mail.send`, whose contract has one field."""
    project.add_schema("mail.send", [TO])
    project.add_module("handlers", MODULE)
    name = project.add_topic("mail", ["mail.send"])
    project.provision()
    return name


@pytest.mark.parametrize("auto_register", [False, True])
def test_job_of_a_stock_avro_producer_is_processed(
    project: Project, topic: str, servers: dict[str, dict[str, Any]], auto_register: bool
) -> None:
    # Without registering, a producer must have the very text that `schemas register` sent.
    own = (project.folder / "schemas" / "mail.send.avsc").read_text()
    text = schema_of_a_stranger(TO) if auto_register else own

    message = produced(servers, topic, text, {"to": "ada"}, auto_register=auto_register)
    worker = worked(project, topic)
    job_id = f"{topic}-{message.partition()}-{message.offset()}"
    status = status_when_settled(project, job_id)
    code = worker.end()

    assert message.headers() is None
    assert code == 0
    assert effects(project) == [('{"to": "ada"}', job_id)]
    assert status["job_id"] == job_id
    assert status["job_type"] == "mail.send"
    assert status["state"] == "succeeded"
    assert status["key"] == "customer-7"
    assert status["attempts"] == 1
    assert json.loads(status["result"])["job_id"] == job_id


def test_dead_job_of_a_stock_producer_is_found_by_its_place(
    project: Project, topic: str, servers: dict[str, dict[str, Any]]
) -> None:
    text = schema_of_a_stranger(TO)

    message = produced(servers, topic, text, {"to": "nobody"}, auto_register=True)
    worker = worked(project, topic)
    job_id = f"{topic}-{message.partition()}-{message.offset()}"
    status = status_when_settled(project, job_id)
    worker.end()
    letters = project.run("dead", "list", topic).ok().rows()

    assert effects(project) == []
    assert (status["state"], status["error_class"]) == ("dead", "Reject")
    assert status["error_message"] == "nobody is no address"
    assert [letter["job_id"] for letter in letters] == [job_id]
    assert letters[0]["origin"] == job_id


def test_newer_writers_record_is_read_by_an_older_worker(
    project: Project, topic: str, servers: dict[str, dict[str, Any]]
) -> None:
    newer = schema_of_a_stranger(TO, SUBJECT_LINE)

    message = produced(
        servers, topic, newer, {"to": "ada", "subject": "engines"}, auto_register=True
    )
    worker = worked(project, topic)
    status_when_settled(project, f"{topic}-{message.partition()}-{message.offset()}")
    worker.end()

    assert [payload for payload, _ in effects(project)] == ['{"to": "ada"}']


def test_older_writers_record_is_read_by_a_newer_worker(
    project: Project, topic: str, servers: dict[str, dict[str, Any]]
) -> None:
    older = (project.folder / "schemas" / "mail.send.avsc").read_text()
    project.add_schema("mail.send", [TO, SUBJECT_LINE])

    message = produced(servers, topic, older, {"to": "ada"}, auto_register=False)
    worker = worked(project, topic)
    status_when_settled(project, f"{topic}-{message.partition()}-{message.offset()}")
    worker.end()

    assert [payload for payload, _ in effects(project)] == ['{"subject": "(none)", "to": "ada"}']


def produced(
    servers: Mapping[str, Mapping[str, Any]],
    topic: str,
    schema: str,
    payload: Mapping[str, Any],
    *,
    auto_register: bool,
) -> Message:
    """Produce as the client's own documentation shows, with the subject named by record."""
    registry = SchemaRegistryClient({"url": servers["registry"]["url"]})
    serializer = AvroSerializer(
        registry,
        schema,
        conf={
            "auto.register.schemas": auto_register,
            "subject.name.strategy": topic_record_subject_name_strategy,
        },
    )
    producer = SerializingProducer(
        {
            "bootstrap.servers": servers["kafka"]["bootstrap.servers"],
            "key.serializer": StringSerializer("utf_8"),
            "value.serializer": serializer,
        }
    )
    delivered: list[Message] = []

    def note(error: object, message: Message) -> None:
        assert error is None
        delivered.append(message)

    producer.produce(topic, key="customer-7", value=payload, on_delivery=note)
    assert producer.flush(30) == 0
    return delivered[0]


def worked(project: Project, topic: str) -> Process:
    return project.start("work", "handlers:app", "--topic", topic)


def status_when_settled(project: Project, job_id: str) -> dict[str, Any]:
    """Ask `processor status` until it knows the job."""

    def asked() -> dict[str, Any] | None:
        ran = project.run("status", job_id)
        assert ran.code in (0, 3), ran.stderr
        return ran.rows()[0] if ran.code == 0 else None

    return eventually(asked)  # type: ignore[no-any-return]


def effects(project: Project) -> list[tuple[str, str]]:
    """The rows that the handlers have left."""
    database = project.folder / ".processor" / "ledger.db"
    with sqlite3.connect(database) as connection:
        known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'effect'").fetchone()
        return connection.execute("SELECT payload, job_id FROM effect").fetchall() if known else []
