from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor.adapters.objects.stores import Objects
from processor.contracts.claims import ObjectStore
from processor.errors import PermanentError, SinkUnavailable, StoreUnavailable
from processor.model import Effect, Position
from processor.settings import Settings
from processor.sinks.objects import ObjectSink, safe_name
from tests.adapters.objects.conformance import read
from tests.adapters.objects.memory import MemoryStore
from tests.adapters.objects.s3_server import S3Server, fresh_base, settings_for

EFFECT = Effect(
    job_id="0199-1",
    job_type="object.copy",
    identity="job:0199-1",
    origin=Position("copy", 3, 17),
    attempt=1,
    key="ключ",
    result={"size": 3, "copied": True},
)


def named(job_id: str) -> Effect:
    return EFFECT._replace(job_id=job_id, identity=f"job:{job_id}")


def exercise_sink(objects: ObjectStore, base_uri: str) -> None:
    """What the sink must do on every store."""
    sink = ObjectSink(objects, base_uri)
    odd = named("../../etc/passwd: a?b#c%2F~ü")._replace(result=None, key=None)

    assert sink.write([]) == []
    uris = sink.write([EFFECT, odd])

    assert uris[0] == f"{base_uri}/object.copy/0199-1.json"
    assert json.loads(read(objects, uris[0])) == {
        "job_id": "0199-1",
        "job_type": "object.copy",
        "key": "ключ",
        "result": {"size": 3, "copied": True},
    }
    assert uris[1].startswith(f"{base_uri}/object.copy/")
    assert json.loads(read(objects, uris[1]))["job_id"] == odd.job_id

    again = sink.write([EFFECT._replace(attempt=2, result={"size": 4}), odd])

    assert again == uris
    assert json.loads(read(objects, uris[0]))["result"] == {"size": 3, "copied": True}


def test_results_are_written_once_in_memory() -> None:
    exercise_sink(MemoryStore(), "mem://results")


def test_job_id_and_idempotency_key_of_the_same_text_name_two_documents() -> None:
    sink = ObjectSink(MemoryStore(), "mem://results")
    texts = ("x", "object.copy:x", "key:object.copy:x", "key~~object.copy~3Ax", "")
    effects = [named(text) for text in texts]
    effects += [named("")._replace(identity=f"key:object.copy:{text}") for text in texts]

    assert len({sink.uri(each) for each in effects}) == len(effects)
    assert sink.uri(effects[5]) == "mem://results/object.copy/key~~object.copy~3Ax.json"


def test_results_are_written_once_as_files(tmp_path: Path) -> None:
    exercise_sink(Objects(Settings()), f"{tmp_path.as_uri()}/results")

    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.parent for path in files} == {Path("results/object.copy")}
    assert len(files) == 2


@pytest.mark.s3
def test_results_are_written_once_in_s3(s3: S3Server) -> None:
    exercise_sink(Objects(settings_for(s3)), f"{fresh_base(s3)}/results")


@pytest.mark.parametrize("fault", [StoreUnavailable("away"), PermanentError("denied", hint="do")])
def test_store_that_cannot_be_written_makes_the_sink_unavailable(fault: Any) -> None:
    objects = MemoryStore(fault=fault)

    with pytest.raises(SinkUnavailable, match=r"0199-1\.json.*(away|denied)") as refused:
        ObjectSink(objects, "mem://results").write([EFFECT])

    assert refused.value.hint == fault.hint
    assert objects.objects == {}


@pytest.mark.parametrize("result", [float("nan"), b"bytes", {1, 2}, object(), "\ud800"])
def test_result_that_is_not_json_is_permanent_and_nothing_is_written(result: Any) -> None:
    objects = MemoryStore()

    with pytest.raises(PermanentError, match="job 0199-1 is not JSON"):
        ObjectSink(objects, "mem://results").write([named("other"), EFFECT._replace(result=result)])

    assert objects.objects == {}


@given(st.text(st.characters(), max_size=400), st.text(st.characters(), max_size=400))
def test_every_job_id_has_one_safe_name_of_its_own(one: str, other: str) -> None:
    name = safe_name(one)

    assert (name == safe_name(other)) == (one == other)
    assert 0 < len(name) <= 200
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-~")
    assert name not in (".", "..")


def test_long_job_ids_are_kept_apart() -> None:
    names = {safe_name("x" * 1000 + end) for end in "ab"} | {safe_name("ü" * 100)}

    assert len(names) == 3
    assert all(len(name) <= 200 for name in names)
