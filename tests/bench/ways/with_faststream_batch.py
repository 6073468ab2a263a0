"""FastStream on confluent-kafka, 500 jobs a call."""

import uvloop
from faststream import FastStream
from faststream.confluent import KafkaBroker
from peer import GROUP, SERVERS, TOPIC, decoded, meter

broker = KafkaBroker(SERVERS, logger=None)


@broker.subscriber(
    TOPIC,
    group_id=GROUP,
    auto_offset_reset="earliest",
    batch=True,
    max_records=500,
    decoder=lambda msg: [decoded(body) for body in msg.body],
)
async def handle(jobs) -> None:
    for _ in jobs:
        meter.tick()


uvloop.run(FastStream(broker, logger=None).run())
