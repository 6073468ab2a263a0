"""The limit: consume and decode with the client alone, 500 at a time, and nothing else."""

import io
import json
import os
import time
from pathlib import Path

import fastavro
from confluent_kafka import Consumer
from meter import from_environment

schema = fastavro.parse_schema(json.loads(Path(os.environ["BENCH_SCHEMA"]).read_text()))
meter = from_environment()
out = Path(os.environ["BENCH_OUT"])
consumer = Consumer(
    {
        "bootstrap.servers": os.environ["BENCH_SERVERS"],
        "group.id": f"raw-{time.time()}",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
    }
)
consumer.subscribe([os.environ["BENCH_TOPIC"]])


def handle(_job: object) -> None:
    meter.tick()


while not out.exists():
    for message in consumer.consume(500, 1):
        handle(fastavro.schemaless_reader(io.BytesIO(message.value()[5:]), schema))
    consumer.commit(asynchronous=True)
