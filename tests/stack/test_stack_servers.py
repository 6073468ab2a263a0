"""The real servers: what is written survives, what is killed comes back."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import psycopg
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient

from processor.errors import ProcessorError, UsageError
from processor.stack import Stack

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from processor.stack.s3 import S3

SCHEMA = '{"type": "record", "name": "Ping", "fields": [{"name": "n", "type": "int"}]}'
WIDER = '{"type": "record", "name": "Ping", "fields": [{"name": "n", "type": "string"}]}'


def s3_client(s3: S3, *, secret: str | None = None) -> S3Client:
    return boto3.client(
        "s3",
        endpoint_url=s3.endpoint_url,
        region_name=s3.region,
        aws_access_key_id=s3.access_key_id,
        aws_secret_access_key=secret or s3.secret_access_key,
        config=Config(retries={"total_max_attempts": 3}),
    )


def make_topic(servers: str, name: str) -> None:
    admin = AdminClient({"bootstrap.servers": servers})
    for future in admin.create_topics([NewTopic(name, num_partitions=3)]).values():
        future.result(timeout=20)


def produce(servers: str, topic: str, values: list[bytes]) -> None:
    """Send each value with acks=all; fail if one is not acknowledged."""
    faults: list[object] = []
    producer = Producer({"bootstrap.servers": servers, "acks": "all"})
    for value in values:
        producer.produce(topic, value, on_delivery=lambda fault, _: fault and faults.append(fault))
    assert producer.flush(30) == 0
    assert faults == []


def consume(servers: str, topic: str, count: int) -> list[bytes]:
    """Read `count` values through a consumer group, sorted."""
    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": "reader", "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([topic])
    values: list[bytes] = []
    deadline = time.monotonic() + 30
    try:
        while len(values) < count and time.monotonic() < deadline:
            record = consumer.poll(0.5)
            if record is not None and record.error() is None:
                values.append(record.value() or b"")
    finally:
        consumer.close()
    return sorted(values)


@pytest.mark.broker
@pytest.mark.registry
@pytest.mark.s3
@pytest.mark.postgres
@pytest.mark.slow
def test_data_and_ports_survive_down_and_up(open_folder: Path) -> None:
    first = Stack(open_folder)
    again = Stack(open_folder)
    try:
        assert first.start() == ("kafka", "registry", "s3", "postgres")
        make_topic(first.kafka.bootstrap_servers, "kept")
        produce(first.kafka.bootstrap_servers, "kept", [b"before"])
        schemas = SchemaRegistryClient({"url": first.registry.url})
        schema_id = schemas.register_schema("kept-Ping", Schema(SCHEMA, "AVRO"))
        s3_client(first.s3).put_object(Bucket="processor-claims", Key="kept", Body=b"object")
        with psycopg.connect(first.postgres.url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        settings, pids = first.settings_path.read_text(), first.kafka.pids

        # Another command, while they run: it starts nothing and finds the same processes.
        assert again.start() == ()
        assert again.kafka.pids == pids

        first.stop()
        assert not first.settings_path.exists()
        assert [each.state for each in again.status()] == ["stopped"] * 4

        again.start()
        assert again.settings_path.read_text() == settings
        produce(again.kafka.bootstrap_servers, "kept", [b"after"])
        assert consume(again.kafka.bootstrap_servers, "kept", 2) == [b"after", b"before"]
        schemas = SchemaRegistryClient({"url": again.registry.url})
        assert schemas.get_latest_version("kept-Ping").schema_id == schema_id
        body = s3_client(again.s3).get_object(Bucket="processor-claims", Key="kept")["Body"]
        assert body.read() == b"object"
        with psycopg.connect(again.postgres.url) as connection:
            assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
    finally:
        again.stop(kill=True)


@pytest.mark.broker
@pytest.mark.slow
def test_three_brokers_survive_a_killed_one(tmp_path: Path) -> None:
    with Stack(tmp_path / "stack", parts=["kafka"], brokers=3) as stack:
        servers = stack.kafka.bootstrap_servers
        make_topic(servers, "jobs")
        produce(servers, "jobs", [b"1"])
        victim = stack.kafka.brokers[0]
        address = victim.address

        victim.stop(kill=True)
        produce(servers, "jobs", [b"2"])
        assert consume(servers, "jobs", 2) == [b"1", b"2"]
        assert not victim.running

        victim.start()
        assert victim.address == address
        produce(address, "jobs", [b"3"])
        assert consume(servers, "jobs", 1) == [b"3"]
        stack.stop(kill=True)


@pytest.mark.postgres
@pytest.mark.broker
def test_failed_start_stops_what_it_started(open_folder: Path) -> None:
    stack = Stack(open_folder, ["kafka", "postgres"], kafka_settings={"num.io.threads": "0"})

    with pytest.raises(ProcessorError, match=r"num\.io\.threads"):
        stack.start()

    assert stack.running_parts() == ()
    assert not stack.settings_path.exists()


def test_number_of_brokers_cannot_change_under_the_data(tmp_path: Path) -> None:
    Stack(tmp_path)._site.remember("brokers", 3)

    with pytest.raises(UsageError, match="was made with 3 broker"):
        Stack(tmp_path, brokers=1)

    assert len(Stack(tmp_path).kafka.brokers) == 3


@pytest.mark.registry
def test_killed_registry_remembers_what_it_accepted(processor_stack: Stack, registry: Any) -> None:
    schemas = SchemaRegistryClient({"url": registry.url})
    schema_id = schemas.register_schema("durable-Ping", Schema(SCHEMA, "AVRO"))
    url = registry.url

    registry.stop(kill=True)
    registry.start()

    assert registry.url == url
    fresh = SchemaRegistryClient({"url": registry.url})
    assert fresh.get_latest_version("durable-Ping").schema_id == schema_id
    fresh.set_compatibility("durable-Ping", "BACKWARD")
    assert not fresh.test_compatibility("durable-Ping", Schema(WIDER, "AVRO"))


@pytest.mark.s3
def test_conditional_put_keeps_the_first_object(s3: S3) -> None:
    client = s3_client(s3)
    client.put_object(Bucket="processor-claims", Key="once", Body=b"first", IfNoneMatch="*")

    with pytest.raises(ClientError) as refusal:
        client.put_object(Bucket="processor-claims", Key="once", Body=b"second", IfNoneMatch="*")

    assert refusal.value.response["ResponseMetadata"]["HTTPStatusCode"] == 412
    assert client.get_object(Bucket="processor-claims", Key="once")["Body"].read() == b"first"


@pytest.mark.s3
def test_wrong_secret_is_refused(s3: S3) -> None:
    with pytest.raises(ClientError) as refusal:
        s3_client(s3, secret="wrong").put_object(Bucket="processor-claims", Key="no", Body=b"x")

    assert refusal.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    assert s3_client(s3).list_objects_v2(Bucket="processor-claims", Prefix="no")["KeyCount"] == 0


@pytest.mark.s3
def test_multipart_upload_is_one_object(s3: S3) -> None:
    client = s3_client(s3)
    pieces = [b"a" * 5 * 1024 * 1024, b"b"]
    where: Any = {"Bucket": "processor-claims", "Key": "large"}
    upload = client.create_multipart_upload(**where)["UploadId"]

    done = [
        {
            "PartNumber": number,
            "ETag": client.upload_part(**where, UploadId=upload, PartNumber=number, Body=piece)[
                "ETag"
            ],
        }
        for number, piece in enumerate(pieces, start=1)
    ]
    client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": done})

    assert client.head_object(**where)["ContentLength"] == sum(map(len, pieces))


@pytest.mark.s3
def test_killed_store_keeps_what_it_accepted(s3: S3) -> None:
    s3_client(s3).put_object(Bucket="processor-claims", Key="durable", Body=b"kept")

    s3.stop(kill=True)
    s3.start()

    body = s3_client(s3).get_object(Bucket="processor-claims", Key="durable")["Body"]
    assert body.read() == b"kept"


@pytest.mark.postgres
def test_killed_database_keeps_what_it_committed(postgres: Any) -> None:
    with psycopg.connect(postgres.url) as connection:
        connection.execute("CREATE TABLE durable AS SELECT 7 AS n")

    postgres.stop(kill=True)
    assert postgres.pids == ()
    postgres.start()

    with psycopg.connect(postgres.url) as connection:
        assert connection.execute("SELECT n FROM durable").fetchone() == (7,)


@pytest.mark.postgres
def test_wrong_password_is_refused(postgres: Any) -> None:
    wrong = postgres.url.replace("postgres:", "postgres:x", 1)
    refused: Callable[[], object] = lambda: psycopg.connect(wrong)  # noqa: E731

    with pytest.raises(psycopg.OperationalError):
        refused()
