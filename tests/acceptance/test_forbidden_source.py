"""A job that names what it may not reach is dead at once, and says why."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.acceptance.project import Project
from tests.serving import served

pytestmark = [pytest.mark.acceptance, pytest.mark.broker, pytest.mark.registry]


class Counting(BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        self.send_response(200)
        self.end_headers()

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def test_source_that_jobs_may_not_reach_is_a_dead_letter_at_once(project: Project) -> None:
    topic = project.add_topic("files", ["object.checksum"], retry={"delays": ["1h"]})
    project.provision()
    worker = project.start("work", "processor.jobs:app", "--topic", topic)
    with served(ThreadingHTTPServer(("127.0.0.1", 0), Counting)) as server:
        source = {"source": {"uri": f"http://localhost:{server.server_port}/x?signature=s3cret"}}

        ran = project.run("submit", "object.checksum", "--json", json.dumps(source), "--wait")
        (letter,) = project.run("dead", "list", topic, "--json").ok().rows()
    worker.end()

    assert ran.rows()[-1]["state"] == "dead"
    assert (letter["error_class"], letter["attempts"]) == ("PermanentError", 1)
    assert "loopback, not public: jobs may not reach it" in letter["error_message"]
    assert "s3cret" not in str(letter)
    assert Counting.asked == 0


def test_file_that_jobs_may_not_read_is_a_dead_letter_at_once(project: Project) -> None:
    topic = project.add_topic("files", ["object.copy", "object.checksum"])
    (project.folder / "large").write_text("a large input")
    project.provision()
    worker = project.start("work", "processor.jobs:app", "--topic", topic)
    stolen = {
        "source": {"uri": "file:///proc/self/environ"},
        "target": (project.folder / "stolen").as_uri(),
    }

    ran = project.run("submit", "object.copy", "--json", json.dumps(stolen), "--wait")
    sent = project.run("submit", "object.checksum", "--file", "large", "--wait")
    (letter,) = project.run("dead", "list", topic, "--json").ok().rows()
    worker.end()

    assert ran.rows()[-1]["state"] == "dead"
    assert (letter["error_class"], letter["attempts"]) == ("PermanentError", 1)
    assert "is outside the folders that jobs may use" in letter["error_message"]
    assert not (project.folder / "stolen").exists()
    assert sent.rows()[-1]["state"] == "succeeded"  # The claim store needs no listing.
