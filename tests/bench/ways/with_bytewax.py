"""Bytewax."""

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, run_main
from peer import SERVERS, TOPIC, decoded, meter


def handle(message):
    decoded(message.value)
    meter.tick()
    return message


flow = Dataflow("bench")
source = op.input("in", flow, KafkaSource([SERVERS], [TOPIC], batch_size=1000, tail=False))
op.output("out", op.map("handle", source, handle), TestingSink([]))
run_main(flow)
