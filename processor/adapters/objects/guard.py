"""Connections that go where they were allowed to: each is made to an address that was checked.

A name is resolved once, all its addresses are judged, and the connection is made to one of these
very addresses: a name that means another address a moment later changes nothing. Host header, TLS
name and certificate remain the name's. Time is bounded as a whole, not only for each read.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import httpcore
import httpx

from processor.adapters.objects.addresses import Address, Admission
from processor.errors import PermanentError

Resolve = Callable[[str, int], list[Address]]

CONNECTIONS_MAX = 64
KEPT_MAX = 16
KEPT_SECONDS = 30.0
# Monotonic seconds. Set around every step that may wait, by whoever takes the step.
_until: ContextVar[float | None] = ContextVar("processor_http_until", default=None)


@contextmanager
def in_time(until: float) -> Iterator[None]:
    """Have every wait inside end at this time at the latest."""
    token = _until.set(until)
    try:
        yield
    finally:
        _until.reset(token)


def resolved(host: str, port: int) -> list[Address]:
    """Ask the system's resolver for a name's addresses. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ipaddress.ip_address(place[0]) for *_, place in found]


class GuardedTransport(httpx.BaseTransport):
    """Sends requests over connections to checked addresses only. No proxy is ever used."""

    def __init__(
        self, admission: Admission, ssl_context: ssl.SSLContext, *, resolve: Resolve = resolved
    ) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl_context,
            max_connections=CONNECTIONS_MAX,
            max_keepalive_connections=KEPT_MAX,
            keepalive_expiry=KEPT_SECONDS,
            network_backend=_Pinning(admission, resolve),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request. Raises what httpcore raises, and PermanentError for a refused address."""
        url = request.url
        answer = self._pool.handle_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(
                    scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
                ),
                headers=request.headers.raw,
                extensions=request.extensions,
            )
        )
        return httpx.Response(
            answer.status,
            headers=answer.headers,
            stream=_Body(answer),
            extensions=answer.extensions,
        )

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        return self._answer.iter_stream()

    def close(self) -> None:
        self._answer.close()


class _Pinning(httpcore.NetworkBackend):
    """Resolves, judges, and connects to what was judged."""

    def __init__(self, admission: Admission, resolve: Resolve) -> None:
        self._admission = admission
        self._resolve = resolve
        self._plain = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        self._admission.check_host(host)  # Here, for what is not connected to is not reached.
        try:
            addresses = self._resolve(host, port)
        except UnicodeError as fault:
            raise PermanentError(f"`{host}` is no name that a host can have") from fault
        except OSError as fault:
            raise httpcore.ConnectError(f"`{host}` has no address: {fault}") from fault
        # All of them: a name with a public and a private address is up to something.
        for address in addresses:
            self._admission.check_address(host, address)
        failed: Exception = httpcore.ConnectError(f"`{host}` has no address")
        for address in addresses:
            try:
                stream = self._plain.connect_tcp(
                    str(address), port, _left(timeout), local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as fault:
                failed = fault
            else:
                return _Stream(stream)
        raise failed

    def sleep(self, seconds: float) -> None:
        self._plain.sleep(seconds)


class _Stream(httpcore.NetworkStream):
    """A connection whose every wait ends in time."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, _left(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(timeout: float | None) -> float | None:
    """The timeout of one step, or what is left of the whole time if that is less."""
    until = _until.get()
    if until is None:
        return timeout
    left = until - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("the time for the whole object is over")
    return left if timeout is None else min(timeout, left)
