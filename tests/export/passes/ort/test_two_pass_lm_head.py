"""The LM head becomes TwoPassMatMulNBits, whose kernel computes the large logits exactly."""

import numpy as np
import onnx_ir as ir
import pytest

from edgekiln.calib.formats.scheme import Scheme
from edgekiln.export.lower.ort_cpu import LOWER_QUANTIZED_OPS
from edgekiln.export.passes.ort.two_pass_lm_head import MARGIN, NAME, FuseTwoPassLMHead, InlineTwoPassLMHead
from support.graphs import graph, node, ops, quantized, session
from support.instruction_sets import fills

DEPTH, VOCABULARY = 192, 3000
FEW_ROWS = 8
RNG = np.random.default_rng(0)


def head(bits: int, symmetric: bool, group_size: int = 32, after: str = "") -> ir.Model:
    scheme = Scheme(bits=bits, group_size=group_size, symmetric=symmetric, activation="none")
    weight = RNG.standard_normal((VOCABULARY, DEPTH), dtype=np.float32) / 3
    tensors, _ = quantized("head", weight, scheme)
    tensors["head.scales"] = tensors["head.scales"].astype(np.float16).astype(np.float32)
    numbers = {"bits": bits, "group_size": group_size, "activation": "none"}
    nodes = [node("QuantizedMatMul", ["x", *tensors], "all" if after else "logits", **numbers)]
    nodes += [node(after, ["all"], "logits")] if after else []
    shape = ["B", "S", VOCABULARY]
    model = graph(nodes, {"x": ["B", "S", DEPTH]}, {"logits": shape}, tensors, {"all": shape} if after else {})
    LOWER_QUANTIZED_OPS(model)
    return model


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (1, 20)])
@pytest.mark.parametrize(("symmetric", "group_size"), [(True, 32), (False, 32), (True, 64)])
def test_logits_near_the_maximum_have_8_bits(kernels, shape, symmetric, group_size):
    model = head(8, symmetric, group_size)
    x = RNG.standard_normal((*shape, DEPTH), dtype=np.float32)
    (every,) = session(model, kernels).run(None, {"x": x})
    FuseTwoPassLMHead()(model)
    assert ops(model) == [NAME]
    (found,) = session(model, kernels).run(None, {"x": x})
    largest = every.max(-1, keepdims=True)
    error = np.abs(found - every)
    # With all logits of 8 bits, GEMMs of larger batches do not quantize activations.
    assert error[every >= largest - MARGIN / 2].max() < (1e-4 if x[..., 0].size <= FEW_ROWS else 0.15)
    np.testing.assert_array_equal(found.argmax(-1), every.argmax(-1))
    in_two_steps = kernels == "edgekiln" and fills("two_pass_lm_head")
    assert (error.max() > 0.3) == in_two_steps
    InlineTwoPassLMHead()(model)
    (again,) = session(model, kernels).run(None, {"x": x})
    np.testing.assert_array_equal(again, every)


@pytest.mark.parametrize("model", [head(4, True), head(8, True, after="Tanh")], ids=["4 bits", "not the last"])
def test_other_matmuls_are_left_alone(model):
    before = ops(model)
    FuseTwoPassLMHead()(model)
    assert ops(model) == before


def test_scales_beyond_float16(kernels):
    model = head(8, True)
    scales = model.graph.initializers["head.scales"]
    scales.const_value = ir.tensor(scales.const_value.numpy() * np.float32(1 + 1e-6), name="head.scales")
    x = RNG.standard_normal((1, 1, DEPTH), dtype=np.float32)
    (every,) = session(model, kernels).run(None, {"x": x})
    FuseTwoPassLMHead()(model)
    (found,) = session(model, kernels).run(None, {"x": x})
    np.testing.assert_array_equal(found, every)
