"""What the ways of the peers share: where to read, how to decode, what to count with."""

import io
import json
import os
import time
from pathlib import Path

import fastavro
from meter import from_environment

SERVERS = os.environ.get("BENCH_SERVERS", "")
TOPIC = os.environ.get("BENCH_TOPIC", "")
GROUP = f"peer-{time.time()}"
schema = fastavro.parse_schema(json.loads(Path(os.environ["BENCH_SCHEMA"]).read_text()))
meter = from_environment()


def decoded(value: bytes) -> dict:
    """Decode a job in Confluent wire format."""
    return fastavro.schemaless_reader(io.BytesIO(value[5:]), schema)
