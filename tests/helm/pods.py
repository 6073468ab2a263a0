"""What a kubelet and a Deployment's or StatefulSet's controller do, with processes on this machine.

A pod is its rendered containers: their command, arguments, environment and mounted files, and the
environment of the image. Mounts are folders of the pod, so paths into them are written anew where
they are named. Each pod has a loopback address of its own, as it has one in a cluster.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path

from tests.acceptance.project import Process, eventually
from tests.helm.chart import NAMESPACE, Object, of_kind
from tests.image.dockerfile import stages_of

ROOT = Path(__file__).parent.parent.parent
_ADDRESSES = (f"127.77.{number // 250}.{number % 250 + 1}" for number in count())


class Cluster:
    """The objects that were applied, the secrets beside them, and the image's working folder."""

    def __init__(
        self, objects: Sequence[Object], secrets: Mapping[str, Mapping[str, str]],
        folder: Path, app: Path,
    ) -> None:  # fmt: skip
        self.objects, self.secrets, self.folder, self.app = objects, secrets, folder, app
        self.pods: list[Pod] = []

    def pod(self, name: str, template: Object) -> Pod:
        """Make a pod; it is started by its own methods."""
        made = Pod(self, name, template)
        self.pods.append(made)
        return made

    def config_map(self, name: str) -> Mapping[str, str]:
        (found,) = [e for e in of_kind(self.objects, "ConfigMap") if e["metadata"]["name"] == name]
        return dict(found["data"])

    def end(self) -> None:
        """Kill what is left."""
        for pod in self.pods:
            if pod.running and pod.running.process.poll() is None:
                pod.running.process.kill()
                pod.running.process.wait()


class Pod:
    """One pod: its files are laid out when it is made."""

    def __init__(self, cluster: Cluster, name: str, template: Object) -> None:
        self.name, self.address = name, next(_ADDRESSES)
        self.spec: Object = template["spec"]
        self.running: Process | None = None
        self._cluster = cluster
        self._folder = cluster.folder / f"{name}-{self.address}"
        self._volumes = {each["name"]: self._volume(each) for each in self.spec["volumes"]}

    def run_to_end(self) -> list[subprocess.CompletedProcess[str]]:
        """Run its containers one after the other, as a job's pod does; each must succeed."""
        done = []
        for container in [*self.spec.get("initContainers", []), *self.spec["containers"]]:
            ran = subprocess.run(
                self._command(container), env=self._environment(container), text=True,
                cwd=self._cluster.app, capture_output=True, timeout=60,
            )  # fmt: skip
            assert ran.returncode == 0, ran.stderr
            done.append(ran)
        return done

    def start(self) -> None:
        """Start its one container."""
        (container,) = self.spec["containers"]
        log = self._folder / "log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                self._command(container), env=self._environment(container), stdout=stream,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=self._cluster.app,
            )  # fmt: skip
        self.running = Process(process, log)

    def wait_until_ready(self) -> None:
        """Ask the startup and the readiness probe, for as long as the kubelet would."""
        (container,) = self.spec["containers"]
        for kind in ("startupProbe", "readinessProbe"):
            probe = container[kind]
            eventually(
                lambda probe=probe: self._alive() and self.answers(probe),
                timeout=min(60.0, probe["periodSeconds"] * probe["failureThreshold"]),
                otherwise=self.log,
            )

    def answers(self, probe: Object) -> bool:
        """Whether a probe succeeds."""
        (container,) = self.spec["containers"]
        if "exec" in probe:
            command = self._resolved(probe["exec"]["command"], self._environment(container))
            asked = subprocess.run(
                command, env=self._environment(container), cwd=self._cluster.app,
                capture_output=True, timeout=probe["timeoutSeconds"],
            )  # fmt: skip
            return asked.returncode == 0
        (port,) = [
            each["containerPort"]
            for each in container["ports"]
            if each["name"] == probe["httpGet"]["port"]
        ]
        url = f"http://{self.address}:{port}{probe['httpGet']['path']}"
        try:
            with urllib.request.urlopen(url, timeout=probe["timeoutSeconds"]) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def stop(self) -> tuple[int, float]:
        """Send SIGTERM, and wait for its grace period; returns the exit code and the seconds."""
        assert self.running is not None
        began = time.monotonic()
        code = self.running.end(timeout=self.spec["terminationGracePeriodSeconds"])
        return code, time.monotonic() - began

    def log(self) -> str:
        return self.running.log.read_text()[-4000:] if self.running else "it was never started"

    def _alive(self) -> bool:
        assert self.running is not None
        assert self.running.process.poll() is None, self.log()
        return True

    def _volume(self, volume: Object) -> Path:
        made = self._folder / volume["name"]
        made.mkdir(parents=True)
        if "configMap" in volume:
            data = self._cluster.config_map(volume["configMap"]["name"])
            for item in volume["configMap"]["items"]:
                self._file(made / item["path"], self._mapped(data[item["key"]]), 0o444)
        for source in volume.get("projected", {}).get("sources", []):
            secret = self._cluster.secrets[source["secret"]["name"]]
            for item in source["secret"]["items"]:
                mode = volume["projected"]["defaultMode"]
                self._file(made / item["path"], secret[item["key"]], mode)
        return made

    def _file(self, path: Path, text: str, mode: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def _mapped(self, text: str) -> str:
        """The text with each mounted path as it is here."""
        mounts = {
            mount["mountPath"]: str(self._folder / mount["name"])
            for container in self.spec["containers"]
            for mount in container["volumeMounts"]
        }
        longest_first = "|".join(sorted(map(re.escape, mounts), key=len, reverse=True))
        return re.sub(
            rf"(?<![\w./-])({longest_first})(?=[/\"\s]|$)", lambda found: mounts[found[1]], text
        )

    def _environment(self, container: Object) -> dict[str, str]:
        image = stages_of(ROOT / "Dockerfile")[-1].environment()
        image["PATH"] = f"{Path(sys.executable).parent}:{os.defpath}"  # The image's /opt/processor.
        facts = {
            "status.podIP": self.address,
            "metadata.name": self.name,
            "metadata.namespace": NAMESPACE,
        }
        for variable in container["env"]:
            if "value" in variable:
                image[variable["name"]] = self._mapped(variable["value"])
            else:
                image[variable["name"]] = facts[variable["valueFrom"]["fieldRef"]["fieldPath"]]
        return image

    def _command(self, container: Object) -> list[str]:
        words = [*container["command"], *container.get("args", [])]
        return self._resolved([self._mapped(w) for w in words], self._environment(container))

    def _resolved(self, words: list[str], environment: Mapping[str, str]) -> list[str]:
        found = shutil.which(words[0], path=environment["PATH"])
        assert found is not None, f"the image has no {words[0]}"
        return [found, *words[1:]]


class Workload:
    """A Deployment or StatefulSet and its pods."""

    def __init__(self, cluster: Cluster, applied: Object) -> None:
        self._cluster, self._names = cluster, count(1)
        self.applied = applied
        self.pods: list[Pod] = []

    @property
    def _static(self) -> bool:
        return bool(self.applied["kind"] == "StatefulSet")

    def start(self) -> None:
        """Start as many pods as are wanted, and wait until all are ready."""
        for number in range(self.applied["spec"]["replicas"]):
            self.pods.append(self._new(number))
        for pod in self.pods:
            pod.start()
        for pod in self.pods:
            pod.wait_until_ready()

    def roll(self, changed: Object) -> Iterator[tuple[int, float]]:
        """Replace every pod as the controller would; yields how each of the old ones ended."""
        self.applied = changed
        if self._static:
            for number in reversed(range(len(self.pods))):
                yield self.pods[number].stop()
                self.pods[number] = self._started(number)
            return
        rule = changed["spec"]["strategy"]["rollingUpdate"]
        assert (rule["maxSurge"], rule["maxUnavailable"]) == (1, 0), "rolled otherwise than here"
        for number, old in enumerate(list(self.pods)):
            self.pods[number] = self._started(number)
            yield old.stop()

    def _started(self, number: int) -> Pod:
        pod = self._new(number)
        pod.start()
        pod.wait_until_ready()
        return pod

    def _new(self, number: int) -> Pod:
        name = self.applied["metadata"]["name"]
        suffix = str(number) if self._static else f"7d9f-{next(self._names)}"
        return self._cluster.pod(f"{name}-{suffix}", self.applied["spec"]["template"])
