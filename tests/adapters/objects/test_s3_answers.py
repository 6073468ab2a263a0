"""What a proxy or a login page answers in place of S3: no job dies of it, and no worker ends."""

from __future__ import annotations

import io
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from processor.adapters.objects.stores import Objects
from processor.contracts.claims import ClaimStore
from processor.errors import ContractError, PermanentError, StoreUnavailable
from processor.settings import S3Settings, Settings
from tests.adapters.objects.conformance import MIB, sha256
from tests.serving import served

VALUE = b"a value"
HTML = b"<html><body>Sign in<br></body></html>"
MISSING = b"<Error><Code>NoSuchKey</Code><Message>none</Message></Error>"


class Answers(BaseHTTPRequestHandler):
    """Gives `status`, `fields` and `body` to every request."""

    protocol_version = "HTTP/1.1"
    status = 200
    fields: dict[str, str] = {}  # noqa: RUF012
    body = b""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(self.status)
        for name, value in self.fields.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(self.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(self.body)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> Iterator[Objects]:
    for name in ("status", "fields", "body"):
        monkeypatch.setattr(Answers, name, getattr(Answers, name))
    with served(ThreadingHTTPServer(("127.0.0.1", 0), Answers)) as server:
        yield Objects(
            Settings(
                s3=S3Settings.model_validate(
                    {
                        "endpoint_url": f"http://127.0.0.1:{server.server_port}",
                        "region": "us-east-1",
                        "access_key_id": "key",
                        "secret_access_key": "secret",
                    }
                )
            ),
            hasty=True,
        )


ODD = [
    pytest.param(200, {}, HTML, id="login page"),
    pytest.param(200, {}, VALUE, id="no S3's headers"),
    pytest.param(200, {"etag": "e", "last-modified": "never"}, VALUE, id="odd header"),
    pytest.param(302, {"location": "/login"}, b"", id="redirect"),
    pytest.param(301, {"location": "/"}, HTML, id="moved"),
    pytest.param(404, {}, HTML, id="wrong path"),
    pytest.param(404, {}, b"", id="nothing there"),
    pytest.param(400, {}, b"<Error></Error>", id="no code"),
    pytest.param(503, {}, HTML, id="in trouble"),
]


@pytest.mark.parametrize(("status", "fields", "body"), ODD)
def test_claim_waits_where_what_answers_is_no_s3(
    objects: Objects, status: int, fields: dict[str, str], body: bytes
) -> None:
    claims = ClaimStore(objects, "s3://claims")
    Answers.status, Answers.fields, Answers.body = 200, {"etag": '"e"'}, b""
    claim = claims.put(VALUE)

    Answers.status, Answers.fields, Answers.body = status, fields, body

    with pytest.raises(StoreUnavailable):
        claims.get(claim, MIB)


def test_claim_that_s3_itself_misses_is_the_jobs_fault(objects: Objects) -> None:
    claims = ClaimStore(objects, "s3://claims")
    Answers.fields = {"etag": '"e"'}
    claim = claims.put(VALUE)

    Answers.status, Answers.body = 404, MISSING

    with pytest.raises(ContractError, match="does not exist"):
        claims.get(claim, MIB)


@pytest.mark.parametrize("body", [VALUE, b"0" * (9 * MIB)], ids=["whole", "in parts"])
def test_nothing_counts_as_written_that_s3_has_not_confirmed(objects: Objects, body: bytes) -> None:
    with pytest.raises(StoreUnavailable, match="no S3"):
        objects.put("s3://results/a", io.BytesIO(body), sha256=sha256(body), create_only=False)


def test_stat_of_what_is_no_s3_is_an_outage(objects: Objects) -> None:
    with pytest.raises(StoreUnavailable, match="no S3"):
        objects.stat("s3://results/a")


def test_store_that_does_not_tell_when_an_object_was_written_is_s3_all_the_same(
    objects: Objects,
) -> None:
    Answers.fields, Answers.body = {"etag": '"e"'}, VALUE

    stat = objects.stat("s3://results/a")

    assert stat is not None
    assert (stat.size, stat.etag, stat.modified) == (len(VALUE), "e", None)


def test_key_that_has_no_bytes_is_no_fault_of_the_store(objects: Objects) -> None:
    with pytest.raises(PermanentError, match="cannot have an object"):
        objects.open("s3://results/half-\ud800")
