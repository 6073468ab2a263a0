"""Objects in S3 or anything that speaks it, named `s3://bucket/key`. The key is taken verbatim.

An object up to one part goes up in one request, a larger one in parts, a few at a time; the memory
used is (parts in flight + 1) x part size, 32 MiB, whatever the object's size; above 80 GB parts
must grow, as S3 allows 10,000. They grow with what was sent, for the size is only promised: a job
may name any. `If-None-Match: *` makes the store decide between two creators.

The SHA-256 is kept in the object's metadata as `sha256`, which must be sent before a multipart
upload's first byte. So an object of more than one part whose SHA-256 the caller did not know has
none, and `stat` says None. An ETag is never taken for a SHA-256: of parts it is a hash of hashes.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from processor.contracts.claims import (
    CHUNK_BYTES,
    ObjectStat,
    Put,
    Reader,
    Stream,
    Verified,
    verified,
)
from processor.contracts.uris import BUCKET, shown
from processor.errors import ContractError, PermanentError, ProcessorError, StoreUnavailable

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

PARTS_MAX = 10_000  # S3's own limit
PART_BYTES_MAX = 5 * 1024**3  # S3's own, too.
SIZE_MAX = 32 * 1024**4  # What fits into parts that grow so.
CONFLICT_TRIES_MAX = 4

_SHA256 = re.compile(r"[0-9a-f]{64}")
_CREDENTIALS = {
    "AuthFailure",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
_LATER = {"NoSuchUpload", "OperationAborted", "RequestTimeout", "SlowDown", "Throttling"}
_CREDENTIALS_HINT = (
    "check `[s3] access_key_id` and `secret_access_key`, the endpoint and this machine's clock"
)
# What the SDK raises where a proxy or a login page answers; that redirects lead it in a circle.
_NO_S3 = (ResponseParserError, LookupError, TypeError, AttributeError, ValueError, RecursionError)


class S3Store:
    """An object store on one S3 endpoint. The client may be shared by threads.

    `bucket_owner` is sent as ExpectedBucketOwner, so that a bucket which changed hands is refused;
    `put_options` go with every new object, e.g. `{"ServerSideEncryption": "aws:kms"}`.
    """

    def __init__(
        self,
        client: S3Client,
        *,
        part_bytes: int = 8 * 1024 * 1024,
        parts_in_flight_max: int = 3,
        bucket_owner: str | None = None,
        put_options: Mapping[str, str] | None = None,
    ) -> None:
        assert part_bytes >= 5 * 1024 * 1024  # S3 refuses smaller parts.
        assert parts_in_flight_max >= 1
        self._client = client
        self._endpoint = client.meta.endpoint_url
        self._part_bytes = part_bytes
        self._parts_in_flight_max = parts_in_flight_max
        self._common: dict[str, Any] = {"ExpectedBucketOwner": bucket_owner} if bucket_owner else {}
        self._put_options: dict[str, Any] = {**self._common, **(put_options or {})}

    def open(self, uri: str) -> Reader:
        """Open an object; its bytes are fetched as they are read."""
        with self.faults(uri):
            answer = self._client.get_object(**_name(uri), **self._common)
            try:
                _require_etag(answer)
            except LookupError:
                answer["Body"].close()
                raise
        return S3Reader(self, answer["Body"], uri)

    def stat(self, uri: str) -> ObjectStat | None:
        """Ask for an object's metadata. A bucket that does not exist holds no object."""
        try:
            with self.faults(uri):
                answer = self._client.head_object(**_name(uri), **self._common)
                sha256, modified = answer["Metadata"].get("sha256", ""), answer.get("LastModified")
                return ObjectStat(
                    size=answer["ContentLength"],
                    sha256=sha256 if _SHA256.fullmatch(sha256) else None,
                    content_type=answer.get("ContentType"),
                    etag=answer["ETag"].strip('"'),
                    modified=None if modified is None else modified.timestamp(),
                )
        except ContractError:
            return None
        except PermanentError:
            # A HEAD is refused without a word; a GET says whether it was the credentials.
            with self.open(uri):
                raise

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
        """Upload the stream. An upload that fails is aborted, so no parts stay behind.

        A process killed in the middle leaves invisible parts, which cost money until a lifecycle
        rule with AbortIncompleteMultipartUpload removes them.
        """
        checked = verified(stream, size=size, sha256=sha256, name=f"the content for {uri}")
        if size is not None and size > SIZE_MAX:
            raise PermanentError(f"{uri} would have {size} bytes, over the {SIZE_MAX} possible")
        part_bytes = self._part_bytes
        options: dict[str, Any] = {**_name(uri), **self._put_options}
        if content_type is not None:
            options["ContentType"] = content_type
        parts = [_fill(checked, part_bytes)]
        if len(parts[0]) == part_bytes and (second := _fill(checked, part_bytes)):
            parts.append(second)
            del second
        if len(parts) == 1:
            options["Metadata"] = {"sha256": checked.sha256}
            created = self._put_whole(uri, parts[0], options, create_only=create_only)
        else:
            if create_only and (existing := self.stat(uri)) is not None:
                return Put(uri, existing.size, existing.sha256, created=False)
            if sha256 is not None:
                options["Metadata"] = {"sha256": sha256}
            every_part = _parts(parts, checked, size, part_bytes)
            created = self._put_parts(uri, every_part, options, create_only=create_only)
        if created:
            return Put(uri, checked.count, checked.sha256, created=True)
        existing = self.stat(uri)
        return Put(
            uri,
            existing.size if existing else None,
            existing.sha256 if existing else None,
            created=False,
        )

    def delete(self, uri: str) -> None:
        """Delete an object."""
        with self.faults(uri):
            self._client.delete_object(**_name(uri), **self._common)

    def _put_whole(
        self, uri: str, body: bytes, options: dict[str, Any], *, create_only: bool
    ) -> bool:
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if create_only else {}
        for tries in range(1, CONFLICT_TRIES_MAX + 1):
            try:
                with self.faults(uri):
                    _require_etag(self._client.put_object(**options, **condition, Body=body))
            except _Exists:
                return False
            except _Conflict:
                if tries == CONFLICT_TRIES_MAX:
                    raise
            else:
                return True
        raise AssertionError("the last try returns or raises")

    def _put_parts(
        self, uri: str, parts: Iterator[bytes], options: dict[str, Any], *, create_only: bool
    ) -> bool:
        with self.faults(uri):
            upload_id = self._client.create_multipart_upload(**options)["UploadId"]
        upload: dict[str, Any] = {**_name(uri), **self._common, "UploadId": upload_id}
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if create_only else {}
        try:
            sent = self._send(uri, parts, upload)
            with self.faults(uri):
                done = self._client.complete_multipart_upload(
                    **upload, **condition, MultipartUpload={"Parts": sent}
                )
                _require_etag(done)
        except BaseException as fault:
            # Best effort: when the store is away the lifecycle rule does it.
            with suppress(BotoCoreError, ClientError):
                self._client.abort_multipart_upload(**upload)
            if isinstance(fault, _Exists):
                return False
            raise
        return True

    def _send(
        self, uri: str, parts: Iterator[bytes], upload: dict[str, Any]
    ) -> list[CompletedPartTypeDef]:
        """Send the parts, a few at a time; the oldest must arrive before another is read."""

        def send(number: int, part: bytes) -> CompletedPartTypeDef:
            with self.faults(uri):
                answer = self._client.upload_part(**upload, PartNumber=number, Body=part)
                return {"PartNumber": number, "ETag": answer["ETag"]}

        flying: deque[Future[CompletedPartTypeDef]] = deque()
        sent: list[CompletedPartTypeDef] = []
        with ThreadPoolExecutor(self._parts_in_flight_max, "s3-part") as pool:
            for number, part in enumerate(parts, start=1):
                if number > PARTS_MAX:
                    raise PermanentError(
                        f"{uri} would need more than {PARTS_MAX} parts of {self._part_bytes} bytes",
                        hint="give the object's size, so that larger parts can be chosen",
                    )
                flying.append(pool.submit(send, number, part))
                del part
                if len(flying) == self._parts_in_flight_max:
                    sent.append(flying.popleft().result())
            sent.extend(future.result() for future in flying)
        return sent

    @contextmanager
    def faults(self, uri: str) -> Iterator[None]:
        """Tell S3's faults as ours: missing, away, or not to be touched."""
        try:
            yield
        except ClientError as fault:
            raise _told(fault, uri, self._endpoint) from fault
        except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError) as fault:
            raise StoreUnavailable(
                f"there are no usable credentials for S3 at {self._endpoint}: {fault}",
                hint=_CREDENTIALS_HINT,
            ) from fault
        except (ParamValidationError, UnicodeEncodeError) as fault:
            raise PermanentError(f"S3 cannot have an object {uri!r}: {fault}") from fault
        except (BotoCoreError, HTTPError) as fault:
            raise StoreUnavailable(
                f"S3 at {self._endpoint} does not answer for {uri}: {fault}",
                hint="check that it runs and that `[s3] endpoint_url` is right",
            ) from fault
        except _NO_S3 as fault:
            raise _no_s3(uri, self._endpoint, type(fault).__name__) from None


class S3Reader:
    """An object being fetched. A connection that breaks in the middle is StoreUnavailable."""

    def __init__(self, store: S3Store, body: StreamingBody, uri: str) -> None:
        self._store = store
        self._body = body
        self._uri = uri

    def __enter__(self) -> S3Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def read(self, size: int = -1, /) -> bytes:
        """Give at most `size` bytes."""
        with self._store.faults(self._uri):
            return self._body.read(None if size < 0 else size)

    def close(self) -> None:
        """Let go of the connection; what was not read is not fetched."""
        self._body.close()


def part_bytes_for(size: int | None, sent: int, *, least: int) -> int:
    """Choose how large an object's next part is, so that it fits into as many as S3 allows.

    Where equal parts would not do, each is a 500th of what was sent, up to twice what equal ones
    would be.

    >>> part_bytes_for(80 * 1000**3, 79 * 1000**3, least=8 * 1024**2) // 1024**2
    8
    >>> [part_bytes_for(5 * 1024**4, sent, least=8 * 1024**2) // 1024**2 for sent in (0, 2**40)]
    [8, 1048]
    """
    equal = -(-(size or 0) // PARTS_MAX)
    if equal <= least:
        return least
    return max(least, min(2 * equal, sent // 500, PART_BYTES_MAX))


class _Exists(PermanentError):
    """The name is taken: a conditional write was refused."""


class _Conflict(StoreUnavailable):
    """Another writer or deleter was at the same name in the same instant."""


def _require_etag(answer: Mapping[str, Any]) -> None:
    """S3 tells an object's ETag whatever it did with it; a page that answers 200 does not."""
    if "ETag" not in answer:
        raise LookupError("an answer without an ETag")


def _no_s3(uri: str, endpoint: str, what: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"what answers at {endpoint} for {uri} is no S3, or one in trouble ({what})",
        hint="is `[s3] endpoint_url` right, and is there a proxy or a login page before it?",
    )


def _told(fault: ClientError, uri: str, endpoint: str) -> ProcessorError:
    code = fault.response["Error"].get("Code", "")
    status = fault.response["ResponseMetadata"]["HTTPStatusCode"]
    reason = f"{code}: {fault.response['Error'].get('Message', '')}"
    if code in _CREDENTIALS:
        return StoreUnavailable(
            f"S3 at {endpoint} refuses the credentials for {uri}: {reason}", hint=_CREDENTIALS_HINT
        )
    if code == "NoSuchBucket":
        return PermanentError(
            f"there is no bucket for {uri} at {endpoint}",
            hint="create the bucket, or correct the URI or `[s3] endpoint_url`",
        )
    if code == "PreconditionFailed":
        return _Exists(f"{uri} exists")
    if code == "ConditionalRequestConflict":
        return _Conflict(f"another writer was at {uri} in the same instant")
    if status >= 500 or status in (408, 429) or code in _LATER:
        return StoreUnavailable(
            f"S3 at {endpoint} failed at {uri}: {reason}", hint="see the store's own log"
        )
    if status == 404 and code == "404" and fault.operation_name != "HeadObject":
        return _no_s3(uri, endpoint, "404 without a word of S3's")  # A HEAD's has none ever.
    if status == 404:
        return ContractError(f"{uri} does not exist")
    if status == 403:
        return PermanentError(
            f"access to {uri} is denied: {reason}",
            hint="the credentials are known but need s3:GetObject, s3:PutObject or s3:ListBucket",
        )
    return PermanentError(f"S3 at {endpoint} refuses {uri}: {reason}")


def _name(uri: str) -> dict[str, Any]:
    """Give the bucket and key that a URI names, as the client's arguments."""
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not key or not re.fullmatch(BUCKET, bucket):
        raise PermanentError(
            f"the URI {shown(uri)!r} must be s3:// and a bucket and a key",
            hint="e.g. s3://reports/2025/june.csv; of an access point give the alias, not the ARN",
        )
    return {"Bucket": bucket, "Key": key}


def _fill(stream: Verified, size: int) -> bytes:
    """Read one part: `size` bytes unless the stream ends."""
    part = bytearray()
    while len(part) < size and (chunk := stream.read(min(CHUNK_BYTES, size - len(part)))):
        part += chunk
    return bytes(part)


def _parts(parts: list[bytes], stream: Verified, size: int | None, least: int) -> Iterator[bytes]:
    """Give the parts already read, then the rest of the stream."""
    while parts:
        yield parts.pop(0)
    while part := _fill(stream, part_bytes_for(size, stream.count, least=least)):
        yield part
