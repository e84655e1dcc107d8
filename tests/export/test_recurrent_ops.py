"""The ops of layers with states: lowered for ONNX Runtime, they give what their definitions in numpy give."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper
from onnx_ir.passes import InPlacePass

from edgekiln.export import canonical
from edgekiln.export import recurrent_reference as reference
from edgekiln.export.passes.onnx.recurrence import LowerRecurrenceToOnnx
from edgekiln.export.passes.ort.recurrence import LowerRecurrence
from support.graphs import graph, run_ort, run_reference

BATCH, LENGTH = 2, 11
RNG = np.random.default_rng(0)
Arrays = dict[str, np.ndarray]


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def _conv(bias: bool, activation: str) -> tuple[Arrays, Arrays, dict[str, Any]]:
    weights = {"weight": normal(6, 4), **({"bias": normal(6)} if bias else {})}
    return {"x": normal(BATCH, 6, LENGTH), "past": normal(BATCH, 6, 3)}, weights, {"activation": activation}


def _linear(rule: str, groups: int, by_row: bool = False) -> tuple[Arrays, Arrays, dict[str, Any]]:
    heads, keys, values = 4, 8, 16
    feeds = {
        "query": normal(BATCH, LENGTH, groups, keys),
        "key": normal(BATCH, LENGTH, groups, keys),
        "value": normal(BATCH, LENGTH, heads, values),
        "past": normal(BATCH, heads, keys, values),
    }
    feeds["key"] /= np.linalg.norm(feeds["key"], axis=-1, keepdims=True)
    if rule.startswith("gated"):
        feeds["decay"] = -np.abs(normal(BATCH, LENGTH, heads, *((keys,) if by_row else ())))
    if rule.endswith("delta"):
        feeds["beta"] = 1 / (1 + np.exp(-normal(BATCH, LENGTH, heads)))
    return feeds, {}, {"rule": rule, "scale": 0.3}


def _scan() -> tuple[Arrays, Arrays, dict[str, Any]]:
    channels, states = 6, 5
    feeds = {
        "x": normal(BATCH, channels, LENGTH),
        "step": np.abs(normal(BATCH, channels, LENGTH)),
        "a": -np.abs(normal(channels, states)),
        "b": normal(BATCH, states, LENGTH),
        "c": normal(BATCH, states, LENGTH),
        "past": normal(BATCH, channels, states),
    }
    return feeds, {}, {}


def _wkv() -> tuple[Arrays, Arrays, dict[str, Any]]:
    past = normal(BATCH, 3, 6)
    past[:, 1] = np.abs(past[:, 1])
    past[1] = 0  # an empty state
    feeds = {"key": 30 * normal(BATCH, LENGTH, 6), "value": normal(BATCH, LENGTH, 6)}
    return {**feeds, "decay": np.abs(normal(6)), "bonus": normal(6), "past": past}, {}, {}


CASES: dict[str, tuple[str, list[str], tuple[Arrays, Arrays, dict[str, Any]]]] = {
    "conv": ("CausalConv", ["x", "weight", "past"], _conv(False, "none")),
    "conv with bias and silu": ("CausalConv", ["x", "weight", "past", "bias"], _conv(True, "silu")),
    "linear": ("LinearAttention", ["query", "key", "value", "past"], _linear("linear", 4)),
    "gated": ("LinearAttention", ["query", "key", "value", "past", "decay"], _linear("gated", 4)),
    "gated, shared keys": ("LinearAttention", ["query", "key", "value", "past", "decay"], _linear("gated", 2)),
    "gated by row": ("LinearAttention", ["query", "key", "value", "past", "decay"], _linear("gated", 4, True)),
    "delta": ("LinearAttention", ["query", "key", "value", "past", "", "beta"], _linear("delta", 4)),
    "gated delta": (
        "LinearAttention",
        ["query", "key", "value", "past", "decay", "beta"],
        _linear("gated_delta", 2),
    ),
    "gated delta by row": (
        "LinearAttention",
        ["query", "key", "value", "past", "decay", "beta"],
        _linear("gated_delta", 4, True),
    ),
    "selective scan": ("SelectiveScan", ["x", "step", "a", "b", "c", "past"], _scan()),
    "wkv": ("Wkv", ["key", "value", "decay", "bonus", "past"], _wkv()),
}
DEFINITIONS: Mapping[str, Callable[..., Any]] = {
    "CausalConv": reference.causal_conv,
    "LinearAttention": reference.linear_attention,
    "SelectiveScan": reference.selective_scan,
    "Wkv": reference.wkv,
}


def _graph(name: str) -> tuple[ir.Model, Arrays]:
    op, inputs, (feeds, weights, attributes) = CASES[name]
    arrays = {**feeds, **weights}
    out, state = DEFINITIONS[op](*(arrays.get(key) for key in inputs), **attributes)
    model = graph(
        [helper.make_node(op, inputs, ["out", "present"], domain=canonical.DOMAIN, **attributes)],
        {key: value.shape for key, value in feeds.items()},
        {"out": out.shape, "present": state.shape},
        weights,
    )
    return model, feeds


@pytest.mark.parametrize("lower", [LowerRecurrence(), LowerRecurrenceToOnnx(padded=True)], ids=["ort", "onnx"])
@pytest.mark.parametrize("name", CASES)
def test_lowered_ops_compute_their_definition(name: str, lower: InPlacePass) -> None:
    model, feeds = _graph(name)
    expected = run_reference(model, feeds)
    lower(model)
    for got, want in zip(run_ort(model, feeds), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_a_sequence_in_parts_has_the_results_of_the_whole(name: str) -> None:
    """The definitions alone: the state after some tokens is the past of the next ones."""
    op, inputs, (feeds, weights, attributes) = CASES[name]
    arrays = {**feeds, **weights}
    by_token = {"CausalConv": -1, "LinearAttention": 1, "SelectiveScan": -1, "Wkv": 1}[op]
    constant = {"past", "a", "decay", "bonus"} if op != "LinearAttention" else {"past"}

    def run(tokens: slice, past: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = {
            key: value
            if key in constant or key in weights
            else value.take(range(*tokens.indices(LENGTH)), axis=by_token)
            for key, value in arrays.items()
        }
        return DEFINITIONS[op](*({**parts, "past": past}.get(key) for key in inputs), **attributes)

    out, state = run(slice(0, LENGTH), arrays["past"])
    parts, past = [], arrays["past"]
    for start, end in ((0, 4), (4, 5), (5, LENGTH)):
        part, past = run(slice(start, end), past)
        parts.append(part)
    np.testing.assert_allclose(np.concatenate(parts, axis=by_token), out, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(past, state, rtol=1e-4, atol=1e-5)


def test_padding_is_zero() -> None:
    x, positions = normal(2, 4, 3), np.array([[0, 0, 0, 1], [5, 6, 7, 8]])
    masked = reference.mask_padding(x, positions)
    assert (masked[0, :2] == 0).all()
    np.testing.assert_array_equal(masked[0, 2:], x[0, 2:])
    np.testing.assert_array_equal(masked[1], x[1])


def test_lowered_padding_masks_compute_their_definition() -> None:
    x, position_ids = normal(2, 4, 3), np.array([[0, 0, 0, 1], [5, 6, 7, 8]])
    model = graph(
        [helper.make_node("MaskPadding", ["x", "position_ids"], ["out"], domain=canonical.DOMAIN)],
        {"x": ["B", "S", 3], "position_ids": ["B", "S"]},
        {"out": ["B", "S", 3]},
        {},
    )
    LowerRecurrenceToOnnx(padded=True)(model)
    (out,) = run_ort(model, {"x": x, "position_ids": position_ids})
    np.testing.assert_array_equal(out, reference.mask_padding(x, position_ids))
