"""The headers of a job's record: names, parsing, writing. The only module that knows the names.

A job's own headers follow the CloudEvents Kafka binding in binary mode:
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md

A retry or dead-letter record carries the original headers untouched plus one set under the prefix
`processor-`, which is replaced at every hop and never appended to, so headers cannot grow.
"""

from __future__ import annotations

JOB_ID = "ce_id"
JOB_TYPE = "ce_type"
SOURCE = "ce_source"
TIME = "ce_time"
SPEC_VERSION = "ce_specversion"
IDEMPOTENCY_KEY = "idempotency-key"
TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
NOT_BEFORE = "not-before"
DEADLINE = "deadline"
CLAIM = "claim"
