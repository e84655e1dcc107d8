"""The graph for CUDA, run by ONNX Runtime's CPU kernels in float16, against Hugging Face and the canonical graph."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from edgekiln.export.lower import ort_cuda
from edgekiln.export.op_reference import evaluator
from edgekiln.sources.resolve import resolve
from support.cuda_engines import open_on_cpu, write_cuda_engine
from support.models import FAMILIES, VOCABULARY, save_checkpoint

# Relative to the norm of the logits; float16 has 11 significant bits.
TOLERANCE = 0.015
PROMPT, LENGTH, CHUNK = 13, 20, 7
CUDA_OPS = {
    "GroupQueryAttention",
    "MatMulNBits",
    "MatMulBnb4",
    "GatherBlockQuantized",
    "SkipSimplifiedLayerNormalization",
}


def close(logits: np.ndarray, expected: np.ndarray) -> None:
    assert logits.dtype == np.float32
    assert np.linalg.norm(logits - expected) < TOLERANCE * np.linalg.norm(expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_float16_engine_matches_transformers(family: str, tmp_path: Path) -> None:
    model = save_checkpoint(tmp_path, family)
    write_cuda_engine(resolve(str(tmp_path)), tmp_path / "engine", "none", max_length=256)  # not every family says it
    ids = np.random.default_rng(0).integers(0, VOCABULARY, LENGTH)
    with torch.no_grad():
        expected = model(input_ids=torch.tensor(ids)[None], use_cache=False).logits[0].numpy()
    runtime = open_on_cpu(tmp_path / "engine", CHUNK)
    cache = runtime.new_cache()
    close(runtime.prefill(cache, 0, ids[:PROMPT]), expected[PROMPT - 1])
    for position in range(PROMPT, LENGTH):
        close(runtime.step(cache, ids[position : position + 1])[0], expected[position])
    close(runtime.score(ids), expected)


def test_without_a_rotary_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for contexts that are too long for one."""
    model = save_checkpoint(tmp_path, "llama")
    monkeypatch.setattr(ort_cuda, "_ROTARY_CACHE_BYTES", 0)
    write_cuda_engine(resolve(str(tmp_path)), tmp_path / "engine", "none")
    graph = onnx.load(tmp_path / "engine" / "generate.onnx", load_external_data=False).graph
    assert not any(tensor.name.startswith("rotary_cache") for tensor in graph.initializer)
    assert {node.domain for node in graph.node} == {"", "com.microsoft"}
    ids = np.random.default_rng(0).integers(0, VOCABULARY, LENGTH)
    with torch.no_grad():
        expected = model(input_ids=torch.tensor(ids)[None], use_cache=False).logits[0].numpy()
    close(open_on_cpu(tmp_path / "engine", CHUNK).score(ids), expected)


@pytest.mark.parametrize("quant", ["int4", "int4-sym", "int8"])
@pytest.mark.parametrize("family", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_quantized_engine_matches_the_canonical_graph(family: str, quant: str, tmp_path: Path) -> None:
    """Neither the canonical graph nor CUDA quantizes the activations of weight-only layers."""
    save_checkpoint(tmp_path, family)
    graph = write_cuda_engine(resolve(str(tmp_path)), tmp_path / "engine", quant)
    ids = np.random.default_rng(0).integers(0, VOCABULARY, LENGTH)
    past = {v.name: np.zeros((1, v.shape[1], 0, v.shape[3]), np.float32) for v in graph.graph.inputs[2:]}  # type: ignore[index, call-overload]
    for node in graph.graph:
        if node.op_type == "QuantizedMatMul" and node.attributes["activation"].as_string() != "none":
            node.attributes["activation"] = ir.AttrString("activation", "none")
    feeds = {"input_ids": ids[None], "position_ids": np.arange(LENGTH)[None], **past}
    expected = evaluator(ir.to_proto(graph)).run(None, feeds)[0][0, -1]
    close(open_on_cpu(tmp_path / "engine").score(ids)[-1], expected)


def test_no_value_is_copied_from_the_device_and_every_op_has_a_cuda_kernel(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "llama")
    write_cuda_engine(resolve(str(tmp_path)), tmp_path / "engine", "int4")
    graph = onnx.load(tmp_path / "engine" / "generate.onnx", load_external_data=False).graph
    assert {node.op_type for node in graph.node if node.domain} <= CUDA_OPS
    assert {node.domain for node in graph.node} == {"", "com.microsoft"}
    attentions = [node for node in graph.node if node.op_type == "GroupQueryAttention"]
    assert {node.input[6] for node in attentions} == {"total_length"}
    assert not [node for node in graph.node for a in node.attribute if a.name == "accuracy_level"]
    types = {value.name: value.type.tensor_type.elem_type for value in [*graph.input, *graph.output]}
    assert types["total_length"] == onnx.TensorProto.INT32
    assert types["logits"] == onnx.TensorProto.FLOAT
    assert {kind for name, kind in types.items() if "past" in name or "present" in name} == {onnx.TensorProto.FLOAT16}
    assert {tensor.data_type for tensor in graph.initializer} <= {
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.UINT8,
        onnx.TensorProto.INT64,
    }
