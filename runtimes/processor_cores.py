"""Physical cores of this machine, performance and efficiency cores apart.

Counterpart of cpp/src/util/processor_cores.h.
"""

import ctypes
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import psutil

_PROCESSORS = "sys/devices/system/cpu"
# A performance core has at least these shares of the largest capacity and of the highest clock. Cores of one kind
# differ by less: the best ones of a chip are clocked some 5% higher. Clocks of two kinds differ less than capacities.
_CAPACITY_SHARE, _CLOCK_SHARE = 0.5, 0.75


@dataclass(frozen=True)
class PhysicalCores:
    """Numbers of physical cores.

    Attributes:
        performance: the fast cores; all cores of a machine that has one kind.
        efficiency: the slow cores of a machine that has two kinds or more.
    """

    performance: int = 0
    efficiency: int = 0

    @property
    def total(self) -> int:
        """Cores of both kinds; 0 where unknown."""
        return self.performance + self.efficiency


def physical_cores(processors: Collection[int] | None = None, root: Path = Path("/")) -> PhysicalCores:
    """Physical cores of this machine; those that none of `processors` belongs to are not counted.

    Performance cores are those of Linux's `cpu_core` on hybrid Intel processors, else those of at least half the
    largest `cpu_capacity` (Arm), else those of at least 0.75 of the highest clock. macOS names them itself.
    Source: sysfs-devices-system-cpu and sysfs-bus-event_source-devices of the Linux kernel's documentation; sysctl(3).

    Args:
        processors: numbers of logical processors; None for all. Only Linux tells which core each belongs to.
        root: the directory that holds `sys`; another one for tests.

    Returns:
        The numbers, 0 where unknown.
    """
    if sys.platform == "darwin":
        if total := _sysctl(b"hw.perflevel0.physicalcpu"):
            return PhysicalCores(total, _sysctl(b"hw.perflevel1.physicalcpu"))
        return PhysicalCores(psutil.cpu_count(logical=False) or 0)
    if sys.platform != "linux":
        return PhysicalCores(psutil.cpu_count(logical=False) or 0)
    cores: dict[str, int] = {}  # list of the core's processors -> its first processor
    for directory in (root / _PROCESSORS).glob("cpu[0-9]*"):
        processor = int(directory.name.removeprefix("cpu"))
        if processors is not None and processor not in processors:
            continue
        if siblings := first_line(directory / "topology/core_cpus_list", directory / "topology/thread_siblings_list"):
            cores[siblings] = min(processor, cores.get(siblings, processor))
    fast = _performance_processors(root)
    performance = sum(1 for processor in cores.values() if fast is None or processor in fast)
    return PhysicalCores(performance, len(cores) - performance)


def _performance_processors(root: Path) -> set[int] | None:
    """Logical processors of performance cores; None if all cores are of one kind."""
    if listed := first_line(root / "sys/devices/cpu_core/cpus"):
        return _processor_list(listed)
    for file, share in (("cpu_capacity", _CAPACITY_SHARE), ("cpufreq/cpuinfo_max_freq", _CLOCK_SHARE)):
        speeds = {}
        for directory in (root / _PROCESSORS).glob("cpu[0-9]*"):
            if (speed := first_line(directory / file)).isdecimal():
                speeds[int(directory.name.removeprefix("cpu"))] = int(speed)
        if speeds:
            return {processor for processor, speed in speeds.items() if speed >= share * max(speeds.values())}
    return None


def _processor_list(text: str) -> set[int]:
    """The numbers of a list as "0-3,8"; none if it is damaged."""
    processors: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        last = last or first
        if not (first.isdecimal() and last.isdecimal()):
            return set()
        processors.update(range(int(first), int(last) + 1))
    return processors


def first_line(*paths: Path) -> str:
    """The first line of the first of `paths` that has one, without the line's end; "" if none has."""
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            continue
        if line := text.partition("\n")[0].strip():
            return line
    return ""


def _sysctl(name: bytes) -> int:
    """An int32 that macOS's sysctlbyname gives; 0 if there is none of that name."""
    value = ctypes.c_int32()
    size = ctypes.c_size_t(ctypes.sizeof(value))
    failed = ctypes.CDLL(None).sysctlbyname(name, ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0))
    return 0 if failed else value.value
