"""A TCP gate before a real server: closed, the server is away for whoever comes through it."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from urllib.parse import urlsplit, urlunsplit


class Gate:
    """Passes bytes on to the host of a URL. `url` is the same with the gate's own address."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None and parts.port is not None
        self._target = (parts.hostname, parts.port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        host, port = self._listening.getsockname()[:2]
        self.url = urlunsplit(parts._replace(netloc=f"{host}:{port}"))
        self._closed = False
        self._passing: set[socket.socket] = set()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Drop every connection, and each new one as it comes."""
        with self._lock:
            self._closed = True
            for each in self._passing:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def open(self) -> None:
        """Let connections through again."""
        with self._lock:
            self._closed = False

    def __enter__(self) -> Gate:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listening.close()
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                near = self._listening.accept()[0]
            except OSError:
                return  # The gate has gone.
            with self._lock:
                if self._closed:
                    near.close()
                    continue
                far = socket.create_connection(self._target)
                self._passing |= {near, far}
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(one, other), daemon=True).start()

    def _copy(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := one.recv(65536):
                other.sendall(chunk)
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_WR)
        with self._lock:
            self._passing.discard(one)
