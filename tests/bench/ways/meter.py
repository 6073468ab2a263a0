"""What every way is timed with: from the first job that is handled to the last one.

Standard library alone, since it is copied into environments that hold nothing of this project.
"""

import itertools
import json
import os
import time
import zlib
from pathlib import Path


def fails(number: int) -> bool:
    """Whether a job's first run fails, where some do: one in a hundred."""
    return zlib.crc32(b"%d" % number) % 100 == 0


class Meter:
    """Counts handled jobs; at the last one it writes its figures down.

    `cpu_us`: CPU time of the whole process for each job, its C threads included.
    """

    def __init__(self, jobs: int, path: Path) -> None:
        self._last = jobs - 1
        self._jobs = jobs
        self._path = path
        self._next = itertools.count().__next__  # One step of C: safe from many threads.
        self._began = self._cpu = 0.0

    def tick(self) -> None:
        """Count one job."""
        number = self._next()
        if number == 0:
            self._began, self._cpu = time.perf_counter(), time.process_time()
        elif number == self._last:
            self._tell(time.perf_counter() - self._began, time.process_time() - self._cpu)

    def _tell(self, seconds: float, cpu: float) -> None:
        told = {
            "jobs": self._jobs,
            "seconds": seconds,
            "per_second": self._jobs / seconds,
            "cpu_us": cpu / self._jobs * 1e6,
        }
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(told))
        new.replace(self._path)


class Stopwatch:
    """Notes how long jobs took from being produced to being handled; writes p50 and p99 down.

    A job carries the machine's monotonic clock, which all processes share.
    """

    def __init__(self, jobs: int, path: Path) -> None:
        self._jobs = jobs
        self._path = path
        self._taken: list[int] = []

    def tick(self, produced_ns: int) -> None:
        """Note one job. The first tenth does not count: connections are made, schemas fetched."""
        self._taken.append(time.monotonic_ns() - produced_ns)
        if len(self._taken) == self._jobs:
            taken = sorted(self._taken[self._jobs // 10 :])
            p50, p99 = (taken[int(len(taken) * part)] / 1e6 for part in (0.5, 0.99))
            new = self._path.with_suffix(".new")
            new.write_text(json.dumps({"p50_ms": p50, "p99_ms": p99}))
            new.replace(self._path)


def from_environment() -> Meter:
    """The meter that the driver asks for."""
    return Meter(int(os.environ["BENCH_JOBS"]), Path(os.environ["BENCH_OUT"]))
