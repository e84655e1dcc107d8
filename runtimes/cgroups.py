"""The control groups of this process, which limit its processors and its memory, as containers do.

Source: cgroup-v2 of the Linux kernel's documentation; cgroups(7), proc_pid_mountinfo(5).
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def cgroups(controller: str, root: Path) -> Iterator[tuple[int, Path]]:
    """The directories of the groups of this process and of all groups around them, whose limits apply together.

    Args:
        controller: as version 1 names it, "cpu" or "memory".
        root: the directory that holds `proc` and `sys`.

    Yields:
        The version of the hierarchy, 1 or 2, and the directory.
    """
    # Controller -> path of this process's group; version 2 has one group, for the controller "".
    groups: dict[str, str] = {}
    for line in read(root / "proc/self/cgroup").split("\n"):
        if line.count(":") >= 2:
            _, controllers, path = line.split(":", 2)
            groups |= dict.fromkeys(controllers.split(","), path)
    for line in read(root / "proc/self/mountinfo").split("\n"):
        mount, _, file_system = line.partition(" - ")
        kind, _, options = (file_system + "  ").split(" ")[:3]
        if kind == "cgroup2":
            version, name = 2, ""
        elif kind == "cgroup" and controller in options.split(","):
            version, name = 1, controller
        else:
            continue
        _, _, _, mount_root, mount_point, *_ = [_unescaped(field) for field in mount.split(" ")]
        for group in _groups_up(groups.get(name, "/"), mount_root):
            yield version, root / mount_point.lstrip("/") / group


def _groups_up(path: str, mount_root: str) -> Iterator[PurePosixPath]:
    """The group at `path` and those around it, relative to the mount point of the hierarchy's part at `mount_root`.

    A container mounts the part with its own group, whose path may be relative to another root: then only the group
    at the mount point is known.
    """
    group = PurePosixPath()
    if ".." not in PurePosixPath(path).parts and PurePosixPath(path).is_relative_to(mount_root):
        group = PurePosixPath(path).relative_to(mount_root)
    yield from (group, *group.parents)


def _unescaped(field: str) -> str:
    """A field of mountinfo, which writes spaces and the like as octal escapes."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def read(path: Path) -> str:
    """The text of a file; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
