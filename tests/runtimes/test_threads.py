"""The default number of threads follows cores, affinity and CPU quota; more threads than processors are refused."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgekiln import runtimes
from edgekiln.errors import RequestError
from edgekiln.runtimes import threads
from support.cgroups import ROOTS, Root, v2
from support.processors import MACHINES


@pytest.mark.parametrize("name", ROOTS)
def test_cpu_quota(name: str, tmp_path: Path) -> None:
    assert threads.cpu_quota(ROOTS[name].write(tmp_path)) == ROOTS[name].quota


@pytest.mark.parametrize(
    ("machine", "maximum", "expected"),
    [
        ("hyperthreads", "max 100000", 2),
        ("hyperthreads", "100000 100000", 1),
        ("one kind", "150000 100000", 2),
        ("one kind", "1000 100000", 1),
        ("one kind", "9000000 100000", 4),
        ("affinity", "max 100000", 2),
        ("one core by affinity", "max 100000", 1),
        ("unknown", "max 100000", 2),
        ("hybrid Intel", "max 100000", 4),
        ("hybrid Intel", "300000 100000", 3),
        ("hybrid Intel, affinity of both", "max 100000", 2),
        ("hybrid Intel, efficiency cores only", "max 100000", 3),
        ("Arm", "max 100000", 2),
        ("Arm, little cores only", "max 100000", 2),
    ],
)
def test_default_threads(machine: str, maximum: str, expected: int, tmp_path: Path) -> None:
    Root(None, (v2(),), "0::/\n", {"cpu.max": maximum}).write(tmp_path)
    processors = MACHINES[machine]
    assert threads.default_threads(processors.write(tmp_path), processors.numbers) == expected


def test_processors_are_those_of_the_affinity(all_cores: None) -> None:
    allowed = os.sched_getaffinity(0)
    assert threads.available_processors() == len(allowed)
    os.sched_setaffinity(0, {min(allowed)})  # the fixture restores it
    assert threads.available_processors() == threads.default_threads() == 1


@pytest.mark.parametrize("value", [1000, 10**9, 2**31, 10**30])
def test_more_threads_than_processors(value: int, engine: Path) -> None:
    most = threads.available_processors()
    sentence = f"threads must be at most {most}, the processors that this process may use, got {value}"
    for call in (threads.checked_threads, lambda count: runtimes.open(engine, threads=count)):
        with pytest.raises(RequestError) as caught:
            call(value)
        assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (0, "threads must be at least 1, got 0"),
        (-(10**20), f"threads must be at least 1, got -{10**20}"),
        (10**5000, "threads must be between -1e1000 and 1e1000, got an integer of more digits"),
        (True, "threads must be an integer, got True"),
        (1.0, "threads must be an integer, got 1.0"),
        ("2", "threads must be an integer, got '2'"),
        (np.int64(0), "threads must be at least 1, got 0"),
        (np.array([1, 1]), "threads must be an integer, got array([1, 1])"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_number_of_threads(value: object, sentence: str, engine: Path) -> None:
    with pytest.raises(RequestError) as caught:
        runtimes.open(engine, threads=value)  # type: ignore[arg-type]
    assert str(caught.value) == sentence


def test_integers_of_numpy_are_taken() -> None:
    assert threads.checked_threads(np.int32(1)) == 1
    assert threads.checked_threads(None) is None


def _group() -> Path:
    version_2 = Path("/sys/fs/cgroup/cgroup.controllers")
    return Path("/sys/fs/cgroup" if version_2.exists() else "/sys/fs/cgroup/cpu") / f"edgekiln-test-{os.getpid()}"


def test_the_quota_of_a_real_cgroup(all_cores: None) -> None:
    group = _group()
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"needs a cgroup that this process may create: {error}")
    try:
        try:
            if (group / "cpu.cfs_quota_us").exists():
                (group / "cpu.cfs_quota_us").write_text("100000")
            else:
                (group / "cpu.max").write_text("100000 100000")
        except OSError as error:
            pytest.skip(f"the CPU controller is not available: {error}")
        script = (
            f"open({str(group / 'cgroup.procs')!r}, 'w').write('0')\n"
            "from edgekiln.runtimes.threads import cpu_quota, default_threads\n"
            "print(cpu_quota(), default_threads())"
        )
        found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
        assert found.stdout.split() == ["1.0", "1"]
    finally:
        group.rmdir()
