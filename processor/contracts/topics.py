"""Every declared topic, read and checked as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from processor.contracts.faults import Fault, FaultyFiles, close_match, did_you_mean
from processor.contracts.schemas import SchemaSet
from processor.contracts.topic import Topic, TopicSpec
from processor.contracts.yaml_file import YamlFile
from processor.errors import UsageError

__all__ = ["Topic", "TopicSet", "TopicSpec"]


class TopicSet:
    """The declared topics by name. Made by `load`; never changes."""

    def __init__(self, topics: Sequence[Topic]) -> None:
        self._topics = {topic.name: topic for topic in sorted(topics, key=lambda each: each.name)}
        self._by_job = {job: topic for topic in self._topics.values() for job in topic.jobs}

    @classmethod
    def load(cls, directories: Sequence[Path], schemas: SchemaSet | None = None) -> TopicSet:
        """Read and check every `*.yaml` of the directories.

        An earlier directory's topic wins over a later one's of the same name, and its jobs are
        taken from the later directory's topics: so a project can put a built-in job on a topic of
        its own. With `schemas`, every job type must have one. Raises FaultyFiles (a UsageError)
        with every fault of the whole set.
        """
        faults: list[Fault] = []
        topics: list[tuple[YamlFile, Topic]] = []
        for directory in directories:
            names = {topic.name for _, topic in topics}
            jobs = {job for _, topic in topics for job in topic.jobs}
            for file, topic in _read(directory, faults):
                left = tuple(job for job in topic.jobs if job not in jobs)
                if topic.name not in names and left:
                    topics.append((file, topic.model_copy(update={"jobs": left})))
        faults.extend(_clashes(topics))
        if schemas is not None:
            faults.extend(_without_schema(topics, schemas))
        if faults:
            raise FaultyFiles("topic", faults)
        return cls([topic for _, topic in topics])

    def names(self) -> tuple[str, ...]:
        """Name the main topics, sorted."""
        return tuple(self._topics)

    def get(self, name: str) -> Topic:
        """Give the topic of that name, or raise UsageError with the nearest name as a hint."""
        topic = self._topics.get(name)
        if topic is None:
            raise UsageError(
                f"no topic `{name}` is declared", hint=did_you_mean(name, self.names())
            )
        return topic

    def for_job(self, job_type: str) -> Topic:
        """Give the topic that accepts the job type, or raise UsageError with the nearest one."""
        topic = self._by_job.get(job_type)
        if topic is None:
            raise UsageError(
                f"no topic accepts the job type `{job_type}`",
                hint=did_you_mean(job_type, sorted(self._by_job)),
            )
        return topic

    def __contains__(self, name: object) -> bool:
        return name in self._topics

    def __iter__(self) -> Iterator[Topic]:
        return iter(self._topics.values())

    def __len__(self) -> int:
        return len(self._topics)


def _read(directory: Path, faults: list[Fault]) -> list[tuple[YamlFile, Topic]]:
    """Read one directory's files, leaving out those with faults of their own."""
    if not directory.is_dir():
        faults.append(Fault(str(directory), "no such directory"))
        return []
    topics: list[tuple[YamlFile, Topic]] = []
    for path in sorted([*directory.glob("*.yaml"), *directory.glob("*.yml")]):
        try:
            file = YamlFile(path, path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as fault:
            faults.append(Fault(str(path), f"cannot be read as UTF-8 text ({fault})"))
            continue
        if file.faults:
            faults.extend(file.faults)
            continue
        try:
            topics.append((file, Topic.model_validate(file.document)))
        except ValidationError as invalid:
            faults.extend(_field_fault(file, each) for each in invalid.errors())
    return topics


def _field_fault(file: YamlFile, error: Mapping[str, Any]) -> Fault:
    """Say one of pydantic's errors in the words of the file."""
    keys = error["loc"]
    path = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).lstrip(".")
    value = _written(file.document, keys)
    shown = f" (it is `{value}`)" if isinstance(value, str | int | float) else ""
    match error["type"]:
        case "extra_forbidden":
            known = _keys_at(keys[:-1])
            match = close_match(str(keys[-1]), known)
            ending = f"did you mean `{match}`?" if match else f"known here: {', '.join(known)}"
            what = f"`{path}` is unknown; {ending}"
        case "missing":
            what = f"`{path}` is missing; add it"
        case "value_error":
            subject = f"`{path}`{shown} " if shown else f"`{path}`: "
            what = f"{subject if path else ''}{error['ctx']['error']}"
        case "model_type":
            what = f"`{path}` is no table of keys{shown}" if path else "the file holds no table"
        case _:
            what = f"`{path}`{shown}: {error['msg'][0].lower()}{error['msg'][1:]}"
    return Fault(file.place(keys), what)


def _written(document: Any, keys: Sequence[str | int]) -> Any:
    """Give the value as the file has it: pydantic shows it after conversion to seconds or bytes."""
    for key in keys:
        if isinstance(document, list) and isinstance(key, int):
            document = document[key]
        elif isinstance(document, dict):
            document = document.get(key)
        else:
            return None
    return document


def _keys_at(keys: Sequence[str | int]) -> list[str]:
    """Name the keys that a table of the file may have."""
    model: type[BaseModel] = Topic
    for key in keys:
        annotation = model.model_fields[str(key)].annotation
        candidates = [annotation, *get_args(annotation)]
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(model.model_fields)


def _clashes(topics: Sequence[tuple[YamlFile, Topic]]) -> Iterator[Fault]:
    """Find names and jobs that two files claim."""
    # Kafka refuses names that differ only in `.` and `_`: its metrics could not tell them apart.
    name_owner: dict[str, Topic] = {}
    job_owner: dict[str, Topic] = {}
    for file, topic in topics:
        for name in topic.all_names:
            other = name_owner.setdefault(name.replace(".", "_"), topic)
            if other is topic:
                continue
            if name == topic.name == other.name:
                what = f"topic `{name}` is declared twice; keep one"
            else:
                what = f"`{name}` is already a topic of `{other.name}`; choose another name"
            yield Fault(file.place(["name"]), what)
            if name == topic.name:
                break  # The derived names clash too; once is enough.
        for index, job in enumerate(topic.jobs):
            owner = job_owner.setdefault(job, topic)
            if owner is not topic:
                what = f"job `{job}` is already accepted by topic `{owner.name}`; keep one"
                yield Fault(file.place(["jobs", index]), what)


def _without_schema(
    topics: Sequence[tuple[YamlFile, Topic]], schemas: SchemaSet
) -> Iterator[Fault]:
    for file, topic in topics:
        for index, job in enumerate(topic.jobs):
            if job not in schemas:
                match = close_match(job, schemas.names())
                todo = f"did you mean `{match}`?" if match else f"add {job}.avsc"
                yield Fault(file.place(["jobs", index]), f"job `{job}` has no schema; {todo}")
