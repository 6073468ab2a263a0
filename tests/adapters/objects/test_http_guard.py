"""What a job's URL must not reach, shown on real servers: only the resolver is the test's own."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from processor.adapters.objects.addresses import Address
from processor.adapters.objects.http import HttpSource
from processor.errors import PermanentError, TransientError, UsageError
from processor.protection import HttpSettings
from tests.serving import served

LOOPBACK = "127.0.0.0/8"
ONE = "127.0.0.1/32"  # The tests' server alone: 127.0.0.2 is a neighbour that jobs must not reach.


class Resolver:
    """Answers from a table: each name's answers in turn, the last one for ever."""

    def __init__(self, **names: list[str]) -> None:
        self.names = {name.replace("_", "."): list(answers) for name, answers in names.items()}
        self.asked = 0

    def __call__(self, host: str, port: int) -> list[Address]:
        self.asked += 1
        if host not in self.names:
            return [ipaddress.ip_address(host)]
        answers = self.names[host]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return [ipaddress.ip_address(each) for each in answer.split(",")]


class Listening(ThreadingHTTPServer):
    """A server that counts what comes."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, handler: type[BaseHTTPRequestHandler], host: str = "127.0.0.1") -> None:
        self.seen: list[str] = []
        super().__init__((host, 0), handler)

    def handle_error(self, request: object, client_address: object) -> None:
        pass


class Answers(BaseHTTPRequestHandler):
    """/ok, /to?<where>, /drip (a byte a moment, for ever), /headers (the same in the headers)"""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        assert isinstance(self.server, Listening)
        self.server.seen.append(self.headers["host"])
        path, _, query = self.path.partition("?")
        if path == "/to":
            self.send_response(302)
            self.send_header("location", query)
            self.send_header("content-length", "0")
            self.end_headers()
        elif path == "/headers":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nx: ")
            self._drip()
        elif path == "/drip":
            self.send_response(200)
            self.send_header("content-length", "100000")
            self.end_headers()
            self._drip()
        else:
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

    def _drip(self) -> None:
        for _ in range(1000):
            self.wfile.write(b"x")
            time.sleep(0.02)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def serving(host: str = "127.0.0.1", context: ssl.SSLContext | None = None) -> Iterator[Listening]:
    server = Listening(Answers, host)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    with served(server):
        yield server


@pytest.fixture(scope="module")
def server() -> Iterator[Listening]:
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def nothing_seen(server: Listening) -> None:
    server.seen.clear()


@pytest.fixture
def source() -> Iterator[Callable[..., HttpSource]]:
    made: list[HttpSource] = []

    def make(resolver: Resolver | None = None, **settings: object) -> HttpSource:
        made.append(
            HttpSource(HttpSettings(**settings), **({"resolve": resolver} if resolver else {}))
        )
        return made[-1]

    yield make
    for each in made:
        each.close()


def fetched(source: HttpSource, uri: str) -> bytes:
    with source.open(uri) as stream:
        return stream.read()


Make = Callable[..., HttpSource]


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "127。0。0。1"],
)
def test_loopback_is_refused_before_anything_is_sent(
    source: Make, server: Listening, host: str
) -> None:
    for ask in (source().open, source().stat):
        with pytest.raises(PermanentError, match="jobs may not reach it") as refused:
            ask(f"http://{host}:{server.server_port}/ok")
        assert "http.networks" in (refused.value.hint or "")

    assert server.seen == []


@pytest.mark.parametrize(
    "uri",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/latest/meta-data/",
        "http://[::ffff:169.254.169.254]/latest/meta-data/",
        "http://[64:ff9b::169.254.169.254]/latest/meta-data/",
    ],
)
def test_metadata_service_is_refused_even_in_an_allowed_network(source: Make, uri: str) -> None:
    with pytest.raises(PermanentError, match="metadata service"):
        source(networks=["0.0.0.0/0", "::/0"]).open(uri)


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0x7f.0.0.1"])
def test_loopback_in_an_odd_notation_is_refused(source: Make, server: Listening, host: str) -> None:
    with pytest.raises(PermanentError):
        source(networks=[LOOPBACK]).open(f"http://{host}:{server.server_port}/ok")

    assert server.seen == []


def test_allowed_network_is_reached(source: Make, server: Listening) -> None:
    assert fetched(source(networks=[ONE]), f"http://127.0.0.1:{server.server_port}/ok") == b"ok"


def test_host_that_no_setting_names_is_refused_though_its_address_is_allowed(
    source: Make, server: Listening
) -> None:
    resolver = Resolver(files_example=["127.0.0.1"], other_example=["127.0.0.1"])
    chosen = source(resolver, networks=[ONE], hosts=["files.example"])

    assert fetched(chosen, f"http://files.example:{server.server_port}/ok") == b"ok"
    for host in ("other.example", "127.0.0.1"):
        with pytest.raises(PermanentError, match="not among the hosts"):
            chosen.open(f"http://{host}:{server.server_port}/ok")


def test_connection_goes_to_the_address_that_was_checked_under_the_name(
    source: Make, server: Listening
) -> None:
    resolver = Resolver(files_example=["127.0.0.1", "127.0.0.2"])
    uri = f"http://files.example:{server.server_port}/ok"

    assert fetched(source(resolver, networks=[ONE]), uri) == b"ok"

    assert resolver.asked == 1  # A second question would be answered with another address.
    assert server.seen == [f"files.example:{server.server_port}"]


def test_name_that_means_a_private_address_the_next_time_is_refused_then(source: Make) -> None:
    resolver = Resolver(files_example=["127.0.0.1", "127.0.0.2"])
    rebound = source(resolver, networks=[ONE])

    with serving("127.0.0.2") as neighbour, serving() as own:
        assert fetched(rebound, f"http://files.example:{own.server_port}/ok") == b"ok"
        with pytest.raises(PermanentError, match=r"127\.0\.0\.2, which is loopback"):
            rebound.open(f"http://files.example:{neighbour.server_port}/ok")
        assert neighbour.seen == []


def test_name_with_one_private_address_among_others_is_refused(
    source: Make, server: Listening
) -> None:
    resolver = Resolver(files_example=["127.0.0.1,10.0.0.7"])

    with pytest.raises(PermanentError, match=r"10\.0\.0\.7, which is private"):
        source(resolver, networks=[ONE]).open(f"http://files.example:{server.server_port}/ok")

    assert server.seen == []


def test_next_address_is_tried_when_one_does_not_answer(source: Make, server: Listening) -> None:
    resolver = Resolver(files_example=["127.0.0.3,127.0.0.1"])
    chosen = source(resolver, networks=[LOOPBACK])

    assert fetched(chosen, f"http://files.example:{server.server_port}/ok") == b"ok"


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("http://127.0.0.2:{port}/ok", "loopback"),
        ("http://10.0.0.1/ok", "private"),
        ("http://169.254.169.254/latest/", "metadata"),
        ("http://[::ffff:10.0.0.1]/ok", "private"),
        ("http://rebound.example:{port}/ok", "loopback"),
        ("//127.0.0.2:{port}/ok", "loopback"),
        ("http://2130706434/ok", "odd notation"),
        ("http://user:secret@127.0.0.1:{port}/ok", "carries a user"),
        ("http://xn--a/ok", "no URL"),
        ("http://[::1/ok", "no URL"),
        ("https:////[", "no URL"),
        ("file:///etc/passwd", "must be http"),
        ("gopher://127.0.0.1:{port}/", "must be http"),
    ],
)
def test_redirect_is_held_to_the_same_rules(
    source: Make, server: Listening, target: str, told: str
) -> None:
    resolver = Resolver(rebound_example=["127.0.0.2"])
    port = server.server_port

    with pytest.raises(PermanentError, match=told):
        source(resolver, networks=[ONE]).open(
            f"http://127.0.0.1:{port}/to?{target.format(port=port)}"
        )

    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "uri",
    ["http://xn--a/", "http://xn--/", "http://xn--zz--/", "http://é\udcff/", "http://h/\udcff",
     f"http://{'a' * 64}.example/", f"http://{'é' * 64}.example/", "http://a..example/"],
)  # fmt: skip
def test_host_that_no_name_can_be_is_refused_for_good(uri: str) -> None:
    source = HttpSource()

    for reach in (source.open, source.stat):
        with pytest.raises(PermanentError, match=r"is no URL|no name that a host can have"):
            reach(uri)


def test_user_and_password_are_refused_and_not_told(source: Make, server: Listening) -> None:
    with pytest.raises(PermanentError, match="carries a user") as refused:
        source(networks=[ONE]).open(f"http://user:secret@127.0.0.1:{server.server_port}/ok")

    assert "secret" not in str(refused.value)
    assert server.seen == []


@pytest.mark.parametrize("path", ["/drip", "/headers"])
def test_server_that_drips_is_left_when_the_whole_time_is_over(
    source: Make, server: Listening, path: str
) -> None:
    hasty = source(networks=[ONE], timeout_seconds=0.3)
    began = time.monotonic()

    with pytest.raises(TransientError, match=r"whole object is over|timed out"):
        fetched(hasty, f"http://127.0.0.1:{server.server_port}{path}")

    assert 0.25 < time.monotonic() - began < 3


def test_proxy_of_the_environment_is_not_asked(
    source: Make, server: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")

        assert fetched(source(networks=[ONE]), f"http://127.0.0.1:{server.server_port}/ok") == b"ok"

        proxy.settimeout(0)
        with pytest.raises(BlockingIOError):
            proxy.accept()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and its certificate for `files.example`, signed by itself."""
    path = tmp_path_factory.mktemp("tls") / "files.example.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-keyout", path, "-out", f"{path}.crt", "-days", "2",
         "-subj", "/CN=files.example", "-addext", "subjectAltName=DNS:files.example"],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


def test_certificate_is_verified_for_the_name_and_not_for_the_address(
    source: Make, certificate: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    asked: list[str | None] = []
    context.sni_callback = lambda _, name, __: asked.append(name)
    resolver = Resolver(files_example=["127.0.0.1"], other_example=["127.0.0.1"])
    trusting = source(resolver, networks=[ONE], ca_file=Path(f"{certificate}.crt"))

    with serving(context=context) as secure:
        assert fetched(trusting, f"https://files.example:{secure.server_port}/ok") == b"ok"
        with pytest.raises(TransientError, match="does not answer"):
            trusting.open(f"https://other.example:{secure.server_port}/ok")
        with pytest.raises(PermanentError, match="from https to http"):
            trusting.open(f"https://files.example:{secure.server_port}/to?http://127.0.0.1/ok")

    assert asked[:2] == ["files.example", "other.example"]


def test_file_of_authorities_that_holds_none_is_refused(source: Make, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("nothing")

    with pytest.raises(UsageError, match=r"http\.ca_file"):
        source(ca_file=tmp_path / "empty.pem")
    with pytest.raises(UsageError, match=r"http\.ca_file"):
        source(ca_file=tmp_path / "missing.pem")
