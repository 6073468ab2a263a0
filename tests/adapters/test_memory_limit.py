from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from processor.adapters.memory_limit import memory_limit

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_machine_s_memory_is_the_limit_where_nothing_else_is(tmp_path: Path):
    assert memory_limit((tmp_path / "missing",)) == MACHINE


@pytest.mark.parametrize(("text", "limit"), [("1048576\n", 1048576), ("max\n", MACHINE)])
def test_control_group_may_allow_less(tmp_path: Path, text: str, limit: int):
    file = tmp_path / "memory.max"
    file.write_text(text)

    assert memory_limit((file,)) == limit


def test_control_group_of_the_old_kind_without_a_limit_says_a_huge_number(tmp_path: Path):
    file = tmp_path / "memory.limit_in_bytes"
    file.write_text("9223372036854771712\n")

    assert memory_limit((file,)) == MACHINE


def test_resource_limit_may_allow_less():
    before = resource.getrlimit(resource.RLIMIT_RSS)
    resource.setrlimit(resource.RLIMIT_RSS, (2**20, before[1]))
    try:
        assert memory_limit(()) == 2**20
    finally:
        resource.setrlimit(resource.RLIMIT_RSS, before)
