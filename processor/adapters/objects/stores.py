"""All object stores behind one: a URI's scheme chooses; a store's client is made when needed."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from processor.contracts.claims import ObjectStat, ObjectStore, Put, Reader, Stream
from processor.contracts.uris import shown
from processor.errors import PermanentError
from processor.settings import S3Settings, Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CONNECT_TIMEOUT_SECONDS = 5.0
READ_TIMEOUT_SECONDS = 60.0
ATTEMPTS_MAX = 4  # The SDK's own, a few seconds in all; the worker's pause takes over after that.
HASTY_READ_TIMEOUT_SECONDS = 5.0
HASTY_ATTEMPTS_MAX = 2
CONNECTIONS_MAX = 64


class Objects:
    """Every object store that the settings reach: `file:///`, `s3://`, `http://` and `https://`.

    Safe for threads. `for_jobs` holds files to `files.folders`, and to the claim store for reading:
    whoever submits a job writes its URIs. What an operator names needs no such leave. `hasty` gives
    an S3 that does not answer up within some 10 seconds: for a person who waits.
    """

    def __init__(self, settings: Settings, *, for_jobs: bool = False, hasty: bool = False) -> None:
        self._settings = settings
        self._for_jobs = for_jobs
        self._hasty = hasty
        self._stores: dict[str, ObjectStore] = {}
        self._making = threading.Lock()

    def open(self, uri: str) -> Reader:
        """Open an object for reading."""
        return self._store(uri).open(uri)

    def stat(self, uri: str) -> ObjectStat | None:
        """Tell what is known of an object; None: there is none."""
        return self._store(uri).stat(uri)

    def put(
        self,
        uri: str,
        stream: Stream,
        *,
        size: int | None = None,
        sha256: str | None = None,
        content_type: str | None = None,
        create_only: bool,
    ) -> Put:
        """Write an object, whole and checked, or not at all."""
        return self._store(uri).put(
            uri,
            stream,
            size=size,
            sha256=sha256,
            content_type=content_type,
            create_only=create_only,
        )

    def delete(self, uri: str) -> None:
        """Remove an object; a missing one is no fault."""
        self._store(uri).delete(uri)

    def _store(self, uri: str) -> ObjectStore:
        scheme = uri.partition("://")[0].lower()
        scheme = "http" if scheme == "https" else scheme
        with self._making:
            store = self._stores.get(scheme)
            if store is None:
                store = self._stores[scheme] = self._make(scheme, uri)
        return store

    def _make(self, scheme: str, uri: str) -> ObjectStore:
        # Imported here: boto3 takes longer to import than most commands take to run.
        if scheme == "file":
            from processor.adapters.objects.file import FileStore, path_of

            if not self._for_jobs:
                return FileStore()
            claims = self._settings.claims.store or ""
            return FileStore(
                [Path(each) for each in self._settings.files.folders],
                read_only=[path_of(claims.rstrip("/"))] if claims.startswith("file:") else [],
            )
        if scheme == "s3":
            from processor.adapters.objects.s3 import S3Store

            s3 = self._settings.s3
            client = s3_client(s3, hasty=self._hasty)
            return S3Store(client, bucket_owner=s3.bucket_owner, put_options=s3.put_options)
        if scheme == "http":
            from processor.adapters.objects.http import HttpSource

            return HttpSource(self._settings.http)
        raise PermanentError(
            f"no object store serves the URI {shown(uri)!r}",
            hint="use file:///path, s3://bucket/key, or http(s)://… for reading",
        )


def s3_client(settings: S3Settings, *, hasty: bool = False) -> S3Client:
    """Make a client for the S3 that the settings name; what they leave out the AWS SDK finds."""
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        read_timeout=HASTY_READ_TIMEOUT_SECONDS if hasty else READ_TIMEOUT_SECONDS,
        retries={
            "mode": "standard",
            "total_max_attempts": HASTY_ATTEMPTS_MAX if hasty else ATTEMPTS_MAX,
        },
        max_pool_connections=CONNECTIONS_MAX,
        tcp_keepalive=True,
        # Servers other than AWS rarely have a DNS name per bucket.
        s3={"addressing_style": "path" if settings.endpoint_url else "auto"},
        user_agent_extra="processor",
    )
    secret = settings.secret_access_key
    return boto3.client(
        "s3",
        endpoint_url=settings.endpoint_url,
        region_name=settings.region,
        aws_access_key_id=settings.access_key_id,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        config=config,
    )
