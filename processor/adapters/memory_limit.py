"""How much memory this process may take before somebody ends it."""

from __future__ import annotations

import os
import resource
from pathlib import Path

# What a container's processes see of its control group: version 2, and version 1.
_GROUP_FILES = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def memory_limit(group_files: tuple[Path, ...] = _GROUP_FILES) -> int:
    """The least of the control group's limit, `ulimit -m` and the machine's memory, in bytes."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    soft, _ = resource.getrlimit(resource.RLIMIT_RSS)
    if soft != resource.RLIM_INFINITY:
        limits.append(soft)
    for file in group_files:
        try:
            limits.append(int(file.read_text()))
        except (OSError, ValueError):  # There is none, or it says `max`.
            continue
    return min(limits)
