"""Dramatiq on Redis, 8 threads. `fill` sends the jobs."""

import sys
import time

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from meter import from_environment
from redis_job import JOBS, REDIS, arguments

broker = RedisBroker(url=f"{REDIS}/1", middleware=[])
dramatiq.set_broker(broker)
meter = from_environment()


@dramatiq.actor
def copy(job_id, job_type, idem, created, payload) -> None:
    meter.tick()


if sys.argv[1] == "fill":
    for number in range(JOBS):
        copy.send(*arguments(number))
else:
    dramatiq.Worker(broker, worker_threads=8).start()
    time.sleep(600)
