from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from botocore.stub import Stubber

from processor.adapters.objects import stores
from processor.adapters.objects.s3 import SIZE_MAX, S3Store, part_bytes_for
from processor.adapters.objects.stores import Objects, s3_client
from processor.errors import ContractError, PermanentError, ProcessorError, StoreUnavailable
from processor.settings import S3Settings
from tests.adapters.objects.conformance import LARGE, MIB, Meeting, exercise_store, read, sha256
from tests.adapters.objects.s3_server import BUCKET, Line, S3Server, fresh_base, settings_for

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = pytest.mark.s3


@pytest.fixture
def base(s3: S3Server) -> str:
    return fresh_base(s3)


@pytest.fixture
def objects(s3: S3Server) -> Objects:
    return Objects(settings_for(s3))


def test_s3_store_keeps_the_ports_promises(objects: Objects, base: str) -> None:
    exercise_store(objects, f"{base}/some/prefix")


def test_sha256_is_recorded_when_known_before_the_upload(objects: Objects, base: str) -> None:
    uri = f"{base}/x"
    recorded = {}

    for name, body, known in (("s", b"s", None), ("m", LARGE, sha256(LARGE)), ("u", LARGE, None)):
        objects.put(f"{uri}/{name}", io.BytesIO(body), sha256=known, create_only=True)
        status = objects.stat(f"{uri}/{name}")
        assert status is not None
        recorded[name] = status.sha256

    assert recorded == {"s": sha256(b"s"), "m": sha256(LARGE), "u": None}


def test_encryption_and_the_bucket_s_owner_go_with_every_request_that_takes_them(
    s3: S3Server, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: dict[str, dict[str, str]] = {}

    def listening(settings: S3Settings, **how: bool) -> S3Client:
        client = s3_client(settings, **how)

        def note(model: Any, params: dict[str, Any], **_: Any) -> None:
            # The last of each operation: what boto3 is about to sign and send.
            sent[model.name] = {name.lower(): str(v) for name, v in params["headers"].items()}

        client.meta.events.register("before-call.s3", note)
        return client

    monkeypatch.setattr(stores, "s3_client", listening)
    kms = {"server_side_encryption": "aws:kms", "kms_key_id": "key-of-the-team"}
    objects = Objects(settings_for(s3, **kms, bucket_owner="123456789012"))
    for body in (b"small", LARGE):
        # No key store stands behind this server: what it answers is not what is asked here.
        with contextlib.suppress(ProcessorError):
            objects.put(f"{base}/x", io.BytesIO(body), create_only=True)
    with contextlib.suppress(ProcessorError):
        objects.stat(f"{base}/x")

    for operation in ("PutObject", "CreateMultipartUpload"):
        told = sent[operation]
        assert told["x-amz-server-side-encryption"] == "aws:kms"
        assert told["x-amz-server-side-encryption-aws-kms-key-id"] == "key-of-the-team"
    owners = {name: told.get("x-amz-expected-bucket-owner") for name, told in sent.items()}
    assert owners.keys() >= {"PutObject", "CreateMultipartUpload", "HeadObject"}
    assert set(owners.values()) == {"123456789012"}


def test_failed_upload_leaves_no_parts_behind(s3: S3Server, objects: Objects, base: str) -> None:
    client = s3_client(settings_for(s3).s3)
    where = {"Bucket": BUCKET, "Prefix": base.removeprefix(f"s3://{BUCKET}/")}

    with pytest.raises(ContractError):
        objects.put(f"{base}/x", io.BytesIO(LARGE), sha256=sha256(b"other"), create_only=True)

    assert client.list_multipart_uploads(**where).get("Uploads", []) == []
    assert client.list_objects_v2(**where).get("Contents", []) == []


def test_writer_killed_in_the_middle_leaves_no_object(
    s3: S3Server, objects: Objects, base: str
) -> None:
    uri = f"{base}/object"

    killed = subprocess.run(
        [sys.executable, "-c", KILLED_IN_THE_MIDDLE, uri], env=environment(s3), timeout=60
    )

    assert killed.returncode == -signal.SIGKILL
    assert objects.stat(uri) is None
    assert objects.put(uri, io.BytesIO(LARGE), create_only=True).created
    assert read(objects, uri) == LARGE


KILLED_IN_THE_MIDDLE = """
import os, signal, sys
from processor.adapters.objects.stores import Objects
from processor.settings import S3Settings, Settings

class Killing:
    count = 0
    def read(self, size=-1):
        self.count += 1
        if self.count == 40:
            os.kill(os.getpid(), signal.SIGKILL)
        return bytes(size)

s3 = S3Settings(endpoint_url=os.environ["S3_ENDPOINT"])
Objects(Settings(s3=s3)).put(sys.argv[1], Killing(), create_only=True)
"""


def test_large_creators_at_once_leave_one_whole_object(objects: Objects, base: str) -> None:
    uri, together = f"{base}/large", threading.Barrier(2, timeout=30)
    bodies = [LARGE, LARGE[::-1]]

    with ThreadPoolExecutor(2) as pool:
        writers = [
            pool.submit(objects.put, uri, Meeting(body, together), create_only=True)
            for body in bodies
        ]
        created = [writer.result().created for writer in writers]

    assert any(created)
    assert read(objects, uri) in bodies
    assert not objects.put(uri, io.BytesIO(LARGE), create_only=True).created


def test_server_lost_during_an_upload_is_an_outage(
    s3: S3Server, objects: Objects, base: str
) -> None:
    uri = f"{base}/x"

    with Line(s3) as line:
        stream = CutAfter(24 * MIB, line)
        with pytest.raises(StoreUnavailable) as away:
            Objects(settings_for(s3, endpoint_url=line.endpoint_url)).put(
                uri, stream, create_only=True
            )

    assert line.endpoint_url in away.value.message
    assert uri in away.value.message
    assert away.value.hint
    assert objects.stat(uri) is None


def test_server_lost_during_a_download_is_an_outage(
    s3: S3Server, objects: Objects, base: str
) -> None:
    uri = f"{base}/x"
    objects.put(uri, io.BytesIO(LARGE), create_only=True)

    with (
        Line(s3) as line,
        Objects(settings_for(s3, endpoint_url=line.endpoint_url)).open(uri) as stream,
    ):
        assert stream.read(MIB) == LARGE[:MIB]
        line.cut()
        with pytest.raises(StoreUnavailable, match="does not answer"):
            while stream.read(MIB):
                pass


@pytest.mark.parametrize("wrong", [{"secret_access_key": "wrong"}, {"access_key_id": "wrong"}])
@pytest.mark.parametrize("act", ["stat", "open", "put"])
def test_wrong_credentials_are_an_outage_that_says_so(
    s3: S3Server, base: str, wrong: dict[str, str], act: str
) -> None:
    objects = Objects(settings_for(s3, **wrong))
    acts = {
        "stat": objects.stat,
        "open": objects.open,
        "put": lambda uri: objects.put(uri, io.BytesIO(b"x"), create_only=True),
    }

    with pytest.raises(StoreUnavailable, match="refuses the credentials") as refused:
        acts[act](f"{base}/x")

    assert "secret_access_key" in (refused.value.hint or "")
    assert "wrong" not in str(refused.value)


def test_reading_from_a_missing_bucket_is_permanent_and_named(objects: Objects) -> None:
    with pytest.raises(PermanentError, match="there is no bucket") as refused:
        read(objects, "s3://no-such-bucket-here/x")

    assert refused.value.hint
    assert objects.stat("s3://no-such-bucket-here/x") is None


@pytest.mark.parametrize(
    "uri",
    [
        "s3://",
        "s3://bucket",
        "s3://bucket/",
        "s3:///key",
        "s3://B_%/k",
        "s3://me:pw@b/k",
        "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint:mine/k",
    ],
)  # fmt: skip
def test_uri_without_bucket_and_key_is_refused(objects: Objects, uri: str) -> None:
    with pytest.raises(PermanentError, match="must be s3:// and a bucket and a key"):
        objects.open(uri)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "AccessDenied", PermanentError),
        (404, "NoSuchBucket", PermanentError),
        (400, "KeyTooLongError", PermanentError),
        (403, "ExpiredToken", StoreUnavailable),
        (403, "RequestTimeTooSkewed", StoreUnavailable),
        (503, "SlowDown", StoreUnavailable),
        (500, "InternalError", StoreUnavailable),
    ],
)
def test_refused_put_is_sorted_by_who_can_heal_it(
    status: int, code: str, kind: type[Exception]
) -> None:
    client = s3_client(unreachable())

    with Stubber(client) as stub:
        stub.add_client_error("put_object", code, http_status_code=status)
        with pytest.raises(kind) as refused:
            S3Store(client).put("s3://bucket/x", io.BytesIO(b"x"), create_only=True)

    assert isinstance(refused.value, StoreUnavailable) == (kind is StoreUnavailable)


def test_put_refused_for_a_writer_in_the_same_instant_is_tried_again() -> None:
    client = s3_client(unreachable())

    with Stubber(client) as stub:
        for _ in range(3):
            stub.add_client_error("put_object", "ConditionalRequestConflict", http_status_code=409)
        stub.add_response("put_object", {"ETag": '"e"'})
        put = S3Store(client).put("s3://bucket/x", io.BytesIO(b"x"), create_only=True)
        stub.assert_no_pending_responses()

    assert put.created


def test_put_refused_again_and_again_is_an_outage() -> None:
    client = s3_client(unreachable())

    with Stubber(client) as stub:
        for _ in range(4):
            stub.add_client_error("put_object", "ConditionalRequestConflict", http_status_code=409)
        with pytest.raises(StoreUnavailable):
            S3Store(client).put("s3://bucket/x", io.BytesIO(b"x"), create_only=True)
        stub.assert_no_pending_responses()


@pytest.mark.parametrize(
    "size", [0, 80 * 1000 * MIB, 80 * 1000 * MIB + 10_001, 5 * 1024**4, SIZE_MAX]
)
def test_every_object_fits_into_the_parts_that_s3_allows(size: int) -> None:
    sent = parts = most = 0
    while sent < size:
        most = max(most, part_bytes_for(size, sent, least=8 * MIB))
        sent += part_bytes_for(size, sent, least=8 * MIB)
        parts += 1

    assert parts <= 10_000
    assert most <= max(8 * MIB, 2 * (size // 10_000 + 1))
    assert most <= 5 * 1024**3


def test_parts_grow_with_what_was_sent_and_not_with_what_a_job_promises() -> None:
    assert part_bytes_for(SIZE_MAX, 0, least=8 * MIB) == 8 * MIB
    assert part_bytes_for(SIZE_MAX, 10 * 1024**3, least=8 * MIB) < 21 * MIB


def test_object_that_is_promised_to_be_too_large_is_refused_before_it_is_read() -> None:
    source = io.BytesIO(b"x")

    with pytest.raises(PermanentError, match="possible"):
        S3Store(s3_client(unreachable())).put(
            "s3://bucket/x", source, size=SIZE_MAX + 1, create_only=True
        )

    assert source.read() == b"x"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_memory_does_not_grow_with_the_object(s3: S3Server, base: str, tmp_path: Path) -> None:
    source = tmp_path / "sparse"
    with source.open("wb") as file:
        file.truncate(1024 * MIB)

    copied = subprocess.run(
        [sys.executable, "-c", COPY, source.as_uri(), f"{base}/large"],
        env=environment(s3),
        timeout=280,
        capture_output=True,
        text=True,
        check=True,
    )

    size, resident_bytes = map(int, copied.stdout.split())
    assert size == 1024 * MIB
    assert resident_bytes < 300 * MIB


# On Linux `ru_maxrss` is inherited from the process that started this one; VmHWM is its own.
COPY = """
import os, pathlib, re, resource, sys
from processor.adapters.objects.stores import Objects
from processor.settings import S3Settings, Settings

objects = Objects(Settings(s3=S3Settings(endpoint_url=os.environ["S3_ENDPOINT"])))
with objects.open(sys.argv[1]) as stream:
    put = objects.put(sys.argv[2], stream, create_only=True)
if sys.platform == "darwin":
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
else:
    status = pathlib.Path("/proc/self/status").read_text()
    peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) * 1024
print(put.size, peak)
"""


class CutAfter:
    """An endless stream that cuts the line once `size` bytes have been read."""

    def __init__(self, size: int, line: Line) -> None:
        self._rest = size
        self._line = line

    def read(self, size: int = -1, /) -> bytes:
        self._rest -= size
        if self._rest < 0:
            self._line.cut()
        return bytes(size)


def environment(s3: S3Server) -> dict[str, str]:
    """Give the environment in which the AWS SDK finds the server's credentials by itself."""
    return os.environ | {
        "S3_ENDPOINT": s3.endpoint_url,
        "AWS_ACCESS_KEY_ID": s3.access_key_id,
        "AWS_SECRET_ACCESS_KEY": s3.secret_access_key,
        "AWS_DEFAULT_REGION": s3.region,
    }


def unreachable() -> S3Settings:
    return S3Settings(
        endpoint_url="http://127.0.0.1:9",
        region="us-east-1",
        access_key_id="key",
        secret_access_key="secret",
    )
