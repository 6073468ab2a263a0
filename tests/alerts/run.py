"""A run of real workers that goes well, and is then made to go wrong in every way that alerts know.

Prometheus scrapes it with a hurried copy of the rules: 5 minutes of theirs are 3 seconds here.
"""

from __future__ import annotations

import json
import resource
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from processor import Client, NewJob
from processor.engine.submit import Accepted
from processor.outbox import Outbox
from processor.outbox.write import Contracts
from tests.acceptance.project import Process, Project, eventually, stopped
from tests.alerts.prometheus import Prometheus
from tests.alerts.rules import DASHBOARD, RULES, hurried

FACTOR = 100
HEALTHY_SECONDS = 10.0  # A quarter of an hour of the rules' time.
TICK_SECONDS = 0.25
PATIENCE_SECONDS = 90.0
JOBS = ("good", "fail", "slow", "stuck", "away", "hold")

MODULE = """
import time
from pathlib import Path
from processor import App, Reject
from processor.errors import SinkUnavailable

app = App()

def broken():
    return Path("broken").exists()

class Plain:
    def write(self, effects):
        return ["" for _ in effects]

class Away(Plain):
    def write(self, effects):
        if broken():
            raise SinkUnavailable("no answer")
        return super().write(effects)

class Stuck(Plain):
    def write(self, effects):
        while broken():
            time.sleep(0.05)
        return super().write(effects)

@app.job("run.good", sink=Plain())
def good(payload: dict) -> dict:
    return {}

@app.job("run.fail")
def fail(payload: dict, ctx) -> None:
    if broken():
        raise ConnectionError("no answer")

@app.job("run.slow")
def slow(payload: dict) -> None:
    if broken():
        time.sleep(0.2)

@app.job("run.stuck", sink=Stuck())
def stuck(payload: dict) -> dict:
    return {}

@app.job("run.away", sink=Away())
def away(payload: dict) -> dict:
    return {}

@app.job("run.hold")
def hold(payload: dict) -> None:
    if broken():
        raise Reject("no")
"""

# Which topic each alert is to name, where it names one.
PROVOKED = {
    "ProcessorDeadLetters": "fail",
    "ProcessorErrorRate": "fail",
    "ProcessorRetryStorm": "fail",
    "ProcessorQueueGrowing": "slow",
    "ProcessorPartitionStalled": "stuck",
    "ProcessorOldestJob": "stuck",
    "ProcessorOutagePause": "away",
    "ProcessorKeysHeld": "hold",
    "ProcessorMemoryHigh": None,
    "ProcessorOutboxWaits": None,
}


@dataclass
class Seen:
    """What the run has shown."""

    healthy: list[tuple[str, str]] = field(default_factory=list)  # Alerts and topics that fired.
    fired: dict[str, tuple[float, dict[str, Any]]] = field(default_factory=dict)
    good: set[str] = field(default_factory=set)  # Alerts that named the topic which is well.
    panels: dict[str, list[tuple[str, float]]] = field(default_factory=dict)  # By title and query.


class Run:
    """The project, its workers and its relay."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.seen = Seen()
        self._over = threading.Event()
        self.ending = False  # From now on jobs may be refused.
        self._broken = project.folder / "broken"
        self._outbox = f"sqlite:///{project.folder / 'outbox.db'}"
        self._topics: dict[str, str] = {}
        self._count = 0

    def prepare(self) -> None:
        """Make the topics and the outbox."""
        self.project.write_settings(
            worker={"concurrency": 16, "drain_seconds": 1, "shutdown_seconds": 3},
        )
        more: dict[str, dict[str, Any]] = {
            "good": {"partitions": 4, "ordering": "key"},
            "fail": {"partitions": 2, "retry": {"delays": ["200ms"], "attempts": 2}},
            "slow": {"partitions": 2},
            "stuck": {"partitions": 1},
            "away": {"partitions": 2},
            "hold": {"partitions": 1, "dead_letter": {"policy": "hold"}},
        }
        for name in JOBS:
            self.project.add_schema(f"run.{name}", [{"name": "n", "type": "long"}])
            topic = self.project.add_topic(name, [f"run.{name}"], **more[name])
            self._topics[topic] = name
        self.project.add_module("handlers", MODULE)
        self.project.provision()
        self.project.run("outbox", "create", "--url", self._outbox).ok()

    def start(self, *arguments: str) -> tuple[Process, str]:
        """Start a command that serves metrics. Returns it and its address."""
        process = self.project.start(*arguments, "--metrics-port", "0")
        process.wait_for("probes and metrics answer")
        rows = process.logged()
        url = next(row["url"] for row in rows if row["event"] == "probes and metrics answer")
        return process, url.removeprefix("http://")

    def worker(self) -> tuple[Process, str]:
        """Start a worker."""
        return self.start("work", "handlers:app")

    def relay(self) -> tuple[Process, str]:
        """Start an outbox relay."""
        return self.start("outbox", "relay", "--url", self._outbox)

    @contextmanager
    def fed(self) -> Iterator[None]:
        """Submit jobs all the time, of every kind."""
        feeding = threading.Thread(target=self._feed, daemon=True)
        feeding.start()
        try:
            yield
        finally:
            self._over.set()
            feeding.join()

    def _feed(self) -> None:
        with Client(self.project.settings()) as client:
            flooded = False
            while not self._over.wait(TICK_SECONDS):
                broken = self._broken.exists()
                counts = {"good": 10, "fail": 8 if broken else 2, "slow": 8 if broken else 2}
                if broken and not flooded:
                    counts |= {"fail": 150, "slow": 700}
                    flooded = True
                jobs = [self._job(name) for name in JOBS for _ in range(counts.get(name, 1))]
                refused = [e for e in client.submit_many(jobs) if not isinstance(e, Accepted)]
                assert refused == [] or self.ending

    def _job(self, name: str) -> NewJob:
        self._count += 1
        return NewJob(f"run.{name}", {"n": self._count}, key=f"k{self._count % 500}")

    def break_all(self, worker: Process) -> None:
        """Let everything go wrong that need not wait: handlers, sinks, memory, the outbox."""
        hard = resource.prlimit(worker.pid, resource.RLIMIT_RSS)[1]
        resource.prlimit(worker.pid, resource.RLIMIT_RSS, (50 * 1024 * 1024, hard))
        connection = sqlite3.connect(self._outbox.removeprefix("sqlite:///"), timeout=30)
        with connection:
            contracts = Contracts(self.project.settings())
            Outbox(connection, contracts=contracts).submit("run.good", {"n": 0})
            connection.execute("UPDATE processor_outbox SET aggregatetype='is.not.there'")
        connection.close()
        self._broken.touch()

    # What Prometheus shows.

    def stay_quiet(self, prometheus: Prometheus) -> None:
        """Note what fires though nothing is wrong, from the first scrape of all on."""
        eventually(lambda: prometheus.values("sum(up) == 3") and not prometheus.active())
        until = time.monotonic() + HEALTHY_SECONDS
        while time.monotonic() < until:
            for each in prometheus.firing():
                labels = each["labels"]
                self.seen.healthy.append((labels["alertname"], labels.get("topic", "")))
            time.sleep(TICK_SECONDS)

    def await_alerts(self, prometheus: Prometheus, wanted: dict[str, str | None]) -> None:
        """Wait until each of these has fired, for its topic; what was seen is kept."""
        began = time.monotonic()

        def all_seen() -> bool:
            for each in prometheus.firing():
                name = each["labels"]["alertname"]
                topic = self._topics.get(each["labels"].get("topic", ""))
                if topic == "good":
                    self.seen.good.add(name)
                if name in wanted and wanted[name] in (topic, None):
                    self.seen.fired.setdefault(name, (time.monotonic() - began, each))
            return set(wanted) <= set(self.seen.fired)

        eventually(
            all_seen,
            timeout=PATIENCE_SECONDS,
            otherwise=lambda: f"not fired: {set(wanted) - set(self.seen.fired)}",
        )

    def look_at_panels(self, prometheus: Prometheus) -> None:
        """Ask each panel's queries, until each has an answer or time is up."""
        for title, query in queries():
            asked = filled_in(query)
            until = time.monotonic() + 5
            while not (values := numbers(prometheus, asked)) and time.monotonic() < until:
                time.sleep(TICK_SECONDS)
            self.seen.panels[f"{title}: {query}"] = values


def numbers(prometheus: Prometheus, query: str) -> list[tuple[str, float]]:
    """What a query gives: series and values, those that are no numbers left out."""
    found = prometheus.values(query)
    return [(" ".join(labels.values()), value) for labels, value in found if value == value]


def queries() -> list[tuple[str, str]]:
    """Every query of the dashboard, with its panel's title."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [
        (panel["title"], target["expr"]) for panel in panels for target in panel.get("targets", [])
    ]


def filled_in(query: str) -> str:
    """A query as Grafana would ask it, with all workers and topics chosen."""
    filled = query.replace("$__rate_interval", "10s").replace("$job", ".+").replace("$topic", ".+")
    assert "$" not in filled
    return filled


def whole_run(project: Project, kafka: Any, folder: Path, tell: Callable[[str], None]) -> Seen:
    """Go well, then wrong, and tell what was seen."""
    run = Run(project)
    run.prepare()
    workers = [run.worker() for _ in range(2)]
    relay, relay_address = run.relay()
    rules = folder / "alerts.yaml"
    rules.write_text(hurried(RULES.read_text(encoding="utf-8"), factor=FACTOR))
    targets = {"worker": [address for _, address in workers], "relay": [relay_address]}
    for process, _ in workers:
        process.wait_for("partition taken over", count=2)
    with Prometheus(folder / "prometheus", rules=rules, targets=targets) as prometheus, run.fed():
        began = time.monotonic()
        run.stay_quiet(prometheus)
        tell(f"healthy for {time.monotonic() - began:.0f} s")
        (first, _), (second, _) = workers
        run.break_all(first)
        run.await_alerts(prometheus, dict(PROVOKED))
        run.look_at_panels(prometheus)
        run.ending = True
        with stopped(kafka):
            second.process.send_signal(signal.SIGSTOP)
            run.await_alerts(
                prometheus, {"ProcessorPartitionsUnowned": None, "ProcessorCommitAge": None}
            )
        for process in (first, second, relay):
            process.process.kill()
            process.process.wait()
        run.await_alerts(prometheus, {"ProcessorNoWorker": None})
        tell(f"{len(run.seen.fired)} alerts within {time.monotonic() - began:.0f} s")
    return run.seen
