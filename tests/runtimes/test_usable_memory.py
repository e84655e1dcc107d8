"""Memory that a process may take, within the limits of its control groups."""

from pathlib import Path

import psutil
import pytest

from edgekiln.runtimes.usable_memory import usable_memory
from support.cgroups import V1_MEMORY, Root, v2

FILES_V2 = {"a/b/memory.max": "max\n", "a/b/memory.current": "5\n", "a/memory.max": "900\n", "a/memory.current": "100"}
FILES_V1 = {"memory/a/memory.limit_in_bytes": "700\n", "memory/a/memory.usage_in_bytes": "300\n"}
ROOTS = {
    "version 2, the group around it": (Root(None, (v2(),), "0::/a/b\n", FILES_V2), 800),
    "version 1": (Root(None, (V1_MEMORY,), "12:memory:/a\n", FILES_V1), 400),
    "more than the limit is used": (
        Root(None, (v2(),), "0::/a\n", {"a/memory.max": "10\n", "a/memory.current": "20\n"}),
        0,
    ),
}


@pytest.mark.parametrize("name", ROOTS)
def test_limits(name: str, tmp_path: Path) -> None:
    root, expected = ROOTS[name]
    assert usable_memory(root.write(tmp_path)) == expected


def test_no_limit(tmp_path: Path) -> None:
    available = psutil.virtual_memory().available
    assert 0.5 * available < usable_memory(Root(None).write(tmp_path)) < 2 * available
