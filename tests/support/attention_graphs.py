"""Canonical graphs of one Attention with sinks, ALiBi or chunks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from support.graphs import graph, node

HEADS, KV_HEADS, HEAD_DIM = 4, 2, 16
FEATURES: list[dict[str, Any]] = [
    {"sinks": True},
    {"slopes": True},
    {"chunk": 3},
    {"sinks": True, "window": 3, "softcap": 2.0},
    {"sinks": True, "slopes": True, "chunk": 4, "bfloat16_alibi": 1},
]


def attention_graph(starts: Sequence[int], *, sinks: bool = False, slopes: bool = False, **attributes: Any) -> ir.Model:
    """A canonical graph of one Attention of inputs [B, S, heads · D].

    Args:
        starts: first slot that is not padding, of each sequence, or one for all.
        sinks, slopes: with random ones.
        attributes: of the op, beyond scale 0.25.
    """
    weights = {"start": np.array(starts), "shape": np.array([0, 0, -1, HEAD_DIM])}
    rng = np.random.default_rng(1)
    optional = []
    for name, wanted in (("sinks", sinks), ("slopes", slopes)):
        if wanted:
            weights[name] = rng.standard_normal(HEADS).astype(np.float32)
        optional.append(name if wanted else "")
    nodes = []
    inputs: dict[str, list[int | str]] = {"input_ids": ["B", "S"], "position_ids": ["B", "S"]}
    cache: dict[str, list[int | str]] = {f"past.0.{kind}": ["B", KV_HEADS, "P", HEAD_DIM] for kind in ("key", "value")}
    for part, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
        inputs[f"{part}_in"] = ["B", "S", heads * HEAD_DIM]
        nodes += [
            node("Reshape", [f"{part}_in", "shape"], f"{part}_split"),
            node("Transpose", [f"{part}_split"], part, perm=[0, 2, 1, 3]),
        ]
    values: dict[str, Any] = {"scale": 0.25, "window": 0, "softcap": 0.0, **attributes}
    names = ["q", "k", "v", *cache, "start", *optional]
    while not names[-1]:
        names.pop()
    nodes.append(node("Attention", names, ["out", "present.0.key", "present.0.value"], **values))
    present: list[int | str] = ["B", KV_HEADS, "T", HEAD_DIM]
    outputs = {"out": ["B", "S", HEADS, HEAD_DIM], "present.0.key": present, "present.0.value": present}
    heads = {part: ["B", HEADS if part == "q" else KV_HEADS, "S", HEAD_DIM] for part in "qkv"}
    return graph(nodes, {**inputs, **cache}, outputs, weights, heads)


def new_tokens(rng: np.random.Generator, batch: int, length: int) -> dict[str, np.ndarray]:
    """Random queries, keys and values of new tokens."""
    widths = {"q": HEADS, "k": KV_HEADS, "v": KV_HEADS}
    return {
        f"{part}_in": rng.standard_normal((batch, length, heads * HEAD_DIM), dtype=np.float32)
        for part, heads in widths.items()
    }


def cached(rng: np.random.Generator, batch: int, slots: int) -> dict[str, np.ndarray]:
    """Random keys and values of earlier tokens."""
    shape = (batch, KV_HEADS, slots, HEAD_DIM)
    return {f"past.0.{kind}": rng.standard_normal(shape, dtype=np.float32) for kind in ("key", "value")}
