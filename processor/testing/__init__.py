"""Stand-ins for Kafka, the clock, the threads and the ledger: small, in memory, and deterministic.

They implement the ports that the engine speaks to, so a test (or a simulator) runs the production
worker over them: no thread, no randomness, no wall clock. What a test wants to happen it makes
happen: `ManualClock.advance`, `ManualPool.run_next`, `Broker.reassign`, `Broker.expire`.

    broker = Broker({"mail": 1, "mail.retry.1": 1})
    log = MemoryLog(broker, group="g")
    broker.append("mail", 0, key=b"k", value=b"v")
"""

from __future__ import annotations

from processor.testing.manual_clock import ManualClock
from processor.testing.manual_pool import ManualPool
from processor.testing.memory_broker import Broker
from processor.testing.memory_ledger import MemoryLedger, MemorySink
from processor.testing.memory_log import Fate, MemoryLog
from processor.testing.watched_ledger import WatchedLedger

__all__ = [
    "Broker",
    "Fate",
    "ManualClock",
    "ManualPool",
    "MemoryLedger",
    "MemoryLog",
    "MemorySink",
    "WatchedLedger",
]
