"""The chart as `helm` renders it: objects to look at, or the message with which it refuses."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent
CHART = ROOT / "helm" / "processor"
VALUE_SETS = sorted((Path(__file__).parent / "values").glob("*.yaml"))
KUBERNETES = "1.33"
RELEASE, NAMESPACE = "jobs", "production"

Object = dict[str, Any]


def helm() -> str:
    """The helm that `make` has built, beside the Python that runs the tests."""
    built = Path(sys.executable).parent / "helm"
    found = str(built) if built.exists() else shutil.which("helm")
    assert found, "there is no helm; hint: run `make .venv/bin/helm`"
    return found


def run_helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([helm(), *arguments], capture_output=True, text=True, timeout=60)


def template(values: Sequence[Mapping[str, Any] | Path]) -> subprocess.CompletedProcess[str]:
    """Render the chart with these values, the later over the earlier."""
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for number, each in enumerate(values):
            file = each if isinstance(each, Path) else Path(folder, f"{number}.yaml")
            if not isinstance(each, Path):
                file.write_text(yaml.safe_dump(dict(each)))
            files += ["--values", str(file)]
        return run_helm(
            "template", RELEASE, str(CHART), "--namespace", NAMESPACE,
            "--kube-version", KUBERNETES, *files,
        )  # fmt: skip


def rendered(*values: Mapping[str, Any] | Path) -> list[Object]:
    """The objects of the chart with these values."""
    done = template(values)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each is not None]


def refusal(*values: Mapping[str, Any] | Path) -> str:
    """What helm says of values that the chart refuses."""
    done = template(values)
    assert done.returncode != 0, "it was not refused"
    return done.stderr


def of_kind(objects: Sequence[Object], *kinds: str) -> list[Object]:
    return [each for each in objects if each["kind"] in kinds]


def named(objects: Sequence[Object], kind: str, name: str) -> Object:
    """The object of this kind and name, without the release's part of the name."""
    full = f"{RELEASE}-processor-{name}"
    (found,) = [each for each in of_kind(objects, kind) if each["metadata"]["name"] == full]
    return found


def pod_specs(objects: Sequence[Object]) -> Iterator[tuple[str, Object]]:
    """The spec of every pod that the objects lead to, and whose it is."""
    for each in objects:
        where = f"{each['kind']} {each['metadata']['name']}"
        if each["kind"] == "Pod":
            yield where, each["spec"]
        elif each["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield where, each["spec"]["template"]["spec"]


def containers(spec: Object) -> list[Object]:
    return [*spec.get("initContainers", []), *spec["containers"]]
