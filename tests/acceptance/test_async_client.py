"""`AsyncClient` on a real broker: in order, refused clearly, cancelled without harm."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from processor import AsyncClient, ProcessorError
from processor.adapters.reader import TopicReader
from processor.model import Partition
from tests.acceptance.project import Project

pytestmark = [pytest.mark.acceptance, pytest.mark.broker, pytest.mark.registry]


@pytest.fixture
def topic(project: Project) -> str:
    project.add_schema("seq.count", [{"name": "n", "type": "long"}])
    name = project.add_topic("seq", ["seq.count"])
    project.provision()
    return name


@contextlib.asynccontextmanager
async def client_of(project: Project) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(project.settings()) as client:
        yield client


def ids_on(project: Project, topic: str) -> list[str]:
    """The ids of the jobs on a topic, partition by partition in order."""
    partitions = [Partition(topic, number) for number in range(3)]
    with TopicReader(project.settings().kafka) as reader:
        records = list(reader.read_all(partitions))
    ids = [(each.partition, each.offset, dict(each.headers)["ce_id"]) for each in records]
    return [name.decode() for _, _, name in sorted(ids)]


def test_jobs_of_a_key_that_are_begun_in_order_are_on_the_log_in_order(
    project: Project, topic: str
):
    async def submit() -> list[str]:
        async with client_of(project) as client:
            jobs = (
                client.submit("seq.count", {"n": n}, key="k", job_id=f"job-{n}") for n in range(300)
            )
            return [each.job_id for each in await asyncio.gather(*jobs)]

    accepted = asyncio.run(submit())

    assert accepted == ids_on(project, topic) == [f"job-{n}" for n in range(300)]


def test_event_loop_goes_on_while_a_job_is_submitted(project: Project, topic: str):
    async def submit() -> int:
        turns = 0
        async with client_of(project) as client:
            task = asyncio.ensure_future(client.submit("seq.count", {"n": 1}))
            while not task.done():
                turns += 1
                await asyncio.sleep(0)
            assert task.result().topic == topic
        return turns

    assert asyncio.run(submit()) > 10


def test_payload_that_does_not_match_is_refused_and_the_next_one_is_accepted(
    project: Project, topic: str
):
    async def submit() -> str:
        async with client_of(project) as client:
            with pytest.raises(ProcessorError, match="n"):
                await client.submit("seq.count", {"n": "one"})
            return (await client.submit("seq.count", {"n": 1}, job_id="good")).job_id

    assert asyncio.run(submit()) == "good"
    assert ids_on(project, topic) == ["good"]


def test_submission_that_is_cancelled_leaves_the_client_whole(project: Project, topic: str):
    async def submit() -> None:
        async with client_of(project) as client:
            await client.submit("seq.count", {"n": 0}, job_id="first")
            task = asyncio.ensure_future(client.submit("seq.count", {"n": 1}, job_id="second"))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await client.submit("seq.count", {"n": 2}, job_id="third")

    asyncio.run(submit())

    assert {"first", "third"} <= set(ids_on(project, topic))
