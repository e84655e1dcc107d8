"""How many compute threads a runtime may have, and how many it has by default.

Counterpart of cpp/src/util/threads.h.
"""

import math
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from edgekiln import arguments
from edgekiln.errors import RequestError
from edgekiln.runtimes.processor_cores import physical_cores

_ROOT = Path("/")


def usable_processors() -> frozenset[int]:
    """Numbers of the logical processors that this process may run on, by its affinity and its cpuset."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def available_processors() -> int:
    """Number of the logical processors that this process may run on."""
    return len(usable_processors())


def default_threads(root: Path = _ROOT, processors: Collection[int] | None = None) -> int:
    """Threads that compute fastest: the performance cores among `processors`, at most as many as the CPU quota.

    A second thread on a core slows matrix multiplications down, and so does a thread on an efficiency core, which the
    others wait for; efficiency cores count only where the process may use no other. With more threads than the quota
    has processors, all of them use it up early in each period and then stand still. A quota of 1.5 processors counts
    as 2. Threads are not bound to cores: the operating system moves busy threads to performance cores, and knows which
    of them other programs use.

    Args:
        root: the directory that holds `proc` and `sys`; another one for tests.
        processors: numbers of logical processors; None for `usable_processors`.
    """
    processors = usable_processors() if processors is None else processors
    cores, quota = physical_cores(processors, root), cpu_quota(root)
    threads = cores.performance or cores.efficiency or len(processors)
    return min(threads, math.ceil(quota)) if quota else threads


def checked_threads(threads: object) -> int | None:
    """`threads` as an int, None for the default.

    More threads than processors take turns on them, and each waits in its turn for the others.

    Raises:
        RequestError: it is no integer, below 1, or above `available_processors`.
    """
    if threads is None:
        return None
    count = arguments.integer("threads", threads)
    if count < 1:
        raise RequestError(f"threads must be at least 1, got {count}")
    most = available_processors()
    if count > most:
        raise RequestError(f"threads must be at most {most}, the processors that this process may use, got {count}")
    return count


def cpu_quota(root: Path = _ROOT) -> float | None:
    """Processors that the cgroups of this process may use together, as a container's limit; None without a limit.

    The limits of a cgroup and of all groups around it apply, in version 1 and in version 2.
    Source: sched-bwc and cgroup-v2 of the Linux kernel's documentation; cgroups(7), proc_pid_mountinfo(5).
    """
    # Controller -> path of this process's group; version 2 has one group, for the controller "".
    groups: dict[str, str] = {}
    for line in _read(root / "proc/self/cgroup").split("\n"):
        if line.count(":") >= 2:
            _, controllers, path = line.split(":", 2)
            groups |= dict.fromkeys(controllers.split(","), path)
    quotas = []
    for line in _read(root / "proc/self/mountinfo").split("\n"):
        mount, _, file_system = line.partition(" - ")
        kind, _, options = (file_system + "  ").split(" ")[:3]
        if kind == "cgroup2":
            controller, quota = "", _quota_v2
        elif kind == "cgroup" and "cpu" in options.split(","):
            controller, quota = "cpu", _quota_v1
        else:
            continue
        _, _, _, mount_root, mount_point, *_ = [_unescaped(field) for field in mount.split(" ")]
        for group in _groups_up(groups.get(controller, "/"), mount_root):
            quotas.append(quota(root / mount_point.lstrip("/") / group))
    return min((quota for quota in quotas if quota is not None), default=None)


def _groups_up(path: str, mount_root: str) -> Iterator[PurePosixPath]:
    """The group at `path` and those around it, relative to the mount point of the hierarchy's part at `mount_root`.

    A container mounts the part with its own group, whose path may be relative to another root: then only the group
    at the mount point is known.
    """
    group = PurePosixPath()
    if ".." not in PurePosixPath(path).parts and PurePosixPath(path).is_relative_to(mount_root):
        group = PurePosixPath(path).relative_to(mount_root)
    yield from (group, *group.parents)


def _quota_v2(group: Path) -> float | None:
    quota, _, period = _read(group / "cpu.max").strip().partition(" ")
    return _processors(quota, period or "100000")


def _quota_v1(group: Path) -> float | None:
    return _processors(_read(group / "cpu.cfs_quota_us").strip(), _read(group / "cpu.cfs_period_us").strip())


def _processors(quota: str, period: str) -> float | None:
    """`quota` microseconds in each `period`; None without a limit, which version 1 writes as -1, version 2 as max."""
    if not (quota.isdecimal() and period.isdecimal() and int(quota) and int(period)):
        return None
    return int(quota) / int(period)


def _unescaped(field: str) -> str:
    """A field of mountinfo, which writes spaces and the like as octal escapes."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
