"""Physical cores, performance and efficiency cores apart, as the files of /sys show them."""

import sys
from pathlib import Path

import psutil
import pytest

from edgekiln.runtimes.processor_cores import PhysicalCores, physical_cores
from support.processors import MACHINES, write_siblings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the files are Linux's")


@pytest.mark.parametrize("name", MACHINES)
def test_cores(name: str, tmp_path: Path) -> None:
    machine = MACHINES[name]
    cores = physical_cores(machine.numbers, machine.write(tmp_path))
    assert cores == PhysicalCores(machine.performance, machine.efficiency)


def test_all_processors(tmp_path: Path) -> None:
    machine = MACHINES["hybrid Intel, efficiency cores only"]
    assert physical_cores(root=machine.write(tmp_path)) == PhysicalCores(4, 8)


def test_the_older_name_of_the_siblings(tmp_path: Path) -> None:
    write_siblings(tmp_path, ["0-1", "0-1", "2"], "thread_siblings_list")
    assert physical_cores(root=tmp_path) == PhysicalCores(2)


def test_no_files(tmp_path: Path) -> None:
    assert physical_cores(root=tmp_path) == PhysicalCores()


def test_this_machine() -> None:
    """psutil counts the pairs of socket and core in /proc/cpuinfo, which some virtual machines do not have."""
    if (counted := psutil.cpu_count(logical=False)) is None:
        pytest.skip("psutil finds no number of cores")
    assert physical_cores().total == counted
