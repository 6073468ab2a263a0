from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from processor.adapters.objects.http import HttpSource
from processor.errors import ContractError, PermanentError, StoreUnavailable, TransientError
from processor.protection import HttpSettings
from tests.adapters.objects.conformance import LARGE, MIB, read, sha256
from tests.serving import served

LOOPBACK = ("127.0.0.0/8",)


class Answers(BaseHTTPRequestHandler):
    """/large /empty /chunked /broken /cookie /status/N /hop/N /elsewhere"""

    protocol_version = "HTTP/1.1"
    seen: list[dict[str, str]] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.seen.append(dict(self.headers))
        _, kind, *rest = self.path.partition("?")[0].split("/")
        if kind == "status":
            self.answer(int(rest[0]), b"told")
        elif kind == "hop":
            left = int(rest[0])
            self.answer(302, b"", location=f"../hop/{left - 1}" if left else "/large")
        elif kind == "cookie":
            self.answer(302, b"", location="/empty", **{"set-cookie": "session=one-job's; Path=/"})
        elif kind == "elsewhere":
            self.answer(302, b"", location="file:///etc/passwd")
        elif kind == "chunked":
            self.send_response(200)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for _ in range(3):
                self.wfile.write(b"4\r\nabcd\r\n")
            self.wfile.write(b"0\r\n\r\n")
        elif kind == "broken":
            self.send_response(200)
            self.send_header("content-length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * 10)
            self.close_connection = True
        else:
            self.answer(200, LARGE if kind == "large" else b"")

    def do_HEAD(self) -> None:
        self.do_GET()

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.send_header("content-type", "text/x-test")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class Server(ThreadingHTTPServer):
    """A server that does not mind a reader that leaves early."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with served(Server(("127.0.0.1", 0), Answers)) as server:
        yield f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def source() -> Iterator[HttpSource]:
    source = HttpSource(HttpSettings(networks=LOOPBACK))
    yield source
    source.close()


def test_object_is_read_in_pieces(source: HttpSource, server: str) -> None:
    with source.open(f"{server}/large") as stream:
        pieces = list(iter(lambda: stream.read(100_000), b""))

    assert sha256(b"".join(pieces)) == sha256(LARGE)
    assert max(map(len, pieces)) <= 100_000
    assert read(source, f"{server}/empty") == b""
    assert read(source, f"{server}/chunked") == b"abcdabcdabcd"


def test_reader_that_leaves_early_does_not_wait_for_the_rest(
    source: HttpSource, server: str
) -> None:
    with source.open(f"{server}/large") as stream:
        assert stream.read(3) == LARGE[:3]

    assert read(source, f"{server}/empty") == b""


def test_stat_tells_what_the_server_tells(source: HttpSource, server: str) -> None:
    status = source.stat(f"{server}/large")

    assert status is not None
    assert (status.size, status.sha256, status.content_type) == (len(LARGE), None, "text/x-test")
    assert source.stat(f"{server}/status/404") is None


def test_bytes_are_asked_for_as_they_are(source: HttpSource, server: str) -> None:
    Answers.seen.clear()

    read(source, f"{server}/empty")

    assert Answers.seen[0]["accept-encoding"] == "identity"


def test_no_cookie_is_taken_from_one_job_to_the_next(source: HttpSource, server: str) -> None:
    Answers.seen.clear()

    read(source, f"{server}/cookie")
    read(source, f"{server}/empty")

    assert len(Answers.seen) == 3
    assert all("cookie" not in str(headers).lower() for headers in Answers.seen)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, ContractError),
        (410, ContractError),
        (403, PermanentError),
        (400, PermanentError),
        (204, PermanentError),
        (429, TransientError),
        (500, TransientError),
        (503, TransientError),
    ],
)
def test_refusal_is_sorted_by_what_time_does_to_it(
    source: HttpSource, server: str, status: int, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match=str(status)) as refused:
        source.open(f"{server}/status/{status}?signature=secret")

    assert type(refused.value) is kind
    assert "secret" not in str(refused.value)


def test_server_of_somebody_else_that_is_away_does_not_pause_the_queue(
    source: HttpSource,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    with pytest.raises(TransientError, match="does not answer") as away:
        source.open(f"http://127.0.0.1:{port}/x?signature=secret")

    assert not isinstance(away.value, StoreUnavailable)
    assert "secret" not in str(away.value)


def test_body_that_breaks_off_is_transient(source: HttpSource, server: str) -> None:
    with pytest.raises(TransientError, match="does not answer"):
        read(source, f"{server}/broken")


def test_few_redirects_are_followed_and_many_are_not(source: HttpSource, server: str) -> None:
    assert len(read(source, f"{server}/hop/4")) == len(LARGE)
    with pytest.raises(PermanentError, match="redirects more than 5 times"):
        source.open(f"{server}/hop/5")


def test_redirect_to_what_a_job_may_not_name_is_refused(source: HttpSource, server: str) -> None:
    with pytest.raises(PermanentError, match="must be http"):
        source.open(f"{server}/elsewhere")


@pytest.mark.parametrize("path", ["large", "chunked"])
def test_object_over_the_limit_is_refused(server: str, path: str) -> None:
    size_max = 11 if path == "chunked" else 20 * MIB - 1
    source = HttpSource(HttpSettings(networks=LOOPBACK, size_max=size_max))

    with pytest.raises(PermanentError, match="over the limit"):
        read(source, f"{server}/{path}")

    source.close()


@pytest.mark.parametrize("uri", ["http://", "http:///x", "https://[::1"])
def test_address_that_is_no_url_is_refused(source: HttpSource, uri: str) -> None:
    with pytest.raises(PermanentError):
        source.open(uri)


def test_http_is_read_only(source: HttpSource, server: str) -> None:
    with pytest.raises(PermanentError, match="read only"):
        source.put(f"{server}/x", io.BytesIO(b""), create_only=True)
    with pytest.raises(PermanentError, match="read only"):
        source.delete(f"{server}/x")
