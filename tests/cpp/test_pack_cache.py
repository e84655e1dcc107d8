"""libedgekiln and the Python package use one pack cache, and the same record of verified weights."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from edgekiln import runtimes
from edgekiln.engine.directory import WEIGHTS_FILE
from edgekiln.engine.packed_directory import PACKED_DIRECTORY, VERIFIED_FILE
from support.cpp_host import OK, Host, refusal
from support.instruction_sets import fills
from support.packed_weights import is_mapped, large_copy, packed_file

IDS = list(range(3, 60))

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the pack cache is on Linux only")


@pytest.fixture
def engine(tiny_engine: Path, tmp_path: Path) -> Path:
    if not fills("nbits_gemm"):
        pytest.skip("this processor's kernels pack no weights")
    return large_copy(tiny_engine, tmp_path / "engine")


def answer(engine: Path, **options: object) -> tuple[list[int], Path | None]:
    """A greedy answer's ids, and the file of packed weights that the program had mapped."""
    with Host(engine, **options) as host:
        assert host.hello["status"] == OK, host.hello
        maps = Path(f"/proc/{host.process.pid}/maps").read_text()
        file = packed_file(engine)
        mapped = file if file is not None and str(file.resolve()) in maps else None
        return host.ask(IDS, max_tokens=12)["ids"], mapped


def test_each_maps_what_the_other_wrote(engine: Path) -> None:
    expected, none = answer(engine, pack_cache=False)
    assert none is None
    assert not (engine / PACKED_DIRECTORY).exists()
    reference = runtimes.open(engine, threads=1, pack_cache=False, verify=False).score(np.array(IDS))

    assert answer(engine)[0] == expected
    file = packed_file(engine)
    assert file is not None
    assert {path.name for path in file.parent.iterdir()} == {file.name, VERIFIED_FILE}
    inode = file.stat().st_ino
    runtime = runtimes.open(engine, threads=1)
    assert is_mapped(file)
    np.testing.assert_array_equal(runtime.score(np.array(IDS)), reference)
    del runtime
    record = (file.parent / VERIFIED_FILE).read_bytes()

    shutil.rmtree(file.parent)
    runtimes.open(engine, threads=1)
    assert (file.parent / VERIFIED_FILE).read_bytes() == record
    inode = file.stat().st_ino
    assert answer(engine) == (expected, file)
    assert file.stat().st_ino == inode


def test_weights_that_were_changed_are_hashed_again(engine: Path) -> None:
    expected, _ = answer(engine)
    assert packed_file(engine) is not None
    with (engine / WEIGHTS_FILE).open("r+b") as file:
        byte = file.read(1)
        file.seek(0)
        file.write(bytes([byte[0] ^ 1]))
    status, message = refusal(engine)
    assert status != OK
    assert "weights.bin is damaged or was edited" in message
    with (engine / WEIGHTS_FILE).open("r+b") as file:
        file.write(byte)
    assert answer(engine)[0] == expected
