from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastavro.schema import parse_schema

from processor.contracts.builtin import schema_directories, topic_directories
from processor.contracts.faults import FaultyFiles
from processor.contracts.lint import DEPTH_MAX, hazards
from processor.contracts.schemas import SchemaSet, self_contained
from processor.errors import ContractError, UsageError
from processor.settings import Settings

ROOT = Path(__file__).parent.parent.parent


def field(name: str, kind: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, "doc": "A field.", **more}


def record(full_name: str, *fields: dict[str, Any], **more: Any) -> dict[str, Any]:
    namespace, _, name = full_name.rpartition(".")
    named = {"namespace": namespace, "name": name} if namespace else {"name": name}
    return {"type": "record", **named, "doc": "A record.", "fields": list(fields), **more}


def write(directory: Path, **files: Any) -> Path:
    directory.mkdir(exist_ok=True)
    for stem, document in files.items():
        text = document if isinstance(document, str) else json.dumps(document)
        (directory / f"{stem.replace('__', '.')}.avsc").write_text(text)
    return directory


def faults(directory: Path) -> list[str]:
    with pytest.raises(FaultyFiles) as caught:
        SchemaSet.load([directory])
    return [f"{Path(fault.place).name}: {fault.what}" for fault in caught.value.faults]


def test_every_shipped_schema_keeps_the_rules():
    shipped = SchemaSet.load([ROOT / "schemas"])

    assert shipped.names() == (
        "object.checksum", "object.copy", "processor.JobStatus", "processor.ObjectRef",
    )  # fmt: skip


def test_record_of_another_file_is_written_in_at_its_first_use(tmp_path: Path):
    write(
        tmp_path,
        a__Job=record("a.Job", field("first", "b.Part"), field("second", "b.Part")),
        b__Part=record("b.Part", field("deep", "c.Leaf")),
        c__Leaf=record("c.Leaf", field("x", "int")),
    )

    text = json.loads(SchemaSet.load([tmp_path]).get("a.Job").text)

    first, second = (each["type"] for each in text["fields"])
    assert first["name"] == "b.Part"
    assert first["fields"][0]["type"]["name"] == "c.Leaf"
    assert second == "b.Part"
    parse_schema(text)


def test_text_does_not_depend_on_the_layout_of_the_file(tmp_path: Path):
    document = record("a.Job", field("x", "int"))
    tidy = write(tmp_path / "tidy", a__Job=json.dumps(document, indent=4))
    turned = write(tmp_path / "turned", a__Job=json.dumps(dict(reversed(document.items()))))

    assert SchemaSet.load([tidy]).get("a.Job").text == SchemaSet.load([turned]).get("a.Job").text


def test_unknown_schema_is_misuse_that_names_the_nearest():
    with pytest.raises(UsageError) as caught:
        SchemaSet.load([ROOT / "schemas"]).get("object.cpy")

    assert caught.value.message == "no schema for `object.cpy`"
    assert caught.value.hint == "did you mean `object.copy`?"


def test_all_faults_of_all_files_are_told_at_once(tmp_path: Path):
    write(
        tmp_path,
        a__NotJson="{",
        a__NoRecord={"type": "enum", "name": "NoRecord", "symbols": ["A"]},
        a__OtherName=record("a.Name"),
        a__Unknown=record("a.Unknown", field("part", "processor.ObjectRf")),
        processor__ObjectRef=record("processor.ObjectRef", field("Uri", "string")),
        a__NoDoc={
            "type": "record", "namespace": "a", "name": "NoDoc",
            "fields": [{"name": "x", "type": "int"}],
        },
    )  # fmt: skip

    assert sorted(faults(tmp_path)) == [
        "a.NoDoc.avsc: doc: missing: say in a sentence what the record means",
        "a.NoDoc.avsc: field `x`: `doc` is missing: say what the field means, and its unit",
        "a.NoRecord.avsc: top level: a contract is a record: write an object with `type: record`",
        "a.NotJson.avsc:1:2: not JSON: Expecting property name enclosed in double quotes",
        (
            "a.OtherName.avsc: name: `a.Name` is not the file's name; rename it to `a.OtherName`,"
            " or the file"
        ),
        "a.Unknown.avsc: unknown type `processor.ObjectRf`; did you mean `processor.ObjectRef`?",
        (
            "processor.ObjectRef.avsc: field `Uri`: the name is not snake_case; write e.g."
            " `content_type`"
        ),
    ]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (field("x", ["null", "int"]), "a nullable field"),
        (field("x", ["int", "null"], default=3), "a nullable field"),
        (field("x", "bytes", default="a"), "reads back as another type"),
        (field("x", {"type": "long", "logicalType": "timestamp-millis"}, default=0), "reads back"),
        (field("x", "int", default="three"), "Default value"),
        (field("x", "nonsense"), "unknown type `a.nonsense`"),
        (field("x", {"type": "array", "items": "null"}), "take no bytes"),
        (field("x", {"type": "map", "values": "null"}), "take no bytes"),
        (field("x", {"type": "array", "items": record("a.None")}), "take no bytes"),
        (field("x", {"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}}), "take"),
        (field("x", ["null", "a.Job"], default=None), "`a.Job` contains itself"),
        (field("x", {"type": "record", "name": "N", "fields": 3}), "list of `fields`"),
        ({"name": "x", "doc": "No type."}, "a field is an object with `name`"),
        (field("x", {"type": "array"}), "`items` is missing"),
    ],
)
def test_unsound_field_is_refused_by_name(tmp_path: Path, bad: dict[str, Any], said: str):
    write(tmp_path, a__Job=record("a.Job", bad))

    told = faults(tmp_path)

    assert any(said in fault for fault in told), told


def test_files_that_use_each_other_are_refused(tmp_path: Path):
    write(
        tmp_path,
        a__One=record("a.One", field("x", "a.Two")),
        a__Two=record("a.Two", field("x", "a.One")),
    )

    assert faults(tmp_path) == [
        "a.One.avsc: uses `a.Two`, which uses it in turn; a contract must not recurse",
        "a.Two.avsc: uses `a.One`, which uses it in turn; a contract must not recurse",
    ]


def test_own_file_hides_a_built_in_one_of_the_same_name(tmp_path: Path):
    own = write(tmp_path / "own", a__Job=record("a.Job", field("mine", "int")))
    other = write(tmp_path / "other", a__Job=record("a.Job"), a__More=record("a.More"))

    loaded = SchemaSet.load([own, other])

    assert loaded.names() == ("a.Job", "a.More")
    assert loaded.get("a.Job").path.parent == own


@pytest.mark.parametrize(("levels", "refused"), [(DEPTH_MAX - 2, False), (DEPTH_MAX + 1, True)])
def test_types_nest_no_deeper_than_the_bound(levels: int, refused: bool):
    kind: Any = "int"
    for _ in range(levels):
        kind = {"type": "array", "items": kind}

    found = hazards(parse_schema(record("a.Job", field("x", kind))))

    assert bool(found) == refused


@pytest.mark.parametrize("tag", ["pii", "Pii", " PII"])
@pytest.mark.parametrize("place", ["field", "type", "items"])
def test_tag_that_is_pii_but_for_its_letters_is_refused(tmp_path: Path, tag: str, place: str):
    tagged: dict[str, Any] = {"confluent:tags": ["PUBLIC", tag]}
    x = {
        "field": {**field("x", "string"), **tagged},
        "type": field("x", {"type": "string", **tagged}),
        "items": field("x", {"type": "array", "items": {"type": "string", **tagged}}),
    }
    write(tmp_path, a__Job=record("a.Job", x[place]))

    assert faults(tmp_path) == [f'a.Job.avsc: confluent:tags: "{tag}" tags nothing; write "PII"']


def test_json_nested_beyond_reason_is_a_fault_and_no_crash(tmp_path: Path):
    write(tmp_path, a__Job="[" * 100_000)

    assert faults(tmp_path) == ["a.Job.avsc: nested too deeply to be read"]


def test_referenced_schemas_of_a_registry_are_written_in():
    part = json.dumps(record("b.Part", field("x", "int")))
    job = json.dumps(record("a.Job", field("part", "b.Part")))

    whole = self_contained(job, {"b.Part": part})

    parse_schema(json.loads(whole))
    with pytest.raises(ContractError):
        self_contained(job, {})


def test_project_folder_comes_before_the_built_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    settings = Settings()
    before = (schema_directories(settings), topic_directories(settings))
    (tmp_path / "schemas").mkdir()
    (tmp_path / "topics").mkdir()

    after = (schema_directories(settings), topic_directories(settings))

    assert before == ((ROOT / "schemas",), (ROOT / "topics",))
    assert after == ((Path("schemas"), ROOT / "schemas"), (Path("topics"), ROOT / "topics"))


def test_named_folder_that_is_not_there_is_misuse(tmp_path: Path):
    with pytest.raises(UsageError, match="schemas_dir: there is no directory"):
        schema_directories(Settings(schemas_dir=tmp_path / "nowhere"))
