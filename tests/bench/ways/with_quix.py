"""Quix Streams."""

from peer import GROUP, SERVERS, TOPIC, decoded, meter
from quixstreams import Application

app = Application(
    broker_address=SERVERS, consumer_group=GROUP, auto_offset_reset="earliest", loglevel="ERROR"
)
topic = app.topic(TOPIC, value_deserializer="bytes", key_deserializer="bytes")
app.dataframe(topic).apply(decoded).update(lambda _: meter.tick())
app.run()
