"""Root directories with the files of /sys that show the processors of a machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Processors:
    """The logical processors of one machine.

    Attributes:
        siblings: for each, the list of the processors on its core, as "0,4" or "0-1"; "" for one that is offline.
        performance, efficiency: cores of each kind.
        files: path below sys/devices -> content.
        per_processor: path below a processor's directory -> its content for each processor.
        usable: the processors that a process may use; None for all.
    """

    siblings: Sequence[str]
    performance: int
    efficiency: int = 0
    files: tuple[tuple[str, str], ...] = ()
    per_processor: tuple[tuple[str, Sequence[int]], ...] = ()
    usable: Sequence[int] | None = None

    @property
    def numbers(self) -> list[int]:
        """The processors that a process may use."""
        return list(range(len(self.siblings))) if self.usable is None else list(self.usable)

    def write(self, directory: Path) -> Path:
        """Add the files to the directory."""
        write_siblings(directory, self.siblings)
        for name, content in self.files:
            _write(directory / "sys/devices" / name, content)
        for name, values in self.per_processor:
            for number, value in enumerate(values):
                _write(directory / f"sys/devices/system/cpu/cpu{number}" / name, str(value))
        return directory


def write_siblings(directory: Path, siblings: Sequence[str], name: str = "core_cpus_list") -> Path:
    """Add processors whose siblings on the same core sysfs lists as given."""
    for number, listed in enumerate(siblings):
        if listed:
            _write(directory / f"sys/devices/system/cpu/cpu{number}/topology" / name, listed)
    (directory / "sys/devices/system/cpu/cpufreq").mkdir(parents=True, exist_ok=True)
    return directory


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{content}\n")


def _single(count: int) -> list[str]:
    return [str(number) for number in range(count)]


_4P_8E = ("0-1", "0-1", "2-3", "2-3", "4-5", "4-5", "6-7", "6-7", *(str(number) for number in range(8, 16)))
_INTEL = (("cpu_core/cpus", "0-7"), ("cpu_atom/cpus", "8-15"))
_BIG_LITTLE = (("cpu_capacity", (414, 414, 414, 414, 1024, 1024)),)

MACHINES = {
    "one kind": Processors(_single(4), 4),
    "hyperthreads": Processors(("0-1", "0-1", "2-3", "2-3"), 2),
    "hyperthreads far apart": Processors(("0,2", "1,3", "0,2", "1,3"), 2),
    "unknown": Processors(("", ""), 0),
    "offline": Processors(("0", "", "2", ""), 2),
    "more than nine": Processors(_single(12), 12),
    "affinity": Processors(_single(8), 2, usable=(3, 5)),
    "one core by affinity": Processors(("0-1", "0-1", "2-3", "2-3"), 1, usable=(2, 3)),
    "hybrid Intel": Processors(_4P_8E, 4, 8, _INTEL),
    "hybrid Intel, single processors": Processors(
        _single(4), 2, 2, (("cpu_core/cpus", "0,3"), ("cpu_atom/cpus", "1-2"))
    ),
    "hybrid Intel, affinity of both": Processors(_4P_8E, 2, 2, _INTEL, usable=(0, 1, 2, 8, 9)),
    "hybrid Intel, efficiency cores only": Processors(_4P_8E, 0, 3, _INTEL, usable=(8, 9, 10)),
    "Arm": Processors(_single(6), 2, 4, per_processor=_BIG_LITTLE),
    "Arm, little cores only": Processors(_single(6), 0, 2, per_processor=_BIG_LITTLE, usable=(0, 1)),
    "Arm, three kinds": Processors(_single(4), 2, 2, per_processor=(("cpu_capacity", (250, 250, 700, 1024)),)),
    "Arm, one kind": Processors(_single(4), 4, per_processor=(("cpu_capacity", (1024,) * 4),)),
    "clocks": Processors(_single(4), 2, 2, per_processor=(("cpufreq/cpuinfo_max_freq", (36, 36, 49, 50)),)),
    "clocks of one kind": Processors(_single(4), 4, per_processor=(("cpufreq/cpuinfo_max_freq", (53, 53, 55, 58)),)),
    "capacities before clocks": Processors(
        _single(2), 2, per_processor=(("cpu_capacity", (1024, 900)), ("cpufreq/cpuinfo_max_freq", (20, 40)))
    ),
    "damaged": Processors(_single(2), 2, files=(("cpu_core/cpus", ""),), per_processor=(("cpu_capacity", (-1, -1)),)),
}
