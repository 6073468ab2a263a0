"""Clients whose broker does not answer: nobody waits for ever, and nothing is lost unsaid."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError

from processor import AsyncClient, Client, ProcessorError
from processor.engine.submit import NewJob, Way
from processor.errors import BrokerUnavailable, UsageError
from processor.settings import Settings
from processor.submission import UNASKED_MAX, Submission

JOB = NewJob("x", {})
WAY = Way("x", lambda payload: b"value", message_bytes_max=1000, start_within_seconds=60.0)


class Producer:
    """A Kafka client that keeps what it is given; `answer` answers the oldest."""

    def __init__(self, *, room: int = 10_000) -> None:
        self.room = room
        self.given: list[Callable[[KafkaError | None, Any], None]] = []

    def produce(self, topic: str, *, on_delivery: Any, **_: Any) -> None:
        if len(self.given) >= self.room:
            raise BufferError
        self.given.append(on_delivery)

    def answer(self, error: int | None = None) -> None:
        fault = None if error is None else KafkaError(error)
        place = SimpleNamespace(partition=lambda: 0, offset=lambda: 0)
        self.given.pop(0)(fault, place)

    def flush(self, _: float) -> int:
        return len(self.given)

    def purge(self) -> None:
        while self.given:
            self.answer(KafkaError._PURGE_QUEUE)

    def poll(self, _: float) -> int:
        return 0


FORKED = """
import os
import sys

from processor import Client, NewJob, ProcessorError
from processor.settings import Settings

client = Client(Settings())
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
try:
    client.submit_soon(NewJob("x", {}))
except ProcessorError as refused:
    os._exit(0 if "before a fork" in refused.message else 2)
os._exit(1)
"""


def test_client_of_before_a_fork_is_refused_after_it():
    assert subprocess.run([sys.executable, "-c", FORKED], timeout=60).returncode == 0


def reaching(client: Client, producer: Any) -> Client:
    """Have a client use this producer, and know how its jobs are sent."""
    client._producer = producer
    client._ways["x"] = WAY
    return client


@pytest.fixture
def unheard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A client of a broker that does not exist, and that waits for long, but not at its end."""
    monkeypatch.setattr("processor.client.CLOSE_SECONDS", 0.3)
    kafka = {"bootstrap.servers": "127.0.0.1:1", "message.timeout.ms": 120_000}
    client = Client(Settings().model_copy(update={"kafka": kafka}))
    client._ways["x"] = WAY
    yield client
    client.close()


def test_close_raises_where_a_job_has_no_answer(unheard: Client):
    sent = unheard.submit_soon(JOB)

    with pytest.raises(BrokerUnavailable, match="before the Client was closed"):
        unheard.close()

    assert sent.done


def test_whoever_waits_for_an_answer_is_told_when_the_client_is_closed(unheard: Client):
    faults: list[BaseException] = []
    sent = unheard.submit_soon(JOB)

    def wait() -> None:
        try:
            sent.result()
        except ProcessorError as fault:
            faults.append(fault)

    waiter = threading.Thread(target=wait, daemon=True)
    waiter.start()
    while not sent.asked:
        time.sleep(0.001)
    unheard.close()  # The failure is known to whoever asked.
    waiter.join(10)

    assert [type(each) for each in faults] == [BrokerUnavailable]


def test_job_submitted_while_the_client_closes_is_refused():
    class Closing(Producer):
        def flush(self, _: float) -> int:
            try:
                client.submit_soon(JOB)
            except ProcessorError as fault:
                faults.append(fault)
            return super().flush(_)

    faults: list[BaseException] = []
    client = reaching(Client(Settings()), Closing())
    client.close()

    assert [type(each) for each in faults] == [UsageError]


def test_job_that_waits_for_room_while_the_client_closes_is_refused():
    producer = Producer(room=1)
    client = reaching(Client(Settings()), producer)
    first = client.submit_soon(JOB)
    faults: list[BaseException] = []

    def submit() -> None:
        try:
            client.submit_soon(JOB)
        except ProcessorError as fault:
            faults.append(fault)

    other = threading.Thread(target=submit, daemon=True)
    other.start()
    with pytest.raises(BrokerUnavailable):
        client.close()
    other.join(10)

    assert first.done
    assert [type(each) for each in faults] == [UsageError]


def test_answer_that_an_interrupt_has_swallowed_is_waited_for_no_longer_than_its_client():
    producer = Producer()
    client = reaching(Client(Settings()), producer)
    sent = client.submit_soon(JOB)
    told = producer.given.pop()

    with pytest.raises(KeyboardInterrupt):
        told(None, SimpleNamespace(partition=lambda: signal.raise_signal(signal.SIGINT)))
    client.close()

    with pytest.raises(BrokerUnavailable, match="interrupt"):
        sent.result()


def test_interrupt_in_the_midst_of_an_answer_is_one():
    class Interrupted(Producer):
        def poll(self, _: float) -> int:
            raise SystemError("<method 'poll'> returned NULL without setting an exception")

    client = reaching(Client(Settings()), Interrupted(room=0))

    with pytest.raises(KeyboardInterrupt):
        client.submit_soon(JOB)


def test_failure_that_was_asked_for_is_not_kept():
    class Refusing(Producer):
        def produce(self, topic: str, **more: Any) -> None:
            super().produce(topic, **more)
            self.answer(KafkaError._MSG_TIMED_OUT)

    client = reaching(Client(Settings()), Refusing())
    for _ in range(3):
        with pytest.raises(BrokerUnavailable):
            client.submit("x", {})

    assert not client._failed
    client.close()


def test_failures_that_nobody_asks_for_are_bounded_and_the_first_is_raised():
    producer = Producer()
    client = reaching(Client(Settings()), producer)
    sent: list[Submission] = [client.submit_soon(JOB) for _ in range(UNASKED_MAX + 10)]
    for _ in sent:
        producer.answer(KafkaError._MSG_TIMED_OUT)
    kept = len(client._failed)

    with pytest.raises(BrokerUnavailable):
        client.close()

    assert kept == UNASKED_MAX
    assert sent[0].asked


def async_client(producer: Producer) -> AsyncClient:
    client = AsyncClient(Settings())
    reaching(client._client, producer)
    client._prepared.add("x")
    return client


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_cancelled_submissions_count_until_they_are_answered():
    producer = Producer()

    async def submit() -> tuple[int, int]:
        client = async_client(producer)
        client._slots = asyncio.Semaphore(3)
        for _ in range(4):
            tasks = [asyncio.ensure_future(client.submit("x", {})) for _ in range(3)]
            await turns()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        most = len(producer.given)
        producer.answer()
        last = asyncio.ensure_future(client.submit("x", {}))
        await turns()
        while producer.given:
            producer.answer()
        await last
        return most, len(producer.given)

    assert asyncio.run(submit()) == (3, 0)


def test_event_loop_goes_on_while_the_buffer_is_full():
    producer = Producer(room=0)

    async def submit() -> str:
        client = async_client(producer)
        task = asyncio.ensure_future(client.submit("x", {}, job_id="j"))
        await turns()
        producer.room = 1  # Never reached by a loop that is held.
        while not producer.given:
            await asyncio.sleep(0.001)
        producer.answer()
        return (await task).job_id

    assert asyncio.run(submit()) == "j"
