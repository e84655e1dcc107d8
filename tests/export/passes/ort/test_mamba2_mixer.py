"""Fused layers of Mamba and Mamba-2 give what their canonical graphs give, with edgekiln's kernels and without."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper
from onnx_ir.passes import Sequential

from edgekiln.export import canonical
from edgekiln.export.lower.ort_cpu import FUSE_RECURRENCE
from edgekiln.export.passes.ort.recurrence import LowerRecurrence
from support.graphs import KernelsChoice, graph, node, ops, run_reference, session

BATCH, HEADS, GROUPS, STATES, WIDTH, KERNEL = 2, 4, 2, 16, 12, 4
INNER, KEYS = HEADS * WIDTH, GROUPS * STATES
CHANNELS = INNER + 2 * KEYS
RNG = np.random.default_rng(0)
Arrays = dict[str, np.ndarray]


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def own(op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
    return helper.make_node(op, inputs, outputs, domain=canonical.DOMAIN, **attributes)


def split(x: str, sizes: str, parts: list[str], axis: int = 2) -> Any:
    return helper.make_node("Split", [x, sizes], parts, axis=axis)


def shaped(model: ir.Model, **shapes: tuple[int, ...]) -> ir.Model:
    """Give values in the graph their shapes, which traced ones have."""
    for each in model.graph:
        for value in each.outputs:
            if value.name in shapes:
                value.shape, value.type = ir.Shape(shapes[value.name]), ir.TensorType(ir.DataType.FLOAT)
    return model


def mamba2(length: int, norm: bool) -> tuple[ir.Model, Arrays]:
    nodes = [
        node("Exp", ["a_log"], "a_exp"),
        node("Neg", ["a_exp"], "a"),
        split("projected", "sizes", ["gate", "channels", "dt"]),
        node("Transpose", ["channels"], "columns", perm=[0, 2, 1]),
        own(
            "CausalConv",
            ["columns", "weight", "past_conv", "conv_bias"],
            ["convolved", "present_conv"],
            activation="silu",
        ),
        node("Transpose", ["convolved"], "tokens", perm=[0, 2, 1]),
        split("tokens", "channel_sizes", ["flat_x", "flat_b", "flat_c"]),
        node("Reshape", ["flat_x", "x_shape"], "x"),
        node("Reshape", ["flat_b", "key_shape"], "b"),
        node("Reshape", ["flat_c", "key_shape"], "c"),
        node("Add", ["dt", "bias"], "biased"),
        node("Softplus", ["biased"], "unlimited"),
        node("Clip", ["unlimited", "least", "most"], "step"),
        node("Mul", ["step", "a"], "decay"),
        node("Unsqueeze", ["step", "last"], "step_of_head"),
        node("Mul", ["x", "step_of_head"], "value"),
        own("LinearAttention", ["c", "b", "value", "past", "decay"], ["read", "present"], rule="gated", scale=1.0),
        node("Unsqueeze", ["d", "last"], "d_of_head"),
        node("Mul", ["x", "d_of_head"], "skipped"),
        node("Add", ["read", "skipped"], "heads"),
        node("Reshape", ["heads", "y_shape"], "flat"),
        node("Sigmoid", ["gate"], "sigmoid"),
        node("Mul", ["gate", "sigmoid"], "silu"),
        node("Mul", ["flat", "silu"], "gated" if norm else "y"),
    ]
    if norm:  # as traced: over an axis of one group
        nodes += [
            node("Reshape", ["gated", "group_shape"], "group"),
            node("Pow", ["group", "two"], "square"),
            node("ReduceMean", ["square", "last"], "mean", keepdims=1),
            node("Add", ["mean", "epsilon"], "positive"),
            node("Sqrt", ["positive"], "root"),
            node("Reciprocal", ["root"], "inverse"),
            node("Mul", ["group", "inverse"], "normed"),
            node("Reshape", ["normed", "y_shape"], "normed_flat"),
            node("Mul", ["gamma", "normed_flat"], "y"),
        ]
    feeds = {
        "projected": normal(BATCH, length, INNER + CHANNELS + HEADS),
        "past_conv": normal(BATCH, CHANNELS, KERNEL - 1),
        "past": normal(BATCH, HEADS, STATES, WIDTH),
    }
    weights = {
        **{"weight": normal(CHANNELS, KERNEL), "conv_bias": normal(CHANNELS), "gamma": normal(INNER)},
        **{name: normal(HEADS) for name in ("a_log", "bias", "d")},
        **{"least": np.float32(0.1), "most": np.float32(2), "two": np.float32(2), "epsilon": np.float32(1e-5)},
        **{"sizes": ints(INNER, CHANNELS, HEADS), "channel_sizes": ints(INNER, KEYS, KEYS), "last": ints(-1)},
        **{"x_shape": ints(0, 0, HEADS, WIDTH), "key_shape": ints(0, 0, GROUPS, STATES)},
        **{"y_shape": ints(BATCH, length, INNER), "group_shape": ints(0, 0, 1, INNER)},
    }
    shapes = {key: value.shape for key, value in feeds.items()}
    outputs = {"y": (BATCH, length, INNER), **{f"present{part}": feeds[f"past{part}"].shape for part in ("_conv", "")}}
    flat = dict.fromkeys(("gate", "flat_x", "flat", "gated", "normed_flat"), (BATCH, length, INNER))
    model = shaped(
        graph(nodes, shapes, outputs, weights),
        **flat,
        **dict.fromkeys(("group", "normed"), (BATCH, length, 1, INNER)),
        **dict.fromkeys(("x", "value", "read"), (BATCH, length, HEADS, WIDTH)),
        **dict.fromkeys(("b", "c"), (BATCH, length, GROUPS, STATES)),
        **dict.fromkeys(("dt", "step", "decay"), (BATCH, length, HEADS)),
        channels=(BATCH, length, CHANNELS),
        columns=(BATCH, CHANNELS, length),
        tokens=(BATCH, length, CHANNELS),
        a=(HEADS,),
    )
    return model, feeds


def mamba(length: int) -> tuple[ir.Model, Arrays]:
    channels, states = 20, 5
    nodes = [
        node("Exp", ["a_log"], "a_exp"),
        node("Neg", ["a_exp"], "a"),
        node("Transpose", ["projected"], "columns", perm=[0, 2, 1]),
        split("columns", "halves", ["x", "z"], axis=1),
        own("CausalConv", ["x", "weight", "past_conv", "conv_bias"], ["convolved", "present_conv"], activation="silu"),
        node("Unsqueeze", ["bias", "last"], "bias_column"),
        node("Add", ["dt", "bias_column"], "biased"),
        node("Softplus", ["biased"], "step"),
        *(node("Transpose", [name], f"{name}.columns", perm=[0, 2, 1]) for name in ("b", "c")),
        own("SelectiveScan", ["convolved", "step", "a", "b.columns", "c.columns", "past"], ["read", "present"]),
        node("Unsqueeze", ["d", "last"], "d_column"),
        node("Mul", ["convolved", "d_column"], "skipped"),
        node("Add", ["read", "skipped"], "sum"),
        node("Sigmoid", ["z"], "sigmoid"),
        node("Mul", ["z", "sigmoid"], "silu"),
        node("Mul", ["sum", "silu"], "gated"),
        node("Transpose", ["gated"], "y", perm=[0, 2, 1]),
    ]
    feeds = {
        "projected": normal(BATCH, length, 2 * channels),
        "dt": normal(BATCH, channels, length),
        **{name: normal(BATCH, length, states) for name in ("b", "c")},
        "past_conv": normal(BATCH, channels, KERNEL - 1),
        "past": normal(BATCH, channels, states),
    }
    weights = {
        **{"weight": normal(channels, KERNEL), "conv_bias": normal(channels), "a_log": normal(channels, states)},
        **{"d": normal(channels), "bias": normal(channels), "last": ints(-1), "halves": ints(channels, channels)},
    }
    shapes = {key: value.shape for key, value in feeds.items()}
    outputs = {
        "y": (BATCH, length, channels),
        **{f"present{part}": feeds[f"past{part}"].shape for part in ("_conv", "")},
    }
    columns = dict.fromkeys(("x", "z", "convolved", "step", "read"), (BATCH, channels, length))
    return shaped(graph(nodes, shapes, outputs, weights), **columns, a=(channels, states)), feeds


def check(model: ir.Model, feeds: Arrays, kernels: KernelsChoice, expected_ops: list[str]) -> None:
    expected = run_reference(model, feeds)
    Sequential(*FUSE_RECURRENCE)(model)
    assert ops(model) == expected_ops
    LowerRecurrence()(model)
    for got, want in zip(session(model, kernels).run(None, feeds), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("kernels", ["onnxruntime", "edgekiln"])
@pytest.mark.parametrize("length", [1, 37])
@pytest.mark.parametrize("norm", [True, False], ids=["norm", "gate"])
def test_a_mamba2_layer_is_one_call(norm: bool, length: int, kernels: KernelsChoice) -> None:
    check(*mamba2(length, norm), kernels, ["Mamba2MixerNorm" if norm else "Mamba2Mixer"])


@pytest.mark.parametrize("kernels", ["onnxruntime", "edgekiln"])
@pytest.mark.parametrize("length", [1, 19])
def test_a_mamba_layer_reads_its_projection_in_place(length: int, kernels: KernelsChoice) -> None:
    check(*mamba(length), kernels, ["CausalConv", "GatedSelectiveScan", *["Transpose"] * 3])


def test_a_projection_with_other_readers_stays_split() -> None:
    model, _ = mamba(3)
    z = next(value for each in model.graph for value in each.outputs if value.name == "z")
    other = ir.Node("", "Relu", [z], outputs=[ir.Value(name="other", shape=z.shape, type=z.type)])
    model.graph.append(other)
    model.graph.outputs.append(other.outputs[0])
    Sequential(*FUSE_RECURRENCE)(model)
    assert "Split" in ops(model)
