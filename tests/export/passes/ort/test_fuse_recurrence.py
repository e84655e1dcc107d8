"""Fused recurrences give what the canonical graph gives, with edgekiln's kernels and with ONNX Runtime's."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from edgekiln.export import canonical
from edgekiln.export.passes.ort.fuse_recurrence import FuseRecurrence
from edgekiln.export.passes.ort.gated_rms_norm import FuseGatedRMSNorm
from edgekiln.export.passes.ort.recurrence import LowerRecurrence
from support.graphs import KernelsChoice, graph, node, ops, run_reference, session

BATCH, LENGTH = 2, 11
RNG = np.random.default_rng(0)
Arrays = dict[str, np.ndarray]
Case = tuple[list[Any], Arrays, Arrays, str]


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def own(op: str, inputs: list[str], **attributes: Any) -> Any:
    return helper.make_node(op, inputs, ["out", "present"], domain=canonical.DOMAIN, **attributes)


def softplus(x: str, to: str) -> list[Any]:
    """As torch.onnx writes it."""
    return [
        node("Softplus", [x], f"{to}.soft"),
        node("Greater", [x, "threshold"], f"{to}.large"),
        node("Where", [f"{to}.large", x, f"{to}.soft"], to),
    ]


def conv() -> Case:
    nodes = [
        node("Transpose", ["tokens"], "x", perm=[0, 2, 1]),
        own("CausalConv", ["x", "weight", "past"], activation="silu"),
        node("Transpose", ["out"], "y", perm=[0, 2, 1]),
    ]
    return (
        nodes,
        {"tokens": normal(BATCH, LENGTH, 6), "past": normal(BATCH, 6, 3)},
        {"weight": normal(6, 4)},
        "CausalConv",
    )


def mamba2() -> Case:
    heads, groups, states, width = 4, 2, 16, 8
    nodes = [
        node("Add", ["dt", "bias"], "biased"),
        *softplus("biased", "unlimited"),
        node("Clip", ["unlimited", "least", "most"], "step"),
        node("Mul", ["step", "a"], "decay"),
        node("Unsqueeze", ["step", "last"], "step_of_head"),
        node("Mul", ["x", "step_of_head"], "value"),
        own("LinearAttention", ["c", "b", "value", "past", "decay"], rule="gated", scale=1.0),
        node("Unsqueeze", ["d", "last"], "d_of_head"),
        node("Mul", ["x", "d_of_head"], "skipped"),
        node("Add", ["out", "skipped"], "y"),
    ]
    feeds = {
        "x": normal(BATCH, LENGTH, heads, width),
        "dt": normal(BATCH, LENGTH, heads),
        "b": normal(BATCH, LENGTH, groups, states),
        "c": normal(BATCH, LENGTH, groups, states),
        "past": normal(BATCH, heads, states, width),
    }
    limits = {"least": np.float32(0.2), "most": np.float32(1.5)}
    weights = {"bias": normal(heads), "a": -np.abs(normal(heads)), "d": normal(heads), "last": ints(-1), **limits}
    return nodes, feeds, weights, "Mamba2Scan"


def unit(x: str) -> list[Any]:
    return [
        node("Mul", [x, x], f"{x}.squares"),
        node("ReduceSum", [f"{x}.squares", "last"], f"{x}.sum", keepdims=1),
        node("Add", [f"{x}.sum", "small"], f"{x}.positive"),
        node("Sqrt", [f"{x}.positive"], f"{x}.length"),
        node("Reciprocal", [f"{x}.length"], f"{x}.inverse"),
        node("Mul", [x, f"{x}.inverse"], f"{x}.unit"),
    ]


def delta_rule() -> Case:
    heads, keys, values = 4, 16, 24
    nodes = [
        *unit("query"),
        *unit("key"),
        node("Add", ["dt", "bias"], "biased"),
        *softplus("biased", "step"),
        node("Mul", ["a", "step"], "decay"),
        node("Sigmoid", ["b"], "beta"),
        own(
            "LinearAttention",
            ["query.unit", "key.unit", "value", "past", "decay", "beta"],
            rule="gated_delta",
            scale=0.25,
        ),
        node("Identity", ["out"], "y"),
    ]
    feeds = {
        **{name: normal(BATCH, LENGTH, heads // 2, keys) for name in ("query", "key")},
        "value": normal(BATCH, LENGTH, heads, values),
        **{name: normal(BATCH, LENGTH, heads) for name in ("dt", "b")},
        "past": normal(BATCH, heads, keys, values),
    }
    weights = {"bias": normal(heads), "a": -np.abs(normal(heads)), "last": ints(-1), "small": np.float32(1e-6)}
    return nodes, feeds, weights, "GatedDeltaRule"


def linear(rule: str, by_row: bool = False) -> Case:
    heads, keys, values = 4, 12, 16
    feeds = {
        "query": normal(BATCH, LENGTH, 2, keys),
        "key": normal(BATCH, LENGTH, 2, keys),
        "value": normal(BATCH, LENGTH, heads, values),
        "past": normal(BATCH, heads, keys, values),
    }
    feeds["key"] /= np.linalg.norm(feeds["key"], axis=-1, keepdims=True)
    inputs = [*feeds]
    if rule.startswith("gated"):
        feeds["decay"] = -np.abs(normal(BATCH, LENGTH, heads, *((keys,) if by_row else ())))
    if rule.endswith("delta"):
        feeds["beta"] = np.abs(normal(BATCH, LENGTH, heads)).clip(0, 1)
    inputs += ["decay" if "decay" in feeds else "", "beta"] if "beta" in feeds else [*feeds][4:]
    nodes = [own("LinearAttention", inputs, rule=rule, scale=0.3), node("Identity", ["out"], "y")]
    return nodes, feeds, {}, "LinearAttention"


def scan() -> Case:
    channels, states = 20, 5
    nodes = [
        *(node("Transpose", [name], f"{name}.columns", perm=[0, 2, 1]) for name in ("x", "b", "c", "z")),
        node("Unsqueeze", ["bias", "last"], "bias_column"),
        node("Add", ["dt", "bias_column"], "biased"),
        *softplus("biased", "step"),
        own("SelectiveScan", ["x.columns", "step", "a", "b.columns", "c.columns", "past"]),
        node("Unsqueeze", ["d", "last"], "d_column"),
        node("Mul", ["x.columns", "d_column"], "skipped"),
        node("Add", ["out", "skipped"], "sum"),
        node("Sigmoid", ["z.columns"], "sigmoid"),
        node("Mul", ["z.columns", "sigmoid"], "silu"),
        node("Mul", ["sum", "silu"], "gated"),
        node("Transpose", ["gated"], "y", perm=[0, 2, 1]),
    ]
    feeds = {
        **{name: normal(BATCH, LENGTH, channels) for name in ("x", "z")},
        "dt": normal(BATCH, channels, LENGTH),
        **{name: normal(BATCH, LENGTH, states) for name in ("b", "c")},
        "past": normal(BATCH, channels, states),
    }
    weights = {
        "a": -np.abs(normal(channels, states)),
        "d": normal(channels),
        "bias": normal(channels),
        "last": ints(-1),
    }
    return nodes, feeds, weights, "GatedSelectiveScan"


CASES = {
    "conv": conv(),
    "Mamba-2": mamba2(),
    "Gated DeltaNet": delta_rule(),
    "Mamba": scan(),
    "linear": linear("linear"),
    "gated": linear("gated"),
    "gated by row": linear("gated", by_row=True),
    "delta": linear("delta"),
    "gated delta": linear("gated_delta"),
}


def _model(name: str) -> tuple[ir.Model, Arrays]:
    nodes, feeds, weights, _ = CASES[name]
    out = {
        "conv": (BATCH, LENGTH, 6),
        "Mamba": (BATCH, LENGTH, 20),
    }.get(name, feeds.get("value", feeds.get("x", np.empty(0))).shape)
    weights = {**weights, "threshold": np.float32(20)}
    shapes = {key: value.shape for key, value in feeds.items()}
    return graph(nodes, shapes, {"y": out, "present": feeds["past"].shape}, weights), feeds


@pytest.mark.parametrize("kernels", ["onnxruntime", "edgekiln"])
@pytest.mark.parametrize("name", CASES)
def test_fused_recurrences_compute_their_definition(name: str, kernels: KernelsChoice) -> None:
    model, feeds = _model(name)
    expected = run_reference(model, feeds)
    FuseRecurrence()(model)
    assert CASES[name][3] in ops(model)
    assert not [each for each in model.graph if each.domain == canonical.DOMAIN]
    LowerRecurrence()(model)
    for got, want in zip(session(model, kernels).run(None, feeds), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("kernels", ["onnxruntime", "edgekiln"])
@pytest.mark.parametrize("before", [True, False], ids=["norm then gate", "gate then norm"])
def test_gated_norms_compute_their_definition(before: bool, kernels: KernelsChoice) -> None:
    silu = [node("Sigmoid", ["gate"], "sigmoid"), node("Mul", ["gate", "sigmoid"], "silu")]
    order = ("RMSNormalization", "Mul") if before else ("Mul", "RMSNormalization")
    inputs = {"RMSNormalization": "gamma", "Mul": "silu"}
    first = node(order[0], ["x", inputs[order[0]]], "middle", **({"epsilon": 1e-6} if before else {}))
    last = node(order[1], ["middle", inputs[order[1]]], "y", **({} if before else {"epsilon": 1e-6}))
    feeds = {"x": normal(3, 5, 40), "gate": normal(3, 5, 40)}
    shapes = {key: value.shape for key, value in feeds.items()}
    model = graph([*silu, first, last], shapes, {"y": (3, 5, 40)}, {"gamma": normal(40)})
    expected = run_reference(model, feeds)
    FuseGatedRMSNorm()(model)
    assert ops(model) == ["RMSNormThenGate" if before else "GateThenRMSNorm"]
    np.testing.assert_allclose(session(model, kernels).run(None, feeds)[0], expected[0], rtol=1e-4, atol=1e-5)
