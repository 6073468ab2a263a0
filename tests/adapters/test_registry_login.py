"""A registry that asks who is there: the real one, behind what guards it in a company."""

from __future__ import annotations

import base64
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from processor.adapters.registry import Registry
from processor.errors import RegistryUnavailable, UsageError
from processor.settings import RegistrySettings, load_settings
from processor.stack.report import LogReport
from processor.stack.security import BROKER, Security
from processor.stack.site import Site
from tests.serving import served

pytestmark = pytest.mark.registry

CANARY = "canary-7f31"
SCHEMA = '{"type": "record", "name": "R", "fields": []}'


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Security:
    """Certificates of an authority of its own."""
    site = Site(tmp_path_factory.mktemp("authority"), ports="free", report=LogReport())
    made = Security(site)
    made.prepare()
    return made


@contextmanager
def guarded(
    registry_url: str, authority: Security, taken: Callable[[str], bool], *, certificate: bool
) -> Iterator[str]:
    """Serve a registry by TLS to those whose `Authorization` is taken."""
    base = registry_url.removesuffix("/apis/ccompat/v7")

    class Guard(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(None)

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers["Content-Length"])))

        def _answer(self, body: bytes | None) -> None:
            if not taken(self.headers.get("Authorization", "")):
                self.send_error(401)
                return
            kind = {"Content-Type": self.headers.get("Content-Type", "application/json")}
            request = urllib.request.Request(base + self.path, body, kind)
            try:
                with urllib.request.urlopen(request) as found:
                    code, answer = found.status, found.read()
            except urllib.error.HTTPError as fault:
                code, answer = fault.code, fault.read()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None: ...

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.certificate(BROKER))
    if certificate:
        context.load_verify_locations(authority.ca_path)
        context.verify_mode = ssl.CERT_REQUIRED
    server = ThreadingHTTPServer(("127.0.0.1", 0), Guard)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with served(server):
        yield f"https://127.0.0.1:{server.server_port}/apis/ccompat/v7"


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"ann:{password}".encode()).decode()


def settings(tmp_path: Path, **variables: str) -> RegistrySettings:
    environ = {f"PROCESSOR_REGISTRY_{name.upper()}": value for name, value in variables.items()}
    return load_settings(folder=tmp_path, environ=environ).registry


def test_password_from_a_file_that_changes_is_taken_without_a_restart(
    registry: Any, authority: Security, tmp_path: Path
):
    valid = ["first"]
    secret = tmp_path / "password"
    secret.write_text("first\n")
    with guarded(
        registry.url, authority, lambda said: said == basic(valid[0]), certificate=False
    ) as url:
        mine = settings(tmp_path, url=url, username="ann", password_file=str(secret),
                        ca_location=str(authority.ca_path))  # fmt: skip
        known = Registry(mine)
        known.subjects()
        valid[0] = CANARY

        with pytest.raises(UsageError, match="refused the credentials") as refused:
            known.subjects()
        secret.write_text(f"{CANARY}\n")
        known.subjects()
        objections = known.incompatibilities("no-such-subject", SCHEMA)

    assert "first" not in refused.value.message
    assert objections == []


def test_token_from_a_file_is_read_at_every_request(
    registry: Any, authority: Security, tmp_path: Path
):
    valid = ["first"]
    secret = tmp_path / "token"
    secret.write_text("first")
    with guarded(
        registry.url, authority, lambda said: said == f"Bearer {valid[0]}", certificate=False
    ) as url:
        mine = settings(
            tmp_path, url=url, token_file=str(secret), ca_location=str(authority.ca_path)
        )
        known = Registry(mine)
        known.subjects()
        valid[0] = CANARY
        secret.write_text(CANARY)

        known.subjects()
        objections = known.incompatibilities("no-such-subject", SCHEMA)
        secret.write_text("stale")
        with pytest.raises(UsageError, match="refused the credentials"):
            known.subjects()

    assert objections == []


def test_certificate_is_shown_and_a_client_without_one_is_refused(
    registry: Any, authority: Security, tmp_path: Path
):
    certificate, key = authority.certificate("worker")
    with guarded(registry.url, authority, lambda _: True, certificate=True) as url:
        with_one = settings(tmp_path, url=url, ca_location=str(authority.ca_path),
                            certificate_location=str(certificate),
                            key_location=str(key))  # fmt: skip
        without = settings(tmp_path, url=url, ca_location=str(authority.ca_path))

        Registry(with_one).subjects()
        objections = Registry(with_one).incompatibilities("no-such-subject", SCHEMA)
        with pytest.raises(RegistryUnavailable, match="does not answer"):
            Registry(without).subjects()

    assert objections == []


def test_authority_that_is_not_trusted_is_told(registry: Any, authority: Security, tmp_path: Path):
    with (
        guarded(registry.url, authority, lambda _: True, certificate=False) as url,
        pytest.raises(RegistryUnavailable, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        Registry(settings(tmp_path, url=url)).subjects()


def test_file_that_is_no_certificate_is_misuse(tmp_path: Path):
    (tmp_path / "ca.crt").write_text("no certificate")
    mine = settings(tmp_path, url="https://127.0.0.1:9", ca_location=str(tmp_path / "ca.crt"))

    for ask in (Registry(mine).subjects, lambda: Registry(mine).incompatibilities("s", SCHEMA)):
        with pytest.raises(UsageError, match="certificates cannot be used"):
            ask()


def test_token_and_password_together_are_a_fault(tmp_path: Path):
    with pytest.raises(UsageError, match="set a token, or username and password, not both") as told:
        settings(tmp_path, token=CANARY, username="ann", password=CANARY)

    assert CANARY not in told.value.message
