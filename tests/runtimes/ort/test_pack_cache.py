"""The pack cache: packed weights are written once, checked, shared, and never change a logit."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekiln import runtimes
from edgekiln.engine import packed_directory
from edgekiln.engine.directory import WEIGHTS_FILE
from edgekiln.engine.packed_directory import PACKED_DIRECTORY, VERIFIED_FILE
from edgekiln.errors import EngineError
from edgekiln.runtimes import registry
from edgekiln.runtimes.ort import pack_cache
from support.engines import build
from support.instruction_sets import fills
from support.packed_weights import is_mapped, packed_file

IDS = np.arange(3, 60)
BOOT_ID = 256  # offset in the file
HEADER = 2 << 20  # bytes before the first weight

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the pack cache is on Linux only")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    engines: dict[str, Path] = {}

    def get(quant: str) -> Path:
        if quant not in engines:
            # So wide that a weight takes many pages.
            engines[quant] = build(tmp_path_factory.mktemp(quant), "llama", quant, intermediate_size=1024)
        return engines[quant]

    return get


@pytest.fixture
def engine(built: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small engine for which the limits of large ones hold."""
    if not (fills("nbits_gemm") and fills("per_token_int8_gemm")):
        pytest.skip("this processor's kernels pack no weights")
    monkeypatch.setattr(pack_cache, "LEAST_BYTES", 0)
    monkeypatch.setattr(registry, "_LARGE_FILE", 0)
    monkeypatch.setattr(packed_directory, "_TICK", -1.0)
    return Path(shutil.copytree(built("int4"), tmp_path / "engine"))


def logits(engine: Path, **options: object) -> np.ndarray:
    return runtimes.open(engine, threads=1, **options).score(IDS)  # type: ignore[arg-type]


def written(engine: Path) -> Path:
    """Open an engine once; the file that this wrote."""
    logits(engine)
    file = packed_file(engine)
    assert file is not None
    return file


def change(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def flip(path: Path, offset: int) -> None:
    before = path.read_bytes()[offset]
    change(path, offset, bytes([before ^ 255]))


def start_again(path: Path) -> None:
    """Let the file be of a system that was started again since."""
    change(path, BOOT_ID, b"0" * 36)


@pytest.mark.parametrize("quant", ["int8", "int4", pytest.param("int4-sym", marks=pytest.mark.llm_compressor)])
def test_the_first_start_writes_it_and_the_second_maps_it(
    quant: str, built: Callable[[str], Path], engine: Path, tmp_path: Path
) -> None:
    own = Path(shutil.copytree(built(quant), tmp_path / "own"))
    expected = logits(own, pack_cache=False)
    assert not (own / PACKED_DIRECTORY).exists()
    first = runtimes.open(own, threads=1)
    np.testing.assert_array_equal(first.score(IDS), expected)
    file = packed_file(own)
    assert file is not None
    inode = file.stat().st_ino
    del first
    assert not is_mapped(file)
    second = runtimes.open(own, threads=1)
    assert is_mapped(file)
    np.testing.assert_array_equal(second.score(IDS), expected)
    assert file.stat().st_ino == inode


def test_small_engines_have_none(built: Callable[[str], Path], tmp_path: Path) -> None:
    own = Path(shutil.copytree(built("int4"), tmp_path / "own"))
    logits(own)
    assert not (own / PACKED_DIRECTORY).exists()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "magic": lambda file: flip(file, 0),
    "version": lambda file: flip(file, 8),
    "key": lambda file: flip(file, 40),
    "an entry": lambda file: flip(file, 4096 + 16),
    "first page": lambda file: flip(file, HEADER + 5),
    "shorter": lambda file: os.truncate(file, file.stat().st_size - 4096),
    "header only": lambda file: os.truncate(file, HEADER),
    "longer": lambda file: os.truncate(file, file.stat().st_size + 4096),
    "empty": lambda file: os.truncate(file, 0),
    "another's": lambda file: file.write_bytes(os.urandom(file.stat().st_size)),
    "a link": lambda file: (
        file.rename(file.with_name("x.packed.edgekiln-tmp")),
        file.symlink_to("x.packed.edgekiln-tmp"),
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_written_again(damage: str, engine: Path) -> None:
    expected = logits(engine, pack_cache=False)
    file = written(engine)
    sound, inode = file.read_bytes(), file.stat().st_ino
    DAMAGES[damage](file)
    np.testing.assert_array_equal(logits(engine), expected)
    assert file.read_bytes() == sound
    assert file.stat().st_ino != inode
    assert sorted(path.name for path in file.parent.iterdir()) == sorted([file.name, VERIFIED_FILE])


def test_after_the_system_was_started_again_all_of_it_is_checked(engine: Path) -> None:
    expected = logits(engine, pack_cache=False)
    file = written(engine)
    sound, inode = file.read_bytes(), file.stat().st_ino
    start_again(file)
    np.testing.assert_array_equal(logits(engine), expected)
    assert (file.read_bytes(), file.stat().st_ino) == (sound, inode)
    # A page between those that every start checks, such as one that a power failure lost.
    largest = max(range(HEADER, len(sound) - 4096, 4096), key=lambda at: sound[at : at + 4096].count(0) < 100)
    for at in range(largest, len(sound), 4096):
        start_again(file)
        flip(file, at + 7)
        np.testing.assert_array_equal(logits(engine), expected)
        assert file.read_bytes() == sound
        break


def test_a_file_of_another_user_is_not_read(engine: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    file = written(engine)
    os.chown(file, 12345, 12345)
    inode = file.stat().st_ino
    logits(engine)
    assert (file.stat().st_uid, file.stat().st_ino != inode) == (0, True)


def test_a_file_of_other_weights_is_removed(engine: Path) -> None:
    other = engine / PACKED_DIRECTORY / "0123456789abcdef.avx2.packed"
    other.parent.mkdir()
    other.write_bytes(b"x")
    written(engine)
    assert not other.exists()


def test_where_it_cannot_be_written_the_engine_runs(engine: Path) -> None:
    expected = logits(engine, pack_cache=False)
    (engine / PACKED_DIRECTORY).write_text("a file, not a directory")
    np.testing.assert_array_equal(logits(engine), expected)
    assert (engine / PACKED_DIRECTORY).read_text() == "a file, not a directory"


def test_a_read_only_directory_stays_as_it_is(engine: Path) -> None:
    names = sorted(path.name for path in engine.iterdir())
    script = (
        # Python itself may lie in a directory that the other user cannot read.
        "import mmap, os, sys\n"
        + SETTINGS
        + "if os.geteuid() == 0: os.setegid(65534); os.seteuid(65534)\n"
        + "runtimes.open(sys.argv[1], threads=1).score(np.arange(3, 60))\n"
    )
    for path in engine.parents:
        if path.stat().st_mode & 0o055 != 0o055:
            path.chmod(path.stat().st_mode | 0o055)
    for path in engine.iterdir():
        path.chmod(0o444)
    engine.chmod(0o555)
    done = run(script, engine)
    engine.chmod(0o755)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in engine.iterdir()) == names


SETTINGS = """
import numpy as np
from edgekiln import runtimes
from edgekiln.engine import packed_directory
from edgekiln.runtimes import registry
from edgekiln.runtimes.ort import pack_cache
pack_cache.LEAST_BYTES = registry._LARGE_FILE = 0
packed_directory._TICK = -1.0
"""


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd="/", check=False)


def test_a_full_disk_leaves_no_file(engine: Path) -> None:
    expected = logits(engine, pack_cache=False)
    script = (
        "import resource, sys\nresource.setrlimit(resource.RLIMIT_FSIZE, (1 << 21, 1 << 21))\n"
        + SETTINGS
        + "np.save(sys.stdout.buffer, runtimes.open(sys.argv[1], threads=1).score(np.arange(3, 60)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(engine)], capture_output=True, timeout=120, cwd="/", check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert packed_file(engine) is None
    assert done.stdout.endswith(expected.tobytes())


def test_two_first_starts_at_once(engine: Path) -> None:
    expected = logits(engine, pack_cache=False)
    script = (
        "import sys\n"
        + SETTINGS
        + "np.save(sys.stdout.buffer, runtimes.open(sys.argv[1], threads=1).score(np.arange(3, 60)))\n"
    )
    command = [sys.executable, "-c", script, str(engine)]
    both = [subprocess.Popen(command, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    for process in both:
        out, error = process.communicate(timeout=120)
        assert (process.returncode, error) == (0, b"")
        assert out.endswith(expected.tobytes())
    file = packed_file(engine)
    assert file is not None
    assert {path.name for path in file.parent.iterdir()} == {file.name, VERIFIED_FILE}
    np.testing.assert_array_equal(logits(engine), expected)


def test_two_runtimes_of_a_process_share_it(engine: Path) -> None:
    first = runtimes.open(engine, threads=1)
    second = runtimes.open(engine, threads=1)
    np.testing.assert_array_equal(first.score(IDS), second.score(IDS))


def test_it_may_be_deleted_while_the_engine_runs(engine: Path) -> None:
    written(engine)
    runtime = runtimes.open(engine, threads=1)
    before = runtime.score(IDS)
    shutil.rmtree(engine / PACKED_DIRECTORY)
    np.testing.assert_array_equal(runtime.score(IDS), before)
    del runtime
    assert written(engine).is_file()


def test_without_it_nothing_is_written_or_read(engine: Path) -> None:
    file = written(engine)
    runtime = runtimes.open(engine, threads=1, pack_cache=False)
    assert not is_mapped(file)
    assert runtime.kernels != "onnxruntime"


def test_unverified_weights_are_not_packed_into_it(engine: Path) -> None:
    logits(engine, verify=False)
    assert not (engine / PACKED_DIRECTORY).exists()
    file = written(engine)
    runtime = runtimes.open(engine, threads=1, verify=False)
    assert is_mapped(file)
    assert runtime.kernels != "onnxruntime"


def test_damaged_weights_leave_none(engine: Path) -> None:
    flip(engine / WEIGHTS_FILE, 5000)
    with pytest.raises(EngineError, match=r"weights\.bin is damaged"):
        runtimes.open(engine, threads=1)
    assert packed_file(engine) is None


def test_weights_are_hashed_once_until_they_are_written(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    verify_files = registry.verify_files

    def counted(directory: Path, manifest: object, names: list[str]) -> None:
        hashed.extend(names)
        verify_files(directory, manifest, names)  # type: ignore[arg-type]

    monkeypatch.setattr(registry, "verify_files", counted)
    for expected in (1, 1):
        logits(engine)
        assert hashed.count(WEIGHTS_FILE) == expected
    logits(engine, pack_cache=False)
    assert hashed.count(WEIGHTS_FILE) == 2
    weights = engine / WEIGHTS_FILE
    times = weights.stat()
    flip(weights, 5000)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(EngineError, match=r"weights\.bin is damaged"):
        runtimes.open(engine, threads=1)
    flip(weights, 5000)
    logits(engine)
    shutil.rmtree(engine / PACKED_DIRECTORY)
    before = hashed.count(WEIGHTS_FILE)
    logits(engine)
    assert hashed.count(WEIGHTS_FILE) == before + 1


@pytest.mark.parametrize("quant", ["int4", pytest.param("int8", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("engine")  # for its limits
def test_experts_are_in_the_file(quant: str, tmp_path: Path) -> None:
    directory = build(tmp_path / "mixture", "qwen3_moe", quant)
    expected = logits(directory, pack_cache=False)  # packs experts when they are chosen
    np.testing.assert_array_equal(logits(directory), expected)
    file = packed_file(directory)
    assert file is not None
    before = file.stat()
    np.testing.assert_array_equal(logits(directory), expected)
    after = file.stat()
    assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)
    # One entry a projection holds all of its experts.
    weights = (directory / WEIGHTS_FILE).stat().st_size
    assert before.st_size - HEADER > weights / 2
