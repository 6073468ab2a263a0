"""Objects on an HTTP or HTTPS server, for reading only, and only where jobs may reach.

A job's URL is a stranger's: what it may reach is decided in addresses.py, and kept to in guard.py.
A server that fails or does not answer is a plain TransientError and not StoreUnavailable: it is
somebody else's, and its outage must not pause the queue for all other jobs.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpcore
import httpx

from processor.adapters.objects.addresses import Admission
from processor.adapters.objects.guard import GuardedTransport, Resolve, in_time, resolved
from processor.contracts.claims import CHUNK_BYTES, ObjectStat, Put, Reader, Stream
from processor.contracts.uris import shown
from processor.errors import ContractError, PermanentError, TransientError, UsageError
from processor.protection import HttpSettings

NO_HEAD = (405, 501)  # A server that answers so to HEAD may well answer GET.
REDIRECTS_MAX = 5
TIMEOUT = httpx.Timeout(connect=10.0, read=60.0, write=10.0, pool=10.0)
# Identity: the bytes that are hashed must be the object's own, not a transfer's compression.
HEADERS = {"accept": "*/*", "accept-encoding": "identity", "user-agent": "processor"}
_LATER = {408, 425, 429}
_NO_URL = (httpx.InvalidURL, ValueError)  # A host such as `xn--a` is found out only when read.
_AWAY = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError)


class HttpSource:
    """A read-only object store over HTTP(S), held to what the settings admit.

    `resolve` stands in for the system's resolver.
    """

    def __init__(
        self, settings: HttpSettings | None = None, *, resolve: Resolve = resolved
    ) -> None:
        settings = settings or HttpSettings()
        self._size_max = settings.size_max
        self._seconds_max = settings.timeout_seconds
        admission = Admission(settings.hosts, settings.networks)
        # No httpx.Client: it would keep one job's cookies and send them for the next, ask the
        # environment for proxies and a .netrc, and log whole URLs.
        self._transport = GuardedTransport(admission, _tls(settings), resolve=resolve)

    def open(self, uri: str) -> Reader:
        """Ask for an object; its body is fetched as it is read."""
        until = time.monotonic() + self._seconds_max
        answer = self._ask("GET", uri, until)
        size = _size(answer)
        if size is not None and size > self._size_max:
            answer.close()
            raise PermanentError(
                f"{shown(uri)} has {size} bytes, over the limit of {self._size_max}"
            )
        return HttpReader(answer, uri, size_max=self._size_max, until=until)

    def stat(self, uri: str) -> ObjectStat | None:
        """Ask for an object's headers. A server need not tell the size, nor know HEAD."""
        try:
            answer = self._ask("HEAD", uri, time.monotonic() + self._seconds_max)
        except ContractError:
            return None
        if answer.status_code in NO_HEAD:
            return ObjectStat(size=None)
        answer.close()
        return ObjectStat(
            size=_size(answer),
            content_type=answer.headers.get("content-type"),
            etag=answer.headers.get("etag"),
        )

    def put(
        self,
        uri: str,
        stream: Stream,  # noqa: ARG002
        *,
        size: int | None = None,  # noqa: ARG002
        sha256: str | None = None,  # noqa: ARG002
        content_type: str | None = None,  # noqa: ARG002
        create_only: bool,  # noqa: ARG002
    ) -> Put:
        """Refuse: HTTP servers are read only."""
        raise _read_only(uri)

    def delete(self, uri: str) -> None:
        """Refuse: HTTP servers are read only."""
        raise _read_only(uri)

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def _ask(self, method: str, uri: str, until: float) -> httpx.Response:
        """Send one request, following a few redirects; each address must be admitted."""
        address = uri
        for _ in range(REDIRECTS_MAX + 1):
            url = admit(address)
            request = httpx.Request(
                method, url, headers=HEADERS, extensions={"timeout": TIMEOUT.as_dict()}
            )
            with _faults(uri), in_time(until):
                answer = self._transport.handle_request(request)
            if method == "HEAD" and answer.status_code in NO_HEAD:
                answer.close()
                return answer
            if not answer.has_redirect_location:
                return _require_success(answer, uri)
            answer.close()
            address = _next(url, answer.headers["location"], uri)
        raise PermanentError(f"{shown(uri)} redirects more than {REDIRECTS_MAX} times")


class HttpReader:
    """A body being fetched. One that breaks off, or is not whole in time, is a TransientError."""

    def __init__(self, answer: httpx.Response, uri: str, *, size_max: int, until: float) -> None:
        self._answer = answer
        self._uri = uri
        self._size_max = size_max
        self._until = until
        self._chunks = answer.iter_raw(CHUNK_BYTES)
        self._rest = b""
        self._count = 0

    def __enter__(self) -> HttpReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def read(self, size: int = -1, /) -> bytes:
        """Give at most `size` bytes."""
        if size < 0:
            return b"".join(iter(lambda: self.read(CHUNK_BYTES), b""))
        if not self._rest and size > 0:
            self._rest = self._fetch()
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def close(self) -> None:
        """Let go of the connection."""
        self._answer.close()

    def _fetch(self) -> bytes:
        with _faults(self._uri), in_time(self._until):
            chunk = next(self._chunks, b"")
        self._count += len(chunk)
        if self._count > self._size_max:
            raise PermanentError(f"{shown(self._uri)} is over the limit of {self._size_max} bytes")
        return chunk


def admit(address: str) -> httpx.URL:
    """Give the URL if a job may name it; PermanentError otherwise. Every redirect comes here too.

    The host and its addresses are judged when it is connected to.
    """
    try:
        url = httpx.URL(address)
        host = url.host
    except _NO_URL:
        raise PermanentError("the address is no URL") from None  # It may tell a password.
    if url.scheme not in ("http", "https") or not host:
        raise PermanentError(f"{shown(address)} must be http:// or https:// and a host")
    if url.userinfo:
        raise PermanentError(
            f"{shown(address)} carries a user or a password",
            hint="a job's payload is no place for one: use a signed link, or S3",
        )
    return url


def _next(url: httpx.URL, location: str, uri: str) -> str:
    """Give the address that a redirect leads to."""
    try:
        target = url.join(location)
    except _NO_URL:
        raise PermanentError(f"{shown(uri)} redirects to an address that is no URL") from None
    if url.scheme == "https" and target.scheme == "http":
        raise PermanentError(f"{shown(uri)} redirects from https to http, where anyone may read")
    return str(target)


def _tls(settings: HttpSettings) -> ssl.SSLContext:
    if settings.ca_file is None:
        return httpx.create_ssl_context(trust_env=False)
    try:
        return ssl.create_default_context(cafile=settings.ca_file)
    except OSError as fault:  # An SSLError is one.
        raise UsageError(
            f"http.ca_file {settings.ca_file} cannot be used: {fault.strerror or fault}",
            hint="it must hold PEM certificates",
        ) from None


def _require_success(answer: httpx.Response, uri: str) -> httpx.Response:
    status = answer.status_code
    if status == 200:
        return answer
    answer.close()
    told = f"{shown(uri)} answered {status} {answer.reason_phrase}".rstrip()
    if status in (404, 410):
        raise ContractError(f"{shown(uri)} does not exist: it answered {status}")
    if status >= 500 or status in _LATER:
        raise TransientError(told)
    if status in (401, 403):
        raise PermanentError(told, hint="the link may have expired, or the server wants a login")
    raise PermanentError(told)


def _size(answer: httpx.Response) -> int | None:
    text = answer.headers.get("content-length", "")
    return int(text) if text.isdecimal() else None


def _read_only(uri: str) -> PermanentError:
    return PermanentError(
        f"{shown(uri)} cannot be written: HTTP is read only",
        hint="name a file:///… or s3://… target",
    )


@contextmanager
def _faults(uri: str) -> Iterator[None]:
    try:
        yield
    except _AWAY as fault:
        raise TransientError(
            f"{shown(uri)} does not answer: {fault or type(fault).__name__}"
        ) from fault
