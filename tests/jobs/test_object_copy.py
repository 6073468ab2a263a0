from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest

from processor.adapters.objects.stores import Objects
from processor.contracts.claims import ObjectStat
from processor.errors import ContractError, JobTimeout, Reject, StoreUnavailable
from processor.jobs import ObjectCopy, copy
from processor.model import ObjectRef
from processor.settings import Settings
from tests.adapters.objects.conformance import LARGE, read
from tests.adapters.objects.memory import MemoryStore
from tests.adapters.objects.s3_server import S3Server, fresh_base, settings_for
from tests.jobs.context import JobContext

SOURCE, TARGET = "mem://in/a", "mem://out/a"
BODY = b"some content"
SHA256 = hashlib.sha256(BODY).hexdigest()
DONE = {"uri": TARGET, "size": len(BODY), "sha256": SHA256}


def with_objects(**objects: bytes) -> MemoryStore:
    store = MemoryStore()
    for name, body in objects.items():
        uri = {"source": SOURCE, "target": TARGET}[name]
        store.put(uri, io.BytesIO(body), create_only=True)
    return store


REFERENCES = [
    ObjectRef(SOURCE),
    ObjectRef(SOURCE, size=len(BODY)),
    ObjectRef(SOURCE, sha256=SHA256),
    ObjectRef(SOURCE, size=len(BODY), sha256=SHA256, content_type="text/plain"),
]


@pytest.mark.parametrize("source", REFERENCES)
def test_object_is_copied_with_its_type_and_its_checksum_told(source: ObjectRef) -> None:
    store = with_objects(source=BODY)

    result = copy(ObjectCopy(source, TARGET), JobContext(store))

    assert result == DONE | {"copied": True}
    assert store.objects[TARGET] == BODY
    assert store.stats[TARGET].content_type == source.content_type


@pytest.mark.parametrize("source", REFERENCES)
@pytest.mark.parametrize("recorded", [True, False])
def test_copy_that_is_there_already_is_success_and_writes_nothing(
    source: ObjectRef, recorded: bool
) -> None:
    store = with_objects(source=BODY, target=BODY)
    kept = store.objects[TARGET]
    if not recorded:
        for uri in (SOURCE, TARGET):
            store.stats[uri] = ObjectStat(size=len(BODY))

    result = copy(ObjectCopy(source, TARGET), JobContext(store))

    assert result == DONE | {"copied": False}
    assert store.objects[TARGET] is kept


def test_copy_that_is_there_already_is_not_read_when_the_store_knows_it() -> None:
    store = with_objects(target=BODY)

    result = copy(ObjectCopy(REFERENCES[-1], TARGET), JobContext(store))

    assert result["copied"] is False
    assert store.opened == []


@pytest.mark.parametrize("source", REFERENCES)
@pytest.mark.parametrize("other", [BODY[::-1], BODY + b"!", b""])
@pytest.mark.parametrize("recorded", [True, False])
def test_other_content_at_the_target_is_never_overwritten(
    source: ObjectRef, other: bytes, recorded: bool
) -> None:
    store = with_objects(source=BODY, target=other)
    if not recorded:
        store.stats[TARGET] = ObjectStat(size=len(other))

    with pytest.raises(Reject, match="exists with other content") as refused:
        copy(ObjectCopy(source, TARGET), JobContext(store))

    assert refused.value.hint
    assert store.objects[TARGET] == other


def test_writer_that_was_quicker_is_compared_like_any_other() -> None:
    same, other = Overtaken(BODY), Overtaken(b"other")

    assert copy(ObjectCopy(ObjectRef(SOURCE), TARGET), JobContext(same))["copied"] is False
    with pytest.raises(Reject):
        copy(ObjectCopy(ObjectRef(SOURCE), TARGET), JobContext(other))
    assert (same.objects[TARGET], other.objects[TARGET]) == (BODY, b"other")


class Overtaken(MemoryStore):
    """A store in which somebody writes the target right after it was found missing."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        super().put(SOURCE, io.BytesIO(BODY), create_only=True)
        self._body = body

    def stat(self, uri: str) -> ObjectStat | None:
        known = super().stat(uri)
        if uri == TARGET and known is None:
            self.put(TARGET, io.BytesIO(self._body), create_only=True)
        return known


def test_missing_source_is_permanent_and_nothing_is_written() -> None:
    store = MemoryStore()

    with pytest.raises(ContractError, match="does not exist"):
        copy(ObjectCopy(ObjectRef(SOURCE), TARGET), JobContext(store))

    assert store.objects == {}


@pytest.mark.parametrize(
    "source", [ObjectRef(SOURCE, size=1), ObjectRef(SOURCE, sha256=SHA256[::-1])]
)
def test_source_that_is_not_what_its_reference_says_leaves_nothing(source: ObjectRef) -> None:
    store = with_objects(source=BODY)

    with pytest.raises(ContractError):
        copy(ObjectCopy(source, TARGET), JobContext(store))

    assert TARGET not in store.objects


def test_store_that_is_away_is_an_outage() -> None:
    store = MemoryStore(fault=StoreUnavailable("away"))

    with pytest.raises(StoreUnavailable):
        copy(ObjectCopy(ObjectRef(SOURCE), TARGET), JobContext(store))


def test_progress_is_told_in_bytes() -> None:
    ctx = JobContext(with_objects(source=LARGE))

    copy(ObjectCopy(ObjectRef(SOURCE, size=len(LARGE)), TARGET), ctx)

    done = [done for done, _ in ctx.seen]
    assert done == sorted(done)
    assert done[-1] == len(LARGE)
    assert len(set(done)) > 10
    assert {total for _, total in ctx.seen} == {len(LARGE)}


@pytest.mark.parametrize("target_there", [False, True])
def test_cancelled_copy_stops_between_two_reads_and_leaves_nothing(target_there: bool) -> None:
    store = with_objects(source=LARGE)
    if target_there:
        store.put(TARGET, io.BytesIO(LARGE), create_only=True)
        store.stats[TARGET] = ObjectStat(size=len(LARGE))
    ctx = JobContext(store, cancel_after=3)

    with pytest.raises(JobTimeout):
        copy(ObjectCopy(ObjectRef(SOURCE), TARGET), ctx)

    assert len(ctx.seen) == 3
    assert (TARGET in store.objects) == target_there


def test_target_that_is_a_signed_link_is_told_without_its_signature() -> None:
    link = "https://files.example/a?X-Amz-Signature=s3cret"
    store = with_objects(source=BODY)
    store.put(link, io.BytesIO(BODY), create_only=True)
    known, other = ObjectRef(SOURCE), ObjectRef(SOURCE, size=1)

    result = copy(ObjectCopy(known, link), JobContext(store))
    with pytest.raises(Reject, match=r"https://files.example/a exists") as refused:
        copy(ObjectCopy(other, link), JobContext(store))

    assert result["uri"] == "https://files.example/a"
    assert "s3cret" not in str(refused.value)


def test_file_is_copied_to_a_file(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(LARGE)
    payload = ObjectCopy(
        ObjectRef((tmp_path / "source").as_uri()), (tmp_path / "new" / "target").as_uri()
    )
    ctx = JobContext(Objects(Settings()))

    first, second = copy(payload, ctx), copy(payload, ctx)

    assert (first["copied"], second["copied"]) == (True, False)
    assert first["sha256"] == second["sha256"] == hashlib.sha256(LARGE).hexdigest()
    assert (tmp_path / "new" / "target").read_bytes() == LARGE


@pytest.mark.s3
@pytest.mark.parametrize("known", [True, False])
def test_file_is_copied_to_s3_and_back(s3: S3Server, tmp_path: Path, known: bool) -> None:
    (tmp_path / "source").write_bytes(LARGE)
    sha256 = hashlib.sha256(LARGE).hexdigest() if known else None
    ctx = JobContext(Objects(settings_for(s3)))
    there, back = f"{fresh_base(s3)}/a b/target", (tmp_path / "back").as_uri()
    up = ObjectCopy(ObjectRef((tmp_path / "source").as_uri(), sha256=sha256), there)

    results = [
        copy(up, ctx),
        copy(up, ctx),
        copy(ObjectCopy(ObjectRef(there), back), ctx),
        copy(ObjectCopy(ObjectRef(there), back), ctx),
    ]

    assert [result["copied"] for result in results] == [True, False, True, False]
    assert {result["sha256"] for result in results} == {hashlib.sha256(LARGE).hexdigest()}
    assert read(ctx.objects, there) == LARGE
    assert (tmp_path / "back").read_bytes() == LARGE
