"""CudaDevice on a fake CUDA runtime in host memory, and the fake compared with the real bindings."""

import gc
import inspect
import re
import sys
import threading

import numpy as np
import pytest

from edgekiln.errors import EdgekilnError
from edgekiln.runtimes.cuda.cuda_device import CudaDevice, open_device
from edgekiln.runtimes.cuda.device import ALIGNMENT

runtime = pytest.importorskip("cuda.bindings.runtime")

from support.fake_cuda import FakeCuda  # noqa: E402

FUNCTIONS = [name for name in vars(FakeCuda) if name.startswith("cuda")]
HAS_GPU = runtime.cudaGetDeviceCount()[0] == runtime.cudaError_t.cudaSuccess


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_fake_has_the_parameters_and_results_of_the_bindings(name: str) -> None:
    documentation = getattr(runtime, name).__doc__
    signature = re.match(rf"{name}\((.*)\)", documentation.splitlines()[0])
    assert signature is not None
    real = [re.split(r"[:=]", part)[0].split()[-1] for part in signature[1].split(",") if part.strip()]
    assert list(inspect.signature(getattr(FakeCuda, name)).parameters)[1:] == real
    returns = re.search(r"\nReturns\n-+\n(.*?)(\n\n|\Z)", documentation, re.DOTALL)
    assert returns is not None
    results = re.findall(r"^\w+ : .*$", returns[1], re.MULTILINE)
    source = inspect.getsource(getattr(FakeCuda, name))
    if "return (_SUCCESS,)" in source:
        assert results == []
    elif returned := re.search(r"return _SUCCESS, (.*)", source):
        # Commas inside brackets do not separate results.
        assert len(re.sub(r"[(\[][^)\]]*[)\]]", "", returned[1]).split(",")) == len(results)
    else:
        assert re.search(r"return (self|runtime)\.cuda", source)


def test_copies_to_the_device_and_back() -> None:
    cuda = FakeCuda()
    device = CudaDevice(cuda)
    buffer = device.allocate(64, "a test")
    assert buffer.address % ALIGNMENT == 0
    source, target = device.pinned((4, 4), np.float32), device.pinned((4, 4), np.float32)
    source.array[:] = np.arange(16).reshape(4, 4)
    target.array[:] = -1
    device.copy_in(buffer.address, source.array)
    device.copy_out(target.array, buffer.address)
    assert (target.array == -1).all()
    device.synchronize()
    np.testing.assert_array_equal(target.array, source.array)
    device.zero(buffer)
    device.copy_out(target.array, buffer.address)
    device.synchronize()
    assert not target.array.any()


def test_2d_copies_within_the_device() -> None:
    device = CudaDevice(FakeCuda())
    source, target = device.allocate(12, "a test"), device.allocate(12, "a test")
    given, got = device.pinned((12,), np.uint8), device.pinned((8,), np.uint8)
    given.array[:] = np.arange(12)
    device.copy_in(source.address, given.array)
    device.copy_2d((target.address, 2), (source.address, 3), 2, 4)
    device.copy_out(got.array, target.address)
    device.synchronize()
    assert got.array.tolist() == [0, 1, 3, 4, 6, 7, 9, 10]


def test_captured_work_runs_only_when_replayed() -> None:
    device = CudaDevice(FakeCuda())
    buffer = device.allocate(8, "a test")
    given, got = device.pinned((1,), np.int64), device.pinned((1,), np.int64)
    got.array[0] = 0

    def work() -> None:
        device.copy_in(buffer.address, given.array)
        device.copy_out(got.array, buffer.address)

    replay = device.capture(work)
    device.synchronize()
    assert got.array[0] == 0
    for value in (5, 6):
        given.array[0] = value
        replay()
        device.synchronize()
        assert got.array[0] == value


def test_work_queued_by_another_thread_is_not_captured() -> None:
    device = CudaDevice(FakeCuda())
    captured, other = device.allocate(1, "a test"), device.allocate(1, "a test")
    threads = []

    def work() -> None:
        threads.append(threading.Thread(target=device.zero, args=(other,)))
        threads[0].start()
        threads[0].join(timeout=0.1)
        assert threads[0].is_alive()
        device.zero(captured)

    device.capture(work)
    threads[0].join()
    got = device.pinned((2,), np.uint8)
    device.copy_out(got.array[:1], other.address)
    device.copy_out(got.array[1:], captured.address)
    device.synchronize()
    assert got.array.tolist() == [0, 255]


def test_an_error_during_a_capture_ends_the_capture() -> None:
    device = CudaDevice(FakeCuda())

    def work() -> None:
        raise EdgekilnError("no")

    with pytest.raises(EdgekilnError, match=r"no"):
        device.capture(work)
    device.synchronize()


def test_memory_is_freed_with_its_object() -> None:
    cuda = FakeCuda()
    device = CudaDevice(cuda)
    kept, dropped = device.allocate(100, "a test"), device.pinned((10,), np.float32)
    assert len(cuda.live) == 2
    del dropped
    gc.collect()
    assert list(cuda.live) == [kept.address]


def test_out_of_memory_tells_how_much_is_free() -> None:
    device = CudaDevice(FakeCuda(memory=64_000_000))
    kept = device.allocate(60_000_000, "the cache")
    with pytest.raises(EdgekilnError, match=r"^the GPU has 4 of 64 MB free, the cache needs 10 MB more: use a smaller"):
        device.allocate(10_000_000, "the cache")
    assert kept.size == 60_000_000


def test_other_errors_carry_cudas_message() -> None:
    class Lost(FakeCuda):
        def cudaStreamSynchronize(self, stream):  # noqa: N802
            return (runtime.cudaError_t.cudaErrorIllegalAddress,)

    with pytest.raises(EdgekilnError, match=r"^CUDA says an illegal memory access .* \(cudaErrorIllegalAddress\)$"):
        CudaDevice(Lost()).synchronize()


def test_compute_capability() -> None:
    assert CudaDevice(FakeCuda(capability=(12, 1))).compute_capability == "12.1"


def test_no_device() -> None:
    with pytest.raises(EdgekilnError, match=r"^running this engine needs an NVIDIA GPU: the driver shows none"):
        CudaDevice(FakeCuda(devices=0))


@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU")
def test_no_driver() -> None:
    with pytest.raises(EdgekilnError, match=r"^running this engine needs an NVIDIA GPU and its driver: CUDA says "):
        open_device("trt-rtx")


def test_no_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(EdgekilnError, match=r"needs the module cuda.bindings: pip install 'edgekiln\[trt\]'$"):
        open_device("trt")
