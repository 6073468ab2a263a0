"""A Dockerfile's stages, and its steps done by hand: no Docker is needed to try them.

All stages share one folder as their root, so that paths written into files at build time are right
in the final stage too. When a stage begins, what earlier ones left is moved aside and only what
`COPY --from` names comes back.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

SHELL_SECONDS_MAX = 300


@dataclass(slots=True)
class Stage:
    """One FROM and what follows: (instruction, the rest of its line)."""

    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all_of(self, instruction: str) -> list[str]:
        return [rest for name, rest in self.steps if name == instruction]

    def last(self, instruction: str) -> str:
        return self.all_of(instruction)[-1]

    def environment(self) -> dict[str, str]:
        """The ENV of the stage, over nothing of the base's but its PATH."""
        found = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
        for rest in self.all_of("ENV"):
            for pair in shlex.split(rest):
                name, _, value = pair.partition("=")
                found[name] = re.sub(r"\$\{?(\w+)\}?", lambda m: found.get(m[1], ""), value)
        return found

    def entry_point(self) -> list[str]:
        return list(json.loads(self.last("ENTRYPOINT")))


def stages_of(path: Path) -> list[Stage]:
    """Read the file. Lines that end in a backslash go on; comments are dropped."""
    text = "\n".join(line for line in path.read_text().splitlines()
                     if not line.lstrip().startswith("#"))  # fmt: skip
    stages: list[Stage] = []
    for line in text.replace("\\\n", " ").splitlines():
        instruction, _, rest = line.strip().partition(" ")
        if instruction == "FROM":
            name = rest.partition(" AS ")[2] or str(len(stages))
            stages.append(Stage(name))
        elif instruction and stages:
            stages[-1].steps.append((instruction, rest.strip()))
    return stages


class ByHand:
    """Does the steps below `root`, which stands for the image's `/`."""

    def __init__(self, root: Path, context: Path, environment: Mapping[str, str]) -> None:
        self.root, self._context, self._more = root, context, dict(environment)
        self._left: dict[str, Path] = {}

    def build(self, stages: list[Stage]) -> None:
        """Do every step of every stage."""
        for number, stage in enumerate(stages):
            if number:
                aside = self.root.with_name(f"{self.root.name}-{stages[number - 1].name}")
                self.root.rename(aside)
                self._left[stages[number - 1].name] = aside
            self.root.mkdir()
            (self.root / "tmp").mkdir()
            workdir = "/"
            for instruction, rest in stage.steps:
                match instruction:
                    case "WORKDIR":
                        workdir = rest
                        self.inside(rest).mkdir(parents=True, exist_ok=True)
                    case "COPY":
                        self._copy(rest, workdir)
                    case "RUN":
                        self._run(rest, stage, workdir)

    def inside(self, path: str, workdir: str = "/") -> Path:
        return self.root / os.path.normpath(f"{workdir}/{path}" if path[0] != "/" else path).lstrip(
            "/"
        )

    def mapped(self, text: str) -> str:
        """The text with absolute paths of the image as they are here; the base's own stay."""
        return re.sub(r"(?<![\w./-])/(?=(opt|src|app|tmp)\b)", f"{self.root}/", text)

    def environment(self, stage: Stage) -> dict[str, str]:
        """What a process of the stage is given."""
        own = {name: self.mapped(value) for name, value in stage.environment().items()}
        own["PATH"] = own["PATH"].replace("/usr/local/bin", str(Path(sys.executable).parent))
        return {**own, "HOME": str(self.root / "tmp"), **self._more}

    def run(self, stage: Stage, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the stage's entry point with these arguments, as a container does."""
        environment = self.environment(stage)
        found = shutil.which(stage.entry_point()[0], path=environment["PATH"])
        assert found is not None, "the entry point is not on the PATH"
        return subprocess.run(
            [found, *stage.entry_point()[1:], *arguments], env=environment,
            cwd=self.inside(stage.last("WORKDIR")), capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def _copy(self, rest: str, workdir: str) -> None:
        words = rest.split()
        source = self._context
        if words[0].startswith("--from="):
            source = self._left[words.pop(0).removeprefix("--from=")]
        *names, target = words
        for name in names:
            here = source / name.lstrip("/")
            there = self.inside(target, workdir)
            if len(names) > 1 or target.endswith("/"):
                there = there / here.name
            there.parent.mkdir(parents=True, exist_ok=True)
            if here.is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(here, there, symlinks=True, ignore=None
                                if source is not self._context else ignored)  # fmt: skip
            else:
                shutil.copy2(here, there)

    def _run(self, command: str, stage: Stage, workdir: str) -> None:
        done = subprocess.run(
            ["sh", "-ec", self.mapped(command)], cwd=self.inside(workdir), text=True,
            env=self.environment(stage), capture_output=True, timeout=SHELL_SECONDS_MAX,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def files_below(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Every file with its size and time: what has written to it is seen by the difference."""
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        yield str(path.relative_to(folder)), status.st_size, status.st_mtime_ns
