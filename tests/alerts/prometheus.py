"""A real Prometheus that scrapes some targets, for tests: asked by its HTTP API."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from processor.stack.site import find_free_port
from tests.acceptance.project import eventually

SCRAPE_EVERY = "1s"
EVALUATE_EVERY = "500ms"


class Prometheus:
    """Scrapes targets by job each second, and evaluates rules twice as often."""

    def __init__(self, folder: Path, *, rules: Path, targets: Mapping[str, Sequence[str]]) -> None:
        self._folder = folder
        self._url = f"http://127.0.0.1:{find_free_port(set())}"
        config = {
            "global": {
                "scrape_interval": SCRAPE_EVERY,
                "scrape_timeout": SCRAPE_EVERY,
                "evaluation_interval": EVALUATE_EVERY,
            },
            "rule_files": [str(rules)],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": list(each)}]}
                for job, each in targets.items()
            ],
        }
        folder.mkdir()
        (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML.
        self._client = httpx.Client(base_url=self._url, timeout=10)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Prometheus:
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={self._folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address={self._url.removeprefix('http://')}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        eventually(self._ready, timeout=30, otherwise=(self._folder / "log").read_text)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def _ready(self) -> bool:
        try:
            return self._client.get("/-/ready").is_success
        except httpx.TransportError:
            return False

    def active(self) -> list[dict[str, Any]]:
        """The alerts that are firing or pending now."""
        answer = self._client.get("/api/v1/alerts").raise_for_status()
        found: list[dict[str, Any]] = answer.json()["data"]["alerts"]
        return found

    def firing(self) -> list[dict[str, Any]]:
        """The alerts that are firing now."""
        return [each for each in self.active() if each["state"] == "firing"]

    def values(self, query: str) -> list[tuple[dict[str, str], float]]:
        """What a query gives now: labels and values."""
        answer = self._client.get("/api/v1/query", params={"query": query}).json()
        assert answer["status"] == "success", answer
        return [(each["metric"], float(each["value"][1])) for each in answer["data"]["result"]]
