"""Graphs of one product of tokens with the weights of their experts, and inputs for them."""

from typing import Any

import numpy as np
import onnx_ir as ir

from edgekiln.calib.formats.scheme import Codebook, Scheme
from support.graphs import graph, node, quantized

EXPERTS, CHOSEN, N, K = 5, 3, 40, 96
PER_CHANNEL = Scheme(bits=8, group_size=None, symmetric=True, activation="int8-per-token")


def groups(bits: int, group_size: int = 32, symmetric: bool = False) -> Scheme:
    return Scheme(bits=bits, group_size=group_size, symmetric=symmetric, activation="none")


def indices(codebook: Codebook) -> Scheme:
    return Scheme(bits=4, group_size=32, symmetric=True, activation="none", codebook=codebook)


def weights(rng: np.random.Generator) -> np.ndarray:
    """Of all experts, float32 [E, N, K]; those of an expert are larger than those of the one before it."""
    values = rng.standard_normal((EXPERTS, N, K), dtype=np.float32)
    return values * (1 + np.arange(EXPERTS, dtype=np.float32)).reshape(-1, 1, 1)


def float_graph(weight: np.ndarray, slots: int) -> ir.Model:
    """ExpertMatMul of x float [T, slots, K]."""
    return _product("ExpertMatMul", {"w": weight}, slots)


def quantized_graph(
    weight: np.ndarray, scheme: Scheme, slots: int, group_bias: np.ndarray | None = None
) -> tuple[ir.Model, np.ndarray]:
    """QuantizedExpertMatMul of x float [T, slots, K], and the dequantized weight [E, N, K].

    Args:
        weight: float32 [E, N, K].
        scheme: of each expert.
        slots: 1 or CHOSEN.
        group_bias: float32 [E, N, groups], added to the dequantized weight.
    """
    parts = [quantized("w", of_expert, scheme) for of_expert in weight]
    tensors = {name: np.stack([part[name] for part, _ in parts]) for name in parts[0][0]}
    dequantized = np.stack([values for _, values in parts])
    if group_bias is not None:
        assert scheme.group_size
        tensors["w.group_bias"] = group_bias
        dequantized = dequantized + np.repeat(group_bias, scheme.group_size, axis=-1)
    names = [name if name in tensors else "" for name in ("w.qweight", "w.scales", "w.zero_points", "w.group_bias")]
    while not names[-1]:
        names.pop()
    attributes = {
        **{"bits": scheme.bits, "group_size": scheme.group_size or 0, "activation": scheme.activation},
        "codebook": scheme.codebook or "",
    }
    return _product("QuantizedExpertMatMul", tensors, slots, names, **attributes), dequantized


def _product(
    op: str, tensors: dict[str, np.ndarray], slots: int, names: list[str] | None = None, **attributes: Any
) -> ir.Model:
    nodes = [node(op, ["x", "ids", *(names or tensors)], "y", **attributes)]
    inputs = {"x": ["T", slots, K], "ids": ["T", CHOSEN]}
    return graph(nodes, inputs, {"y": ["T", CHOSEN, N]}, tensors)


def feeds(rng: np.random.Generator, tokens: int, slots: int) -> dict[str, np.ndarray]:
    """Random tokens, of which none chooses expert 0 and the first alone chooses expert 1."""
    ids = np.stack([2 + rng.permutation(EXPERTS - 2)[:CHOSEN] for _ in range(tokens)])
    ids[0, 1] = 1
    return {"x": rng.standard_normal((tokens, slots, K), dtype=np.float32), "ids": ids.astype(np.int64)}


def expected(inputs: dict[str, np.ndarray], weight: np.ndarray) -> np.ndarray:
    """The products [T, k, N] of `feeds` with weights [E, N, K], one by one."""
    x, ids = inputs["x"], inputs["ids"]
    return np.stack(
        [[weight[expert] @ x[t, slot % x.shape[1]] for slot, expert in enumerate(row)] for t, row in enumerate(ids)]
    )
