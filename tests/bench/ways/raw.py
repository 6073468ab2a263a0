"""The limit: consume and decode with the client alone, 500 at a time, and nothing else."""

import io
import json
import os
import time
from pathlib import Path

import fastavro
from confluent_kafka import Consumer
from meter import Stopwatch, from_environment

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


def assigned(*_: object) -> None:
    """Tell the driver that jobs may come."""
    out.with_suffix(".ready").touch()


consumer.subscribe([os.environ["BENCH_TOPIC"]], on_assign=assigned)


stopwatch = Stopwatch(int(os.environ["BENCH_JOBS"]), out) if "BENCH_LATENCY" in os.environ else None


def handle(job: dict) -> None:
    if stopwatch is not None:
        stopwatch.tick(job["created"])
    else:
        meter.tick()


# Many at once are waited for: for a latency each is taken as it comes.
at_once = 500 if stopwatch is None else 1
while not out.exists():
    for message in consumer.consume(at_once, 1):
        handle(fastavro.schemaless_reader(io.BytesIO(message.value()[5:]), schema))
    if at_once > 1:
        consumer.commit(asynchronous=True)
