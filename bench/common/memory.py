"""Memory of running processes, from /proc."""

from pathlib import Path


def anonymous_bytes(pid: int) -> int:
    """Anonymous and shared memory of a process and its children now, in bytes; pages of mapped files do not count."""
    return sum(_own_bytes(each) for each in [pid, *_descendants(pid)])


def _own_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))


def _descendants(pid: int) -> list[int]:
    found = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            children = [int(child) for child in (task / "children").read_text(encoding="utf-8").split()]
            found += [each for child in children for each in (child, *_descendants(child))]
    except (FileNotFoundError, ProcessLookupError):
        return found
    return found
