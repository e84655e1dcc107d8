"""C++ finds the same CPU quotas, cores and default numbers of threads as Python, and refuses the same ones."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from edgekiln import runtimes
from edgekiln.errors import RequestError
from edgekiln.runtimes.processor_cores import PhysicalCores, physical_cores
from edgekiln.runtimes.threads import available_processors, cpu_quota, default_threads, usable_processors
from support.cgroups import ROOTS, Root, v2
from support.cpp_host import OK, REQUEST, Host, program, refusal
from support.processors import MACHINES


def found(*roots: tuple[Path, Sequence[int]]) -> list[tuple[float | None, int, PhysicalCores]]:
    """CPU quota, default threads and cores that C++ finds in each root, for processors or those of this process."""
    arguments = [str(part) for root, numbers in roots for part in (root, ",".join(map(str, numbers)))]
    lines = subprocess.run([program("edgekiln_threads"), *arguments], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in lines.splitlines()]
    return [(float(row[0]) or None, int(row[1]), PhysicalCores(int(row[2]), int(row[3]))) for row in rows]


def test_the_same_quotas(tmp_path: Path) -> None:
    roots = {name: root.write(tmp_path / str(index)) for index, (name, root) in enumerate(ROOTS.items())}
    results = found(*((root, ()) for root in roots.values()))
    quotas = dict(zip(roots, [quota for quota, _, _ in results], strict=True))
    assert quotas == {name: cpu_quota(path) for name, path in roots.items()}
    assert quotas == {name: root.quota for name, root in ROOTS.items()}


@pytest.mark.parametrize("maximum", ["max 100000", "100000 100000", "150000 100000", "1000 100000"])
def test_the_same_cores_and_default(maximum: str, tmp_path: Path) -> None:
    roots = {}
    for index, (name, machine) in enumerate(MACHINES.items()):
        root = Root(None, (v2(),), "0::/\n", {"cpu.max": maximum}).write(tmp_path / str(index))
        roots[name] = machine.write(root)
    results = found(*((root, MACHINES[name].numbers) for name, root in roots.items()))
    for (name, root), (_, count, cores) in zip(roots.items(), results, strict=True):
        machine = MACHINES[name]
        assert cores == PhysicalCores(machine.performance, machine.efficiency), name
        assert count == default_threads(root, machine.numbers), name


def test_on_this_machine(tiny_engine: Path) -> None:
    assert found((Path("/"), ())) == [(cpu_quota(), default_threads(), physical_cores(usable_processors()))]
    with Host(tiny_engine) as host:
        assert host.hello["threads"] == default_threads()


@pytest.mark.parametrize("threads", [available_processors() + 1, 1000, 100_000, 10**9, 2**31 - 1])
def test_more_threads_than_processors(threads: int, tiny_engine: Path) -> None:
    with pytest.raises(RequestError) as caught:
        runtimes.open(tiny_engine, threads=threads)
    assert refusal(tiny_engine, threads=threads) == (REQUEST, str(caught.value))


def test_as_many_threads_as_processors(tiny_engine: Path) -> None:
    with Host(tiny_engine, threads=available_processors()) as host:
        assert (host.hello["status"], host.hello["threads"]) == (OK, available_processors())
