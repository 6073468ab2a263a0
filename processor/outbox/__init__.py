"""The transactional outbox: submit a job in the same transaction as the data it is about.

`Outbox(connection).submit(…)` writes a row; `processor outbox relay` brings committed rows to
Kafka. A transaction that is rolled back leaves no job, and one that commits leaves exactly one.
"""

from __future__ import annotations

from processor.outbox.write import Outbox

__all__ = ["Outbox"]
