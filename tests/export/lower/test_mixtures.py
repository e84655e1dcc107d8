"""Whole mixtures with quantized experts, lowered for CUDA and TensorRT, against the canonical graph in numpy.

tests/export/test_mixture_parity.py compares the canonical graph with transformers.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgekiln.calib.presets import UNCALIBRATED
from edgekiln.engine.reports import read_report
from edgekiln.export.lower import tensorrt
from edgekiln.export.lower.base import LoweringOptions
from edgekiln.export.op_reference import evaluator
from edgekiln.pipeline.assemble import canonical_graph
from edgekiln.pipeline.options import BuildOptions
from edgekiln.sources.resolve import resolve
from support.cuda_engines import open_on_cpu, write_cuda_engine
from support.graphs import standard_session
from support.models import save_checkpoint

LENGTH = 20
# QMoE takes multiples of 64 only.
WIDE = {"moe_intermediate_size": 64}
FLOAT16 = 0.015


def feeds(model: ir.Model) -> dict[str, np.ndarray]:
    """A sequence without a past."""
    ids = np.random.default_rng(0).integers(0, 200, LENGTH)
    sizes = {value.name: value.shape for value in model.graph.inputs[2:]}
    past = {name: np.zeros((1, shape[1], 0, shape[3]), np.float32) for name, shape in sizes.items() if shape}
    return {"input_ids": ids[None], "position_ids": np.arange(LENGTH)[None], **past}


def close(logits: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    assert np.linalg.norm(logits - expected) < tolerance * np.linalg.norm(expected)


@pytest.mark.parametrize("quant", ["int4", "int8"])
@pytest.mark.parametrize("family", ["qwen3_moe", pytest.param("gpt_oss", marks=pytest.mark.slow)])
def test_tensorrt(family: str, quant: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, family)
    recipe = UNCALIBRATED if quant == "int8" else None
    options = BuildOptions(target="trt-rtx", quant=quant, recipe=recipe)
    model = canonical_graph(resolve(str(tmp_path)), options).graph
    inputs = feeds(model)
    expected = evaluator(ir.to_proto(model)).run(None, inputs)[0][0, -1]
    (note,) = tensorrt.LOWERING.notes(model, LoweringOptions("trt-rtx", LENGTH))
    assert note.startswith("TensorRT computes all 4 experts of a layer for every token, which needs 2 of them")
    products = [node for node in model.graph if node.op_type in ("QuantizedMatMul", "QuantizedExpertMatMul")]
    # All but the LM head, which is in groups of 8 bits.
    quantized = [
        node for node in products if node.attributes["bits"].value == 4 or not node.attributes["group_size"].value
    ]
    tensorrt.lower(model, tensorrt.GraphOptions(capacity=None, dtype="float32"))
    weights = [node.inputs[0] for node in model.graph if node.op_type == "DequantizeLinear"]
    assert sum(value is not None and value.is_initializer() for value in weights) == len(quantized)
    close(standard_session(model).run(None, inputs)[0][0, -1], expected, 1e-4)


@pytest.mark.parametrize("family", ["qwen3_moe", pytest.param("gpt_oss", marks=pytest.mark.slow)])
def test_cuda_computes_the_chosen_experts(family: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, family, **(WIDE if family == "qwen3_moe" else {}))
    model = write_cuda_engine(resolve(str(tmp_path)), tmp_path / "engine", "int4")
    graph = onnx.load(tmp_path / "engine" / "generate.onnx", load_external_data=False).graph
    layers = sum(node.op_type == "QuantizedExpertMatMul" for node in model.graph) // 2
    assert Counter(node.op_type for node in graph.node)["QMoE"] == layers
    assert not any("experts" in note for note in read_report(tmp_path / "engine").notes)
    expected = evaluator(ir.to_proto(model)).run(None, feeds(model))[0][0, -1]
    close(open_on_cpu(tmp_path / "engine").score(feeds(model)["input_ids"][0])[-1], expected, FLOAT16)


@pytest.mark.parametrize("quant", ["int4", *(pytest.param(name, marks=pytest.mark.slow) for name in ("int8", "none"))])
def test_what_qmoe_does_not_take_is_dense_and_noted(quant: str, tmp_path: Path) -> None:
    """Loops over experts, which CUDA graphs do not take, are in no engine."""
    save_checkpoint(tmp_path, "qwen3_moe")
    model = write_cuda_engine(resolve(str(tmp_path)), tmp_path / "engine", quant)
    graph = onnx.load(tmp_path / "engine" / "generate.onnx", load_external_data=False).graph
    assert not {"Loop", "If", "QMoE"} & {node.op_type for node in graph.node}
    (note,) = (note for note in read_report(tmp_path / "engine").notes if "CUDA" in note)
    assert note == (
        "ONNX Runtime on CUDA computes all 4 experts of a layer for every token, which needs 2 of them, in 8 products "
        "with experts: each step reads their whole weights"
    )
    for node in model.graph:
        if "activation" in node.attributes:
            node.attributes["activation"] = ir.AttrString("activation", "none")
    expected = evaluator(ir.to_proto(model)).run(None, feeds(model))[0][0, -1]
    close(open_on_cpu(tmp_path / "engine").score(feeds(model)["input_ids"][0])[-1], expected, FLOAT16)
