"""Celery on Redis: acknowledged late, the solo pool. `fill` sends the jobs."""

import sys

from celery import Celery
from meter import from_environment
from redis_job import JOBS, REDIS, arguments

app = Celery("bench", broker=f"{REDIS}/0")
app.conf.update(
    task_ignore_result=True,
    task_acks_late=True,
    worker_prefetch_multiplier=64,
    task_serializer="json",
    worker_hijack_root_logger=False,
)
meter = from_environment()


@app.task(name="bench.copy")
def copy(job_id, job_type, idem, created, payload) -> None:
    meter.tick()


if sys.argv[1] == "fill":
    with app.producer_pool.acquire() as producer:
        for number in range(JOBS):
            copy.apply_async(args=arguments(number), producer=producer)
else:
    app.worker_main(["worker", "-P", "solo", "-l", "ERROR"])
