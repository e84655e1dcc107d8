"""How many compute threads a runtime may have, and how many it has by default.

Counterpart of cpp/src/util/threads.h.
"""

import math
import os
from collections.abc import Collection
from pathlib import Path

from edgekiln import arguments
from edgekiln.errors import RequestError
from edgekiln.runtimes.cgroups import cgroups, read
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
    Source: sched-bwc and cgroup-v2 of the Linux kernel's documentation.
    """
    quotas = [_quota_v2(group) if version == 2 else _quota_v1(group) for version, group in cgroups("cpu", root)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_v2(group: Path) -> float | None:
    quota, _, period = read(group / "cpu.max").strip().partition(" ")
    return _processors(quota, period or "100000")


def _quota_v1(group: Path) -> float | None:
    return _processors(read(group / "cpu.cfs_quota_us").strip(), read(group / "cpu.cfs_period_us").strip())


def _processors(quota: str, period: str) -> float | None:
    """`quota` microseconds in each `period`; None without a limit, which version 1 writes as -1, version 2 as max."""
    if not (quota.isdecimal() and period.isdecimal() and int(quota) and int(period)):
        return None
    return int(quota) / int(period)
