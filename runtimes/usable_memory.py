"""How much memory this process may still take. Counterpart of cpp/kernels/common/usable_memory.cpp."""

from collections.abc import Iterator
from pathlib import Path

import psutil

from edgekiln.runtimes.cgroups import cgroups, read

# Files of a group's limit and use, by the version of the hierarchy.
_FILES = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes"), 2: ("memory.max", "memory.current")}


def usable_memory(root: Path = Path("/")) -> int:
    """Bytes that are available on this machine and within the limits of this process's control groups.

    Args:
        root: the directory that holds `proc` and `sys`; another one for tests.
    """
    return min([int(psutil.virtual_memory().available), *_left_in_groups(root)])


def _left_in_groups(root: Path) -> Iterator[int]:
    for version, group in cgroups("memory", root):
        limit, used = (read(group / name).strip() for name in _FILES[version])
        if limit.isdecimal() and used.isdecimal():
            yield max(0, int(limit) - int(used))
