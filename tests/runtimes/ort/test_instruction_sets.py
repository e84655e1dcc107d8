"""EDGEKILN_ISA, and which ops are edgekiln's on each instruction set."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgekiln import runtimes
from edgekiln.errors import RequestError
from edgekiln.runtimes.ort import kernels
from edgekiln.runtimes.ort.kernels import ISA_VARIABLE, installed_library, kernel_library
from support.engines import build
from support.instruction_sets import supported_sets, use

# From 32 tokens on, some sets requantize 4-bit weights to 8 bits.
PROMPT = np.arange(30) * 7 % 259
NAMES = [parameter.values[0] for parameter in supported_sets()]  # type: ignore[attr-defined]
INCOMPLETE = ("portable",)  # those that leave ops to ONNX Runtime
# Those with other rounding: without fused multiply-adds, or in bfloat16.
OTHER_ROUNDING = ("portable", "amx", "avx512bf16")
WRONG = f"EDGEKILN_ISA must be {', '.join(NAMES)} or onnxruntime on this processor, got sse9"


@pytest.fixture
def folder(shared_directory):
    to = shared_directory / "instruction-sets"
    to.mkdir(exist_ok=True)
    return to


@pytest.fixture(scope="module", params=["int4", "int8"])
def quantized(request, tmp_path_factory):
    return build(tmp_path_factory.mktemp("engines"), "llama", request.param)


@pytest.mark.parametrize("name", supported_sets())
def test_logits_are_those_of_onnxruntimes_kernels(name, quantized, monkeypatch, folder):
    expected = runtimes.open(quantized, kernels="onnxruntime").score(PROMPT)
    use(name, monkeypatch, folder)
    runtime = runtimes.open(quantized)
    assert runtime.kernels == name
    # Both round activations, at different points. Random logits have a standard deviation of about 2.
    np.testing.assert_allclose(runtime.score(PROMPT), expected, atol=0.5, rtol=0)


@pytest.mark.parametrize("name", supported_sets())
def test_ops_of_each_set(name, monkeypatch, folder):
    use(name, monkeypatch, folder)
    library = installed_library()
    assert library is not None
    assert library.instruction_set == name
    assert list(library.supported) == NAMES
    assert {op.name for op in library.ops if not op.kernels} == {"ai.onnx.Cos", "ai.onnx.Sin"}
    assert library.complete == (name not in INCOMPLETE)


@pytest.mark.parametrize(("quant", "kv"), [("int8", "float32"), ("int4", "float32"), ("int4", "int8")])
def test_logits_have_the_same_bits_on_every_set(quant, kv, tmp_path, monkeypatch, folder):
    # Heads of 64: a multiple of the vectors of all sets.
    engine = build(tmp_path, "llama", quant, kv, head_dim=64)
    names = [name for name in NAMES if name not in OTHER_ROUNDING]
    found = {}
    for name in names:
        use(name, monkeypatch, folder)
        runtime = runtimes.open(engine)
        assert runtime.kernels == name
        cache = runtime.new_cache(1)
        logits = [runtime.score(PROMPT), runtime.prefill(cache, 0, PROMPT)]
        logits += [runtime.step(cache, np.array([token])) for token in (5, 7, 11)]
        found[name] = b"".join(np.ascontiguousarray(part).tobytes() for part in logits)
    assert [name for name in names if found[name] != found[names[0]]] == []


def test_several_tokens_are_verified_only_where_all_ops_are_edgekilns(quantized, monkeypatch, folder):
    for name in (NAMES[0], "portable"):
        use(name, monkeypatch, folder)
        library = kernel_library()
        assert library is not None
        assert (runtimes.open(quantized).max_verify_tokens > 1) == library.complete


def test_onnxruntime_leaves_every_op_to_onnx_runtime(engine, monkeypatch, folder):
    expected = runtimes.open(engine, kernels="onnxruntime").score(PROMPT)
    use("onnxruntime", monkeypatch, folder)
    library = installed_library()
    assert library is not None
    assert not any(op.registered for op in library.ops)
    runtime = runtimes.open(engine)
    assert (runtime.kernels, runtime.max_verify_tokens) == ("onnxruntime", 1)
    np.testing.assert_array_equal(runtime.score(PROMPT), expected)


def test_a_set_that_the_processor_lacks_is_an_error(engine, monkeypatch, folder):
    use("sse9", monkeypatch, folder)
    with pytest.raises(RequestError) as error:
        runtimes.open(engine)
    assert str(error.value) == WRONG
    assert runtimes.open(engine, kernels="onnxruntime").kernels == "onnxruntime"


def test_registering_the_library_fails_with_the_same_sentence(monkeypatch, folder):
    import onnxruntime

    use("sse9", monkeypatch, folder)
    with pytest.raises(Exception, match="got sse9") as error:
        onnxruntime.SessionOptions().register_custom_ops_library(str(kernels.LIBRARY))
    assert WRONG in str(error.value)


@pytest.mark.parametrize("value", ["", "onnxruntime", "avx2"])
def test_without_the_library_only_onnxruntime_is_supported(value, monkeypatch, tmp_path):
    monkeypatch.setattr(kernels, "LIBRARY", tmp_path / "libedgekiln_ops.so")
    monkeypatch.setenv(ISA_VARIABLE, value)
    if value != "avx2":
        assert kernel_library() is None
        return
    with pytest.raises(RequestError) as error:
        kernel_library()
    assert str(error.value) == "EDGEKILN_ISA must be onnxruntime or unset without edgekiln's kernels, got avx2"


def test_the_command_line_prints_the_sentence(engine: Path, monkeypatch):
    monkeypatch.setenv(ISA_VARIABLE, "sse9")
    command = [sys.executable, "-m", "edgekiln", "run", str(engine), "-p", "a"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"Error: {WRONG}\n")
