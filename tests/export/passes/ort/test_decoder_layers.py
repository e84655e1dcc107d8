"""The layers of a decoder become one DecoderLayers call with the same results."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgekiln.export.functions.rotary_attention import ATTENTIONS
from edgekiln.export.passes.ort.decoder_layers import FuseDecoderLayers, InlineDecoderLayers
from edgekiln.export.step_weights import step_weight_bytes
from edgekiln.runtimes.base import KernelsChoice
from support.engines import build
from support.graphs import ops, session

NAMES = {"int8": "PerTokenInt8", "int4": "ZeroPoint"}
LAYERS, CAPACITY = 4, 96
ENGINES = [
    ("llama", "int8", "float32"),
    ("llama", "int4", "float32"),
    ("llama", "int8", "int8"),
    ("llama", "int4", "int8"),
    # A QKV bias; norms of query and key heads.
    ("qwen2", "int8", "int8"),
    ("qwen2", "int8", "float32"),
    ("qwen3", "int8", "float32"),
    ("qwen3", "int4", "int8"),
    # Mixtures of experts.
    ("mixtral", "int4", "float32"),
    ("mixtral", "int8", "int8"),
    ("granitemoe", "int4", "int8"),
    ("qwen3_moe", "int8", "float32"),
    # Norms over all heads of queries and keys.
    ("olmoe", "int4", "float32"),
    ("olmoe", "int8", "int8"),
]
MIXTURES = ("mixtral", "granitemoe", "qwen3_moe", "olmoe")
SLOW = [*ENGINES[5:7], *ENGINES[10:12], *ENGINES[13:]]
RNG = np.random.default_rng(0)


@pytest.fixture(
    scope="module",
    params=[pytest.param(row, id="-".join(row), marks=[pytest.mark.slow] if row in SLOW else []) for row in ENGINES],
)
def engine(request, tmp_path_factory) -> tuple[Path, str]:
    family, quant, kv = request.param
    layers = "MixtureDecoderLayers" if family in MIXTURES else "DecoderLayers"
    name = NAMES[quant] + layers + ("Int8Cache" if kv == "int8" else "")
    return build(tmp_path_factory.mktemp(family), family, quant, kv), name


def load(path: Path) -> ir.Model:
    return ir.external_data.load_to_model(ir.load(path))


def feeds(model: ir.Model, batch: int, past: int, length: int, rng: np.random.Generator = RNG) -> dict[str, np.ndarray]:
    values = {
        "input_ids": rng.integers(0, 259, (batch, length)),
        "position_ids": np.tile(np.arange(past, past + length), (batch, 1)),
        "logits_to_keep": np.array([1]),
    }
    for value in model.graph.inputs:
        if value.name.startswith("past."):
            shape = (batch, value.shape[1], max(CAPACITY, past + length), value.shape[3])
            factor = 20 if value.dtype == ir.DataType.INT8 else 1
            values[value.name] = (rng.standard_normal(shape) * factor).astype(value.dtype.numpy())
    return {value.name: values[value.name] for value in model.graph.inputs}


def same_bits(directory: Path, kernels: KernelsChoice) -> bool:
    """Whether both models compute norms with the same kernels."""
    return not (kernels == "edgekiln" and "qwen3" in str(directory))


def check(results: list[np.ndarray], expected: list[np.ndarray], directory: Path, kernels: KernelsChoice) -> None:
    for result, value in zip(results, expected, strict=True):
        if same_bits(directory, kernels):
            np.testing.assert_array_equal(result, value)
        elif result.dtype == np.int8:
            assert np.abs(result.astype(int) - value).max() <= 1
            assert (result != value).mean() < 0.01
        else:
            # A value halfway between two int8 codes may be rounded to either, which later values depend on.
            assert np.linalg.norm(result - value) < 0.03 * np.linalg.norm(value)


@pytest.mark.parametrize("role", ["generate", "score"])
def test_one_function_with_the_same_values(engine, kernels, role):
    directory, name = engine
    model = load(directory / f"{role}.onnx")
    assert [op for op in ops(model) if op.endswith(("DecoderLayers", "Int8Cache"))] == [name]
    together = session(model, kernels)
    InlineDecoderLayers()(model)
    assert len(attentions(model)) == LAYERS
    assert name not in ops(model)
    apart = session(model, kernels)
    # The kernel has separate paths for one token, a few, and many.
    for batch, past, length in ((1, 9, 1), (2, 0, 3), (1, 40, 50)):
        given = feeds(model, batch, past, length)
        check(together.run(None, given), apart.run(None, given), directory, kernels)
    # Enough tokens for several threads. Rounding differences grow with them, so only equal bits are compared.
    if same_bits(directory, kernels):
        given = feeds(model, 2, 0, 150, np.random.default_rng(1))
        check(together.run(None, given), apart.run(None, given), directory, kernels)


def test_inlined_layers_are_fused_again(engine):
    directory, _ = engine
    model = load(directory / "generate.onnx")
    before = ops(model)
    InlineDecoderLayers()(model)
    FuseDecoderLayers()(model)
    assert ops(model) == before


def test_a_step_reads_the_same_weights(engine):
    """Of experts, the chosen ones."""
    directory, _ = engine
    model = load(directory / "generate.onnx")
    before = step_weight_bytes(model, halves=False)
    InlineDecoderLayers()(model)
    assert step_weight_bytes(model, halves=False) == before


def attentions(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type in ATTENTIONS]


def with_another_scale(model: ir.Model) -> None:
    attentions(model)[2].attributes["scale"] = ir.AttrFloat32("scale", 0.3)


def with_other_angles(model: ir.Model) -> None:
    first, other = (attentions(model)[i] for i in (0, 2))
    copy = ir.node("Identity", [first.inputs[7]])
    model.graph.insert_before(first, [copy])
    other.replace_input_with(7, copy.outputs[0])


def with_a_reader(model: ir.Model) -> None:
    node = ir.node("Identity", [attentions(model)[2].outputs[0]])
    model.graph.insert_after(attentions(model)[2], [node])
    model.graph.outputs.append(node.outputs[0])


@pytest.mark.parametrize(
    ("change", "left"),
    [(with_another_scale, 2), (with_other_angles, 2), (with_a_reader, 1)],
    ids=["scale", "angles", "reader"],
)
def test_a_chain_ends_where_layers_differ(engine, change, left):
    directory, name = engine
    model = load(directory / "generate.onnx")
    InlineDecoderLayers()(model)
    change(model)
    FuseDecoderLayers()(model)
    assert ops(model).count(name) == 1
    assert len(attentions(model)) == left


def test_windows_may_differ(engine, kernels):
    directory, name = engine
    model = load(directory / "generate.onnx")
    InlineDecoderLayers()(model)
    attentions(model)[1].attributes["local_window_size"] = ir.AttrInt64("local_window_size", 5)
    given = feeds(model, 1, 20, 2)
    expected = session(model, kernels).run(None, given)
    FuseDecoderLayers()(model)
    assert name in ops(model)
    check(session(model, kernels).run(None, given), expected, directory, kernels)
