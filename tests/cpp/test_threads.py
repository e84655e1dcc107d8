"""C++ finds the same CPU quotas and default numbers of threads as Python, and refuses the same ones."""

import subprocess
from pathlib import Path

import pytest

from edgekiln import runtimes
from edgekiln.errors import RequestError
from edgekiln.runtimes.threads import available_processors, cpu_quota, default_threads
from support.cgroups import ROOTS, Root, v2, write_processors
from support.cpp_host import OK, REQUEST, Host, program, refusal


def found(*roots: Path) -> list[tuple[float | None, int]]:
    """CPU quota and default threads that C++ finds in each root."""
    lines = subprocess.run([program("edgekiln_threads"), *roots], capture_output=True, text=True, check=True).stdout
    return [(float(quota) or None, int(count)) for quota, count in map(str.split, lines.splitlines())]


def test_the_same_quotas(tmp_path: Path) -> None:
    roots = {name: root.write(tmp_path / str(index)) for index, (name, root) in enumerate(ROOTS.items())}
    quotas = dict(zip(roots, [quota for quota, _ in found(*roots.values())], strict=True))
    assert quotas == {name: cpu_quota(path) for name, path in roots.items()}
    assert quotas == {name: root.quota for name, root in ROOTS.items()}


@pytest.mark.parametrize("maximum", ["max 100000", "100000 100000", "150000 100000", "1000 100000"])
@pytest.mark.parametrize("siblings", [["0-1", "0-1"], ["0", "1", "2", "3"], []])
def test_the_same_default(maximum: str, siblings: list[str], tmp_path: Path, all_cores: None) -> None:
    Root(None, (v2(),), "0::/\n", {"cpu.max": maximum}).write(tmp_path)
    write_processors(tmp_path, siblings)
    ((_, count),) = found(tmp_path)
    assert count == default_threads(tmp_path)


def test_on_this_machine(tiny_engine: Path) -> None:
    assert found(Path("/")) == [(cpu_quota(), default_threads())]
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
