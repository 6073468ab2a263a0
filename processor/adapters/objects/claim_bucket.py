"""What is in a claim store, by its own rules and by its age: for those who keep it tidy."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from processor.adapters.http_date import ahead_of
from processor.adapters.objects.file import path_of
from processor.adapters.objects.s3 import S3Store
from processor.adapters.objects.stores import Objects, s3_client
from processor.settings import S3Settings, Settings

DELETING_MAX = 16  # Requests at once.

_CLAIM = re.compile(r"([0-9a-f]{2})/(\1[0-9a-f]{62})")  # As `ClaimStore.put` names them.


@dataclass(frozen=True, slots=True)
class StoredClaim:
    """One claim's object. `modified` is in seconds since the epoch."""

    uri: str
    size: int
    modified: float


class ClaimBucket:
    """The bucket of an `s3://bucket/prefix` claim store.

    Every call may raise StoreUnavailable, or PermanentError where it is not allowed.
    """

    def __init__(self, settings: S3Settings, base_uri: str) -> None:
        self.name, _, rest = base_uri.removeprefix("s3://").partition("/")
        self.prefix = f"{rest.rstrip('/')}/" if rest.rstrip("/") else ""
        self.uri = f"s3://{self.name}/{self.prefix}"
        self.ahead_seconds: float | None = None  # Of the store's clock, at its last answer.
        self._client = s3_client(settings, hasty=True)
        self._store = S3Store(self._client)  # Tells faults in our words.
        self._common: dict[str, Any] = {"Bucket": self.name}
        if settings.bucket_owner is not None:
            self._common["ExpectedBucketOwner"] = settings.bucket_owner

    def rules(self) -> tuple[Mapping[str, Any], ...]:
        """Read the lifecycle rules."""
        return tuple(self._configuration().get("Rules", ()))

    def set_rules(self, rules: Sequence[Mapping[str, Any]]) -> None:
        """Replace the lifecycle rules; S3 cannot change one by itself."""
        kept = self._configuration().get("TransitionDefaultMinimumObjectSize")
        more = {} if kept is None else {"TransitionDefaultMinimumObjectSize": kept}
        with self._store.faults(self.uri):
            self._client.put_bucket_lifecycle_configuration(
                **self._common,
                **more,
                LifecycleConfiguration={"Rules": [*rules]},  # type: ignore[list-item]
            )

    def claims(self) -> Iterator[StoredClaim]:
        """List the claims; other objects under the prefix are passed over."""
        pages = self._client.get_paginator("list_objects_v2")
        with self._store.faults(self.uri):
            for page in pages.paginate(**self._common, Prefix=self.prefix):
                for each in page.get("Contents", ()):
                    if _CLAIM.fullmatch(each["Key"].removeprefix(self.prefix)):
                        uri = f"s3://{self.name}/{each['Key']}"
                        yield StoredClaim(uri, each["Size"], each["LastModified"].timestamp())

    def _configuration(self) -> dict[str, Any]:
        asked = time.time()
        with self._store.faults(self.uri):
            try:
                answer: Any = self._client.get_bucket_lifecycle_configuration(**self._common)
            except ClientError as fault:
                answer = fault.response
                if answer["Error"]["Code"] != "NoSuchLifecycleConfiguration":
                    raise
        date = answer["ResponseMetadata"].get("HTTPHeaders", {}).get("date")
        self.ahead_seconds = ahead_of(asked, time.time(), date)
        return {name: each for name, each in answer.items() if name != "Error"}


def claims_in(settings: Settings, base_uri: str) -> Iterator[StoredClaim]:
    """List a claim store's objects, of S3 or of a file system."""
    if base_uri.startswith("s3://"):
        yield from ClaimBucket(settings.s3, base_uri).claims()
        return
    base = path_of(base_uri.rstrip("/"))
    for folder, _, names in os.walk(base):
        for name in names:
            path = base.joinpath(folder, name)
            if _CLAIM.fullmatch(path.relative_to(base).as_posix()):
                stat = path.stat()
                uri = f"{base_uri.rstrip('/')}/{path.relative_to(base).as_posix()}"
                yield StoredClaim(uri, stat.st_size, stat.st_mtime)


def delete_claims(objects: Objects, claims: Sequence[StoredClaim], *, before: float) -> int:
    """Delete claims, but none that was written again meanwhile. Returns how many went.

    Each is looked at once more just before: S3 deletes by the name alone. A value that is put again
    between the two answers, after a claim's whole life, would be lost; the store's own lifecycle
    rules have that gap, too.
    """

    def delete(claim: StoredClaim) -> bool:
        stat = objects.stat(claim.uri)
        if stat is None or stat.modified is None or stat.modified >= before:
            return False
        objects.delete(claim.uri)
        return True

    with ThreadPoolExecutor(DELETING_MAX, "claims") as pool:
        return sum(pool.map(delete, claims))
