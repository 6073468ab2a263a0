"""FastStream on confluent-kafka, one job a call."""

import uvloop
from faststream import FastStream
from faststream.confluent import KafkaBroker
from peer import GROUP, SERVERS, TOPIC, decoded, meter

broker = KafkaBroker(SERVERS, logger=None)


@broker.subscriber(
    TOPIC, group_id=GROUP, auto_offset_reset="earliest", decoder=lambda msg: decoded(msg.body)
)
async def handle(job) -> None:
    meter.tick()


uvloop.run(FastStream(broker, logger=None).run())
