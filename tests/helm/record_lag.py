"""Record lag_curves.csv: lag as a real topic has it while a real worker works it off.

`python -m tests.helm.record_lag` writes it anew, in about two minutes. The curves are recorded in
quick motion: a quarter of a second stands for the 15 that pass between two turns of an autoscaler,
and one job for JOBS_STAND_FOR.
"""

from __future__ import annotations

import csv
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from processor import Client, NewJob
from processor.cli.declared import declared_topics
from processor.engine.submit import Accepted
from processor.lag import lag_of
from processor.stack import Stack
from tests.acceptance.project import Project

CURVES = Path(__file__).parent / "lag_curves.csv"
SECONDS, STEP_SECONDS, JOBS_STAND_FOR = 30.0, 0.25, 100

MODULE = """
import time
from processor import App

app = App()

@app.job("lag.record")
def record(payload: dict) -> None:
    time.sleep(0.02)
"""

# How many jobs come at a step, of 120; the worker does about ten in each.
SHAPES: dict[str, Callable[[int], int]] = {
    "spike": lambda step: 300 if step == 10 else 1,
    "ramp": lambda step: min(step // 4, 14),
    "sawtooth": lambda step: 40 if step % 16 < 4 else 1,
    "held": lambda step: 10 if step < 60 else 0,
}


def recorded(project: Project, name: str) -> Iterator[tuple[int, int]]:
    """Lag with what is parked, and the part of it that a worker could run, at every step."""
    topic = project.add_topic(name, ["lag.record"], partitions=1, retry={"delays": ["1h"]})
    project.provision()
    settings = project.settings()
    worker = project.start("work", "handlers:app", "--topic", topic, "--group", topic)
    worker.wait_for("partition taken over")
    (declared,) = declared_topics(settings, [topic])
    began = time.monotonic()
    with Client(settings) as client:
        for step in range(round(SECONDS / STEP_SECONDS)):
            later = time.time() + 3600 if name == "held" else None
            jobs = [
                NewJob("lag.record", {"n": n}, key=f"k{n}", not_before=later)
                for n in range(SHAPES[name](step))
            ]
            assert all(isinstance(each, Accepted) for each in client.submit_many(jobs))
            time.sleep(max(0.0, began + step * STEP_SECONDS - time.monotonic()))
            rows = list(lag_of(settings, declared, topic))
            runnable = sum(row.lag for row in rows) * JOBS_STAND_FOR
            yield runnable + sum(row.retrying for row in rows) * JOBS_STAND_FOR, runnable
    worker.end()
    (project.folder / "topics" / f"{name}.yaml").unlink()  # A job type has one topic.


def main() -> None:
    """Record every shape on a stack of its own."""
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder, "stack"))
        try:
            stack.start("kafka", "registry")
            servers = {
                "kafka": {"bootstrap.servers": stack.kafka.bootstrap_servers},
                "registry": {"url": stack.registry.url},
                "ledger": {"url": "none"},
                "worker": {"concurrency": 1, "commit_interval_seconds": 0.1},
            }
            Path(folder, "project").mkdir()
            project = Project(Path(folder, "project"), servers)
            project.add_module("handlers", MODULE)
            project.add_schema("lag.record", [{"name": "n", "type": "long"}])
            with CURVES.open("w", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(("curve", "lag", "runnable"))
                for name in SHAPES:
                    writer.writerows((name, *row) for row in recorded(project, name))
        finally:
            stack.stop(kill=True)


if __name__ == "__main__":
    main()
