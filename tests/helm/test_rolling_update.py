"""The rendered pods, run as processes on a real stack and replaced one by one under load."""

from __future__ import annotations

import json
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from processor import Client, NewJob
from processor.engine.submit import Accepted
from processor.settings import load_settings
from tests.acceptance.project import eventually
from tests.helm import chart
from tests.helm.pods import Cluster, Workload

KEYS, PARTITIONS = 40, 6
SUBMITTED_AT_ONCE, PAUSE_SECONDS = 20, 0.1

MODULE = """
import os, time
from processor import App

app = App()

@app.job("order.count")
def count(payload: dict, ctx) -> dict:
    time.sleep(0.002)
    line = f"{payload['key']} {payload['seq']} {ctx.attempt}\\n".encode()
    runs = os.open(os.environ["RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(runs, line)  # One write: lines of several processes do not mix.
    os.close(runs)
    return {}
"""
SCHEMA = {
    "type": "record", "namespace": "order", "name": "count", "doc": "A job.",
    "fields": [{"name": "key", "type": "string", "doc": "Its key."},
               {"name": "seq", "type": "long", "doc": "Its place."}],
}  # fmt: skip


class Load:
    """Jobs of many keys, submitted all the time on a thread of its own."""

    def __init__(self, cluster: Cluster, settings: Any) -> None:
        self._settings = settings
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._submit, daemon=True)
        self.submitted = 0

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()

    def _submit(self) -> None:
        with Client(self._settings) as client:
            while not self._enough.is_set():
                jobs = [self._job(self.submitted + n) for n in range(SUBMITTED_AT_ONCE)]
                assert all(isinstance(each, Accepted) for each in client.submit_many(jobs))
                self.submitted += len(jobs)
                self._enough.wait(PAUSE_SECONDS)

    def _job(self, number: int) -> NewJob:
        key = f"k{number % KEYS}"
        return NewJob("order.count", {"key": key, "seq": number // KEYS}, key=key)


@pytest.fixture
def values(tmp_path: Path, kafka: Any, registry: Any) -> dict[str, Any]:
    """What a user would write, for this machine's servers."""
    topic = f"t{uuid.uuid4().hex[:8]}"
    declared = {"name": topic, "jobs": ["order.count"], "partitions": PARTITIONS,
                "retry": {"delays": ["1s"]}, "status": {"publish": False}}  # fmt: skip
    return {
        "settings": {
            "kafka": {
                "bootstrap.servers": kafka.bootstrap_servers,
                "session.timeout.ms": 10_000,
                "heartbeat.interval.ms": 500,
            },
            "registry": {"url": registry.url},
            "worker": {"drain_seconds": "5s", "shutdown_seconds": "15s",
                       "start_jitter_seconds": "200ms"},
        },
        "env": {"RUNS": "../runs"},  # Of its working folder: what the test looks at.
        "contracts": {
            "topics": {"orders.yaml": json.dumps(declared)},
            "schemas": {"order.count.avsc": json.dumps(SCHEMA)},
        },
        "secrets": [{"setting": "ledger.url", "secret": "ledger", "key": "url"}],
        "provision": {"commands": [["topics", "apply", topic], ["schemas", "register"]]},
        "workers": {
            "orders": {
                "module": "order_handlers:app",
                "topics": [topic],
                "group": f"{topic}-workers",
                "replicas": 3,
                "partitions": PARTITIONS,
            }
        },
    }  # fmt: skip


@pytest.fixture
def clusters(tmp_path: Path, database: str) -> Iterator[Any]:
    """Applies values: what the cluster has then. All that runs in it ends with the test."""
    app = tmp_path / "app"
    app.mkdir()
    (app / "order_handlers.py").write_text(MODULE)
    made: list[Cluster] = []

    def apply(values: dict[str, Any]) -> Cluster:
        folder = tmp_path / f"pods-{len(made)}"
        secrets = {"ledger": {"url": f"{database}\n"}}
        made.append(Cluster(chart.rendered(values), secrets, folder, app))
        return made[-1]

    yield apply
    for each in made:
        each.end()


@pytest.mark.acceptance
@pytest.mark.broker
@pytest.mark.registry
@pytest.mark.postgres
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "own", [{"kind": "Deployment"}, {"kind": "StatefulSet"}], ids=lambda own: own["kind"]
)
def test_pods_are_replaced_under_load_without_a_trace(
    values: dict[str, Any], clusters: Any, tmp_path: Path, own: dict[str, Any]
) -> None:
    values["workers"]["orders"].update(own)
    cluster = clusters(values)
    provisioned = cluster.pod("provision", chart.named(cluster.objects, "Job", "provision")["spec"]
                              ["template"]).run_to_end()  # fmt: skip
    workload = Workload(cluster, chart.named(cluster.objects, own["kind"], "worker-orders"))
    before = tree(cluster.app)

    workload.start()
    first = [pod.running.pid for pod in workload.pods]
    with Load(cluster, submitter(values, tmp_path)) as load:
        eventually(lambda: len(runs(tmp_path)) > 200, otherwise=workload.pods[0].log)
        ended = list(workload.roll(workload.applied))
        more = len(runs(tmp_path)) + 200
        eventually(lambda: len(runs(tmp_path)) > more)
    eventually(lambda: len(set(runs(tmp_path))) >= load.submitted,
               otherwise=lambda: f"{len(set(runs(tmp_path)))} of {load.submitted}")  # fmt: skip
    ended += [pod.stop() for pod in workload.pods]

    seen = runs(tmp_path)
    slowest = max(seconds for _, seconds in ended)
    print(f"{own['kind']}: {load.submitted} jobs, {len(ended)} pods ended, slowest {slowest:.1f} s")
    assert [done.returncode for done in provisioned] == [0, 0]
    assert len({*first, *(pod.running.pid for pod in workload.pods)}) == 6
    assert set(seen) == {(f"k{n % KEYS}", n // KEYS) for n in range(load.submitted)}  # None lost.
    assert [each for each, times in Counter(seen).items() if times > 1] == []
    assert out_of_order(seen) == []
    assert [code for code, _ in ended] == [0] * 6
    assert tree(cluster.app) == before  # The root could have been read-only.


@pytest.mark.acceptance
@pytest.mark.broker
@pytest.mark.registry
@pytest.mark.postgres
@pytest.mark.timeout(240)
def test_a_pod_of_several_processes_is_ready_when_all_of_them_are(
    values: dict[str, Any], clusters: Any
) -> None:
    values["workers"]["orders"].update(processes=2, replicas=1)
    cluster = clusters(values)
    cluster.pod("provision", chart.named(cluster.objects, "Job", "provision")["spec"]["template"]
                ).run_to_end()  # fmt: skip
    workload = Workload(cluster, chart.named(cluster.objects, "Deployment", "worker-orders"))

    workload.start()
    (pod,) = workload.pods
    (container,) = pod.spec["containers"]
    alive = pod.answers(container["livenessProbe"])
    tested = cluster.pod("test", chart.named(cluster.objects, "Pod", "test-orders")).run_to_end()
    code, seconds = pod.stop()
    gone = pod.answers(container["livenessProbe"])

    assert (alive, gone) == (True, False)
    assert [port["containerPort"] for port in container["ports"]] == [9100, 9101]
    assert len(tested[-1].stdout.splitlines()) == PARTITIONS  # `processor lag`, a line for each.
    assert code == 0
    assert seconds < pod.spec["terminationGracePeriodSeconds"]


def submitter(values: dict[str, Any], folder: Path) -> Any:
    """A producer's own settings."""
    for kind in ("topics", "schemas"):
        (folder / kind).mkdir()
        for name, text in values["contracts"][kind].items():
            (folder / kind / name).write_text(text)
    return load_settings(
        folder=folder,
        environ={},
        overrides={
            "kafka.bootstrap.servers": values["settings"]["kafka"]["bootstrap.servers"],
            "registry.url": values["settings"]["registry"]["url"],
            "topics_dir": str(folder / "topics"),
            "schemas_dir": str(folder / "schemas"),
        },
    )


def runs(folder: Path) -> list[tuple[str, int]]:
    """Each run of the handler: its key and place, in the order in which they came."""
    path = folder / "runs"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(words[0], int(words[1])) for words in (line.split() for line in lines)]


def out_of_order(seen: list[tuple[str, int]]) -> list[str]:
    latest: dict[str, int] = {}
    broken = []
    for key, place in seen:
        if place != latest.get(key, -1) + 1:
            broken.append(f"{key}: {place} after {latest.get(key)}")
        latest[key] = place
    return broken


def tree(folder: Path) -> list[tuple[str, int]]:
    return [(str(p.relative_to(folder)), p.lstat().st_mtime_ns) for p in sorted(folder.rglob("*"))]
