"""`edgekiln doctor` on this machine and on machines with other hardware and libraries."""

import ctypes
import importlib.metadata
import json
from typing import Any

import onnxruntime as ort
import pytest
from click.testing import CliRunner

from edgekiln.cli import main
from edgekiln.runtimes.processor_cores import physical_cores
from edgekiln.runtimes.threads import available_processors, cpu_quota, default_threads
from edgekiln.system import Gpu, Machine, cuda_devices, detect, target_states

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class Driver:
    """A CUDA driver library as ctypes calls it: results go through pointers, 0 is success."""

    def __init__(self, devices: list[Gpu], failure: int = 0) -> None:
        self.devices, self.failure = devices, failure

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        version._obj.value = 13010
        return 0

    def cuInit(self, flags: int) -> int:  # noqa: N802
        assert flags == 0
        return self.failure

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = len(self.devices)
        return 0

    def cuDeviceGet(self, handle: Any, index: int) -> int:  # noqa: N802
        handle._obj.value = index
        return 0

    def cuDeviceGetName(self, name: Any, size: int, handle: ctypes.c_int) -> int:  # noqa: N802
        name.value = self.devices[handle.value].name.encode()[: size - 1]
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, handle: ctypes.c_int) -> int:  # noqa: N802
        # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR is 75, MINOR is 76 in cuda.h.
        parts = self.devices[handle.value].compute_capability.split(".")
        value._obj.value = int(parts[attribute - 75])
        return 0

    def cuDeviceTotalMem_v2(self, size: Any, handle: ctypes.c_int) -> int:  # noqa: N802
        size._obj.value = int(self.devices[handle.value].memory_mb * 1e6)
        return 0


def no_driver() -> None:
    raise OSError("libcuda.so.1: cannot open shared object file")


def with_gpu(capability: str, **changes: Any) -> Machine:
    fields = {
        "packages": {"onnxruntime-gpu": "1.31.1"},
        "providers": (CUDA, CPU),
        "modules": {"torch": "", "tensorrt": "", "tensorrt_rtx": "", "cuda": "", "onnxruntime": ""},
        "cuda_driver": "13.0",
        "gpus": (Gpu("NVIDIA", capability, 24000.0),),
    }
    return Machine(**(fields | changes))  # type: ignore[arg-type]


def test_this_machine() -> None:
    machine = detect()
    assert machine.packages["onnxruntime"] == importlib.metadata.version("onnxruntime")
    assert machine.providers == tuple(ort.get_available_providers())
    assert machine.cores >= 1
    assert machine.cores == physical_cores().total or not physical_cores().total
    assert (machine.processors, machine.default_threads) == (available_processors(), default_threads())
    assert machine.cpu_quota == cpu_quota()
    assert machine.memory_mb > 100
    assert target_states(machine)["ort-cpu"].runs


def test_doctor_says_the_cores_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    hybrid = Machine(
        processor="a CPU",
        cores=12,
        efficiency_cores=8,
        memory_mb=16000,
        processors=16,
        cpu_quota=1.5,
        default_threads=2,
    )
    monkeypatch.setattr("edgekiln.system.detect", lambda: hybrid)
    lines = CliRunner().invoke(main, ["doctor"]).output.splitlines()
    assert "processor     a CPU, 4 performance cores, 8 efficiency cores, 16.0 GB" in lines
    assert "threads       2 by default, at most 16, CPU quota of 1.5 processors" in lines


@pytest.mark.skipif(CUDA in ort.get_available_providers(), reason="this machine has CUDA")
def test_doctor_says_which_targets_work_and_what_the_others_need() -> None:
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    words = [line.split() for line in lines]
    assert ["ort-cpu", "builds", "and", "runs"] in words
    assert ["ort-cuda", "builds"] in words
    assert any("pip install 'edgekiln[gpu]'" in line for line in lines)
    report = json.loads(CliRunner().invoke(main, ["doctor", "--json"]).stdout)
    assert report["targets"]["ort-cpu"] == {"builds": True, "runs": True, "running": [], "missing": []}
    assert not report["targets"]["ort-cuda"]["runs"]
    assert not report["targets"]["trt"]["builds"]


def test_version_and_devices_come_from_the_driver() -> None:
    devices = [Gpu("NVIDIA H100 80GB HBM3", "9.0", 85000.0), Gpu("NVIDIA RTX 4090", "8.9", 25000.0)]
    assert cuda_devices(lambda: Driver(devices)) == ("13.1", tuple(devices))
    assert cuda_devices(lambda: Driver(devices, failure=100)) == ("13.1", ())
    assert cuda_devices(no_driver) == (None, ())


def test_a_machine_with_everything() -> None:
    states = target_states(with_gpu("8.9"))
    assert all(state.builds and state.runs and not state.missing for state in states.values())


@pytest.mark.parametrize(
    ("machine", "target", "builds", "runs", "sentence"),
    [
        (Machine(), "ort-cpu", False, False, "ONNX Runtime is missing: pip install 'edgekiln[cpu]'"),
        (with_gpu("8.9", modules={}), "ort-cuda", False, True, "building needs torch: pip install 'edgekiln[export]'"),
        (
            with_gpu("8.9", providers=(CPU,), packages={"onnxruntime": "1.32.0"}),
            "ort-cuda",
            True,
            False,
            "ONNX Runtime as installed has no CUDA: pip uninstall onnxruntime; pip install 'edgekiln[gpu]'",
        ),
        (with_gpu("8.9", gpus=()), "trt", False, False, "the NVIDIA driver (CUDA 13.0) shows no GPU: check nvidia-smi"),
        (with_gpu("8.9", gpus=(), cuda_driver=None), "trt-rtx", True, False, "the driver library libcuda is not there"),
        (
            with_gpu("8.9", modules={"torch": "", "cuda": "", "tensorrt": "no libnvinfer"}),
            "trt",
            False,
            False,
            "tensorrt cannot be imported (no libnvinfer): pip install 'edgekiln[trt]'",
        ),
        (
            with_gpu("9.0"),
            "trt-rtx",
            True,
            False,
            "compute capability 9.0 is none of those that trt-rtx supports (7.5,",
        ),
        (
            with_gpu("8.9", modules={"torch": "", "tensorrt_rtx": ""}),
            "trt-rtx",
            True,
            False,
            "running needs cuda-python: pip install cuda-bindings",
        ),
    ],
)
def test_each_missing_requirement_has_a_sentence(
    machine: Machine, target: str, builds: bool, runs: bool, sentence: str
) -> None:
    state = target_states(machine)[target]
    assert (state.builds, state.runs) == (builds, runs)
    assert any(sentence in line for line in state.missing)
