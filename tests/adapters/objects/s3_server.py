"""What tests need around a real S3: settings, fresh buckets, and a line to it that can be cut."""

from __future__ import annotations

import socket
import threading
import uuid
from contextlib import suppress
from typing import Any, Protocol, Self

from pydantic import SecretStr

from processor.adapters.objects.stores import s3_client
from processor.settings import S3Settings, Settings

BUCKET = "object-tests"


class S3Server(Protocol):
    """What the `s3` fixture gives."""

    endpoint_url: str
    access_key_id: str
    secret_access_key: str
    region: str


def settings_for(s3: S3Server, **changes: Any) -> Settings:
    """Give settings that reach the server, with some of them changed."""
    fields = {
        "endpoint_url": s3.endpoint_url,
        "region": s3.region,
        "access_key_id": s3.access_key_id,
        "secret_access_key": SecretStr(s3.secret_access_key),
    }
    return Settings(s3=S3Settings(**(fields | changes)))


def fresh_base(s3: S3Server) -> str:
    """Give a prefix under which nothing exists yet.

    The bucket is the same for all tests: in SeaweedFS each new one takes several GB of volumes.
    """
    client = s3_client(settings_for(s3).s3)
    if BUCKET not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket=BUCKET)
    return f"s3://{BUCKET}/{uuid.uuid4().hex[:12]}"


class Line:
    """A TCP line to the server that can be cut, as when the server is killed: no answer after."""

    def __init__(self, s3: S3Server) -> None:
        host, _, port = s3.endpoint_url.removeprefix("http://").partition(":")
        self._server = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._cutting = threading.Lock()
        self._cut = False
        self.endpoint_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.cut()

    def cut(self) -> None:
        """Refuse new connections and reset those that are open."""
        with self._cutting:
            self._cut = True
            self._listener.close()
            for end in self._sockets:
                _shut(end)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
            except OSError:
                return
            with self._cutting:
                self._sockets += [client, server]
                if self._cut:
                    _shut(client)
                    _shut(server)
                    return
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=_pump, args=(source, target), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while chunk := source.recv(65536):
            target.sendall(chunk)
    except OSError:
        pass
    _shut(target)


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
