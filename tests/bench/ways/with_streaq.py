"""streaq on Redis, 64 at once. `fill` sends the jobs."""

import asyncio
import sys

from meter import from_environment
from redis_job import JOBS, REDIS, arguments
from streaq import Worker

worker = Worker(redis_url=f"{REDIS}/2", concurrency=64)
meter = from_environment()


@worker.task
async def copy(job_id: str, job_type: str, idem: str, created: int, payload: str) -> None:
    meter.tick()


async def fill() -> None:
    async with worker:
        jobs = [copy.enqueue(*arguments(number)) for number in range(JOBS)]
        for start in range(0, JOBS, 1000):
            await worker.enqueue_many(jobs[start : start + 1000])


if sys.argv[1] == "fill":
    asyncio.run(fill())
else:
    worker.run_sync()
