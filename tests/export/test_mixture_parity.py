"""Mixtures with quantized experts give the logits of transformers with the dequantized weights, for every mixture of
docs/families.md.

The canonical graph runs in numpy, which quantizes no activations, so that the logits are equal. Engines are compared
with this graph's ops in tests/export/passes.
"""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from edgekiln.calib.evaluation.hf_reference import load_model
from edgekiln.calib.quantization_plan import quantized_tensors
from edgekiln.calib.recipe import LayerSpec, Recipe
from edgekiln.export.op_reference import evaluator
from edgekiln.pipeline.assemble import canonical_graph
from edgekiln.pipeline.options import BuildOptions
from edgekiln.sources.resolve import resolve
from families.tiny import tiny_model
from support.models import save_model

_FAST = ("gpt_oss", "llama4_text", "qwen3_moe")
_SLOW = (
    *("dbrx", "deepseek_v3", "jetmoe", "longcat_flash", "nemotron_h"),
    *("afmoe", "aria_text", "axk1", "axk2", "bailing_hybrid", "beam", "cohere2_moe", "deepseek_v2"),
    *("deepseek_v32", "dots1", "dots3_note", "dots3_note_text", "ernie4_5_moe", "exaone_moe", "flex_olmo", "flint"),
    *("glm4_moe", "glm4_moe_lite", "glm_moe_dsa", "granitemoe", "granitemoe_swa", "granitemoehybrid"),
    *("granitemoeshared", "hunyuan_v1_moe", "hy_v3", "hy_v4", "jamba", "kimi_linear", "kolibri1", "laguna"),
    *("lara_mini", "lfm2_moe", "mellum", "mimo_v2_flash", "minimax", "minimax_m2", "minimax_m3_vl_text", "mixtral"),
    *("olmoe", "phimoe", "qwen2_moe", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_next", "qwen4_exp"),
    *("qwen4_exp_text", "sarvam_mla", "sarvam_moe", "solar_open", "zaya"),
)
MIXTURES = [*_FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in _SLOW)]
TOLERANCE = 1e-3  # of the norm of the logits


@pytest.mark.parametrize("name", MIXTURES)
def test_quantized_experts(name: str, tmp_path: Path) -> None:
    save_model(tmp_path, tiny_model(name))
    source = resolve(str(tmp_path))
    recipe = Recipe(default=LayerSpec(bits=4, group_size=32, symmetric=False))
    canonical = canonical_graph(source, BuildOptions(quant="none", recipe=recipe, max_length=256))
    experts = [layer for layer in canonical.quantization.layers if layer.experts]
    assert {layer.scheme.bits for layer in experts} == {4}
    ops = {node.op_type for node in canonical.graph.graph}
    assert "QuantizedExpertMatMul" in ops
    assert "ExpertMatMul" not in ops

    model = load_model(source)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for layer, quantized, _ in quantized_tensors(canonical.quantization, source.weights):
            values = torch.from_numpy(quantized.dequantize())
            parameter = parameters[layer.names[0]]
            if layer.experts:
                layer.experts.of_each(parameter.data).copy_(values.reshape(layer.experts.experts, -1, layer.experts.k))
            else:
                parameter.copy_(values.t() if layer.transposed else values)
        tokens = np.random.default_rng(0).integers(3, 250, (1, 21))
        expected = model(input_ids=torch.from_numpy(tokens), use_cache=False).logits[0, -1].float().numpy()

    feeds = {"input_ids": tokens, "position_ids": np.arange(tokens.shape[1])[None]}
    for value in canonical.graph.graph.inputs[2:]:
        assert value.shape is not None
        # The past is empty; what it is added to has a batch of one.
        sizes = [size if isinstance(size, int) else 0 for size in value.shape]
        feeds[str(value.name)] = np.zeros([1, *sizes[1:]], np.float32)
    logits = evaluator(ir.to_proto(canonical.graph)).run(None, feeds)[0]
    error = np.linalg.norm(logits[0, 0] - expected) / np.linalg.norm(expected)
    assert error <= TOLERANCE
