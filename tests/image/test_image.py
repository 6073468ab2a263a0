"""The image: linted, its steps done by hand in a clean prefix, and run there on a real Kafka."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

import pytest

from tests.image.dockerfile import ByHand, files_below, stages_of

ROOT = Path(__file__).parent.parent.parent
DOCKERFILE = ROOT / "Dockerfile"
LOCKS = ("requirements.lock", "requirements-build.lock")


def lint(path: Path) -> list[dict[str, Any]]:
    hadolint = Path(sys.executable).parent / "hadolint"
    ran = subprocess.run(
        [str(hadolint), "--format", "json", "--no-color", str(path)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return list(json.loads(ran.stdout))


def test_the_dockerfile_has_no_finding_of_the_linter(tmp_path: Path) -> None:
    planted = tmp_path / "Dockerfile"
    planted.write_text(DOCKERFILE.read_text().replace('ENTRYPOINT ["processor"]', "CMD processor"))

    assert lint(DOCKERFILE) == []
    assert {each["code"] for each in lint(planted)} == {"DL3025"}


def test_the_image_runs_the_program_itself_as_nobody_in_particular() -> None:
    build, final = stages_of(DOCKERFILE)

    assert final.entry_point() == ["processor"]  # No shell between it and SIGTERM.
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", final.last("USER"))
    assert final.last("STOPSIGNAL") == "SIGTERM"
    assert final.all_of("RUN") == []
    assert [rest.split()[0] for rest in final.all_of("COPY")] == [f"--from={build.name}"]


def test_the_docker_context_is_what_the_dockerfile_copies() -> None:
    copied = {
        name.removeprefix("./")
        for rest in stages_of(DOCKERFILE)[0].all_of("COPY")
        for name in rest.split()[:-1]
    }
    sent = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }

    assert copied == sent


def test_the_locks_are_what_pyproject_asks_for(tmp_path: Path) -> None:
    for name in LOCKS:
        shutil.copy(ROOT / name, tmp_path)

    subprocess.run(
        ["make", "--old-file=.venv/.dev", "lock", f"LOCKS={tmp_path}",
         f"BIN={Path(sys.executable).parent}"],
        cwd=ROOT, check=True, capture_output=True, text=True, timeout=100,
    )  # fmt: skip

    for name in LOCKS:
        assert (tmp_path / name).read_text() == (ROOT / name).read_text(), "run `make lock`"
        assert all_hashed((ROOT / name).read_text())


def all_hashed(lock: str) -> bool:
    pins = re.findall(r"^\S+==\S+.*?(?=^\S|\Z)", lock, re.MULTILINE | re.DOTALL)
    return bool(pins) and all("--hash=sha256:" in pin for pin in pins)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ByHand]:
    """The image below a folder; the packages come from pip's cache where it has them."""
    cache = {"PIP_NO_CACHE_DIR": "0", "PIP_CACHE_DIR": str(pip_cache())}
    passed = {name: os.environ[name] for name in os.environ if name.startswith("PIP_")}
    made = ByHand(tmp_path_factory.mktemp("image") / "root", ROOT, {**passed, **cache})
    made.build(stages_of(DOCKERFILE))
    yield made
    shutil.rmtree(made.root.parent)


def pip_cache() -> Path:
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "cache", "dir"], capture_output=True, text=True, check=True
    )
    return Path(asked.stdout.strip())


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def installed(image: ByHand) -> dict[str, Distribution]:
    (packages,) = (image.root / "opt" / "processor" / "lib").glob("python*/site-packages")
    return {canonical(each.metadata["Name"]): each for each in distributions(path=[str(packages)])}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_image_has_what_the_lock_names_and_nothing_for_development(image: ByHand) -> None:
    has = installed(image)
    lock = (ROOT / "requirements.lock").read_text()
    locked = dict(re.findall(r"^([\w.-]+)(?:\[\w+\])?==([^\s;\\]+)", lock, re.MULTILINE))

    assert {"processor", "confluent-kafka", "psycopg", "boto3"} <= set(has)
    for name, each in has.items():
        assert name == "processor" or locked[name] == each.version
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {re.split(r"[\[<>=]", each)[0] for part in ("local", "test", "dev")
             for each in extras["optional-dependencies"][part]}  # fmt: skip
    wanted = re.findall(r"^IMAGE_EXTRAS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    taken = [extras["optional-dependencies"][part] for part in wanted[0].split()]
    kept = {re.split(r"[\[<>=]", each)[0] for each in sum(taken, extras["dependencies"])}
    kept.add("processor")
    assert set(has) & (named - kept | {"pip", "setuptools", "hatchling"}) == set()
    assert not (image.root / "src").exists()


@pytest.mark.slow
@pytest.mark.broker
@pytest.mark.registry
@pytest.mark.timeout(300)
def test_the_entry_point_works_and_writes_nothing_into_the_image(
    image: ByHand, kafka: Any, registry: Any
) -> None:
    final = stages_of(DOCKERFILE)[-1]
    parts = ("opt", "app")
    before = {part: list(files_below(image.root / part)) for part in parts}
    servers = {
        "PROCESSOR_KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "PROCESSOR_REGISTRY_URL": registry.url,
    }
    image._more.update(servers)

    version = image.run(final, "--version")
    applied = image.run(final, "topics", "apply", "copy")
    registered = image.run(final, "schemas", "register")
    refused = image.run(final, "work", "nothing:app")
    probed = image.run(final, "lag", "copy")

    assert version.stdout == "processor, version 0.1.0\n"
    for done in (applied, registered, probed):
        assert done.returncode == 0, done.stderr
    assert len(probed.stdout.splitlines()) == 12
    assert refused.returncode == 2 and "`nothing` cannot be imported" in refused.stderr
    assert {part: list(files_below(image.root / part)) for part in parts} == before
