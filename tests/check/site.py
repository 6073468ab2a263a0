"""A project on the real stack, set up as it should be, and faults to plant in it."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from processor.adapters.objects.claim_bucket import ClaimBucket
from processor.adapters.topic_admin import TopicAdmin
from processor.cli.main import run
from processor.contracts.partitioner import partition_of
from processor.settings import load_settings

PLACE = {
    "type": "record",
    "namespace": "orders",
    "name": "place",
    "doc": "Place an order.",
    "fields": [{"name": "count", "type": "int", "doc": "How many."}],
}
APP = "from processor import App\napp = App()\n@app.job('orders.place')\ndef place(payload): ...\n"


class Told(NamedTuple):
    code: int
    document: dict[str, Any]
    stderr: str

    @property
    def ids(self) -> set[str]:
        return {each["id"] for each in self.document["findings"]}


class Site:
    """A folder with a project of two topics, applied; commands run in it."""

    def __init__(self, folder: Path, capsys: Any, *, kafka: Any, registry: Any, s3: Any) -> None:
        self.folder = folder
        self.name = f"t{uuid.uuid4().hex[:12]}"
        self.kafka = kafka
        self.registry = registry
        self._capsys = capsys
        (folder / "topics").mkdir()
        (folder / "schemas").mkdir()
        tables = {
            "kafka": {"bootstrap.servers": kafka.bootstrap_servers},
            "registry": {"url": registry.url},
            "s3": s3.settings,
            "claims": {"store": f"s3://processor-claims/{self.name}"},
            "worker": {"group": self.name},
        }
        lines = []
        for table, entries in tables.items():
            lines.append(f"[{table}]")
            lines += [f"{json.dumps(key)} = {json.dumps(text)}" for key, text in entries.items()]
        (folder / "processor.toml").write_text("\n".join(lines))
        self.declare()
        self.contract(PLACE)
        cancel = {**PLACE, "name": "cancel", "doc": "Cancel an order."}
        (folder / "schemas" / "orders.cancel.avsc").write_text(json.dumps(cancel))
        (folder / "good.py").write_text(APP + "app.job('orders.cancel')(place)\n")

    def declare(self, more: str = "retry: {delays: [1s, 2s]}") -> None:
        (self.folder / "topics" / "orders.yaml").write_text(
            f"name: {self.name}\njobs: [orders.place, orders.cancel]\npartitions: 2\n{more}\n"
        )

    def contract(self, document: dict[str, Any]) -> None:
        (self.folder / "schemas" / "orders.place.avsc").write_text(json.dumps(document))

    def run(self, *arguments: str) -> tuple[int, str, str]:
        code = run(list(arguments))
        out, err = self._capsys.readouterr()
        return code, out, err

    def set_up(self) -> None:
        """Do what the README tells newcomers to do."""
        for command in ("topics apply", "schemas register", "retention apply"):
            code, _, err = self.run(*command.split())
            assert code == 0, err

    def check(self, *arguments: str) -> Told:
        code, out, err = self.run("check", "--json", *arguments)
        return Told(code, json.loads(out), err)

    @property
    def admin(self) -> TopicAdmin:
        return TopicAdmin({"bootstrap.servers": self.kafka.bootstrap_servers})

    @property
    def bucket(self) -> ClaimBucket:
        settings = load_settings()
        assert settings.claims.store is not None
        return ClaimBucket(settings.s3, settings.claims.store)

    @contextmanager
    def environment(self, **values: str) -> Iterator[None]:
        os.environ.update(values)
        yield
        for name in values:
            del os.environ[name]

    @contextmanager
    def topic_setting(self, topic: str, name: str, value: str) -> Iterator[None]:
        """Alter a setting of a Kafka topic; `topic` is what follows the main topic's name."""
        topic = self.name + topic
        before = self.admin.describe()[topic].config[name]
        self.admin.set_config(topic, {name: value})
        yield
        self.admin.set_config(topic, {name: before})

    @contextmanager
    def topic_deleted(self, topic: str) -> Iterator[None]:
        self.delete(topic)
        yield
        assert self.run("topics", "apply", self.name)[0] == 0

    def delete(self, topic: str) -> None:
        client = AdminClient({"bootstrap.servers": self.kafka.bootstrap_servers})
        client.delete_topics([self.name + topic])[self.name + topic].result(20)
        until = time.monotonic() + 20
        while self.name + topic in client.list_topics(timeout=10).topics:
            assert time.monotonic() < until

    @contextmanager
    def partitions_added(self, topic: str) -> Iterator[None]:
        self.admin.add_partitions(self.name + topic, 3)
        yield
        with self.topic_deleted(topic):
            pass

    @contextmanager
    def file(self, more: str, *then: str) -> Iterator[None]:
        """Change the topic's file, and run these commands."""
        self.declare(more)
        for command in then:
            assert self.run(*command.split())[0] == 0
        yield
        self.declare()
        for command in then:
            assert self.run(*command.split())[0] == 0

    @contextmanager
    def schema(self, **field: Any) -> Iterator[None]:
        self.contract({**PLACE, "fields": [*PLACE["fields"], field][-2:]})
        yield
        self.contract(PLACE)

    @contextmanager
    def rules(self, *rules: dict[str, Any]) -> Iterator[None]:
        """Put lifecycle rules in the place of ours."""
        bucket = self.bucket
        before = bucket.rules()
        for rule in rules:
            rule |= {"ID": "planted", "Status": "Enabled", "Filter": {"Prefix": bucket.prefix}}
        others = [rule for rule in before if bucket.prefix not in rule["ID"]]
        bucket.set_rules([*others, *rules])
        yield
        bucket.set_rules(before)

    @contextmanager
    def record(self, topic: str = "", *, wrong: bool = False, ahead: float = 0) -> Iterator[None]:
        """Append a record, to another partition than its key's, or made in the future."""
        key = b"some key"
        right = partition_of(key, 2)
        producer = Producer({"bootstrap.servers": self.kafka.bootstrap_servers})
        producer.produce(
            self.name + topic,
            b"no Avro",
            key,
            1 - right if wrong else right,
            timestamp=round((time.time() + ahead) * 1000),
        )
        assert producer.flush(20) == 0
        yield
        self.empty(topic)

    def empty(self, topic: str = "") -> None:
        client = AdminClient({"bootstrap.servers": self.kafka.bootstrap_servers})
        ends = [TopicPartition(self.name + topic, number, -1) for number in range(2)]
        for future in client.delete_records(ends).values():
            future.result(20)

    def commit(self, group: str, offset: int) -> None:
        consumer = Consumer({"bootstrap.servers": self.kafka.bootstrap_servers, "group.id": group})
        offsets = [TopicPartition(self.name, number, offset) for number in range(2)]
        consumer.commit(offsets=offsets, asynchronous=False)
        consumer.close()

    @contextmanager
    def app(self, module: str, source: str) -> Iterator[None]:
        (self.folder / f"{module}.py").write_text(source)
        yield
