"""Bytes of weights that a decode step reads, against counts by hand."""

import os
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgekiln.export.step_weights import step_weight_bytes
from edgekiln.export.weights_file import WeightsFile
from support.graphs import graph, node

RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, dtype=np.float32)


def decoder(**weights: np.ndarray) -> ir.Model:
    """An embedding, a layer and an LM head of the given weights."""
    nodes = [
        node("Gather", ["embedding", "ids"], "x"),
        node("MatMul", ["x", "layer"], "y"),
        node("MatMul", ["y", "head"], "logits"),
    ]
    return graph(nodes, {"ids": [1]}, {"logits": [1, 50]}, weights)


def test_rows_of_the_embedding_do_not_count() -> None:
    model = decoder(embedding=floats(50, 8), layer=floats(8, 8), head=floats(8, 50))
    assert step_weight_bytes(model, halves=False) == 4 * (8 * 8 + 8 * 50)


@pytest.mark.parametrize(("halves", "size"), [(False, 4), (True, 2)])
def test_values_of_float16_take_half_where_kernels_hold_them_so(halves: bool, size: int) -> None:
    layer = floats(8, 8).astype(np.float16).astype(np.float32)
    model = decoder(embedding=floats(50, 8), layer=layer, head=floats(8, 50))
    assert step_weight_bytes(model, halves) == size * 8 * 8 + 4 * 8 * 50


def test_weights_that_are_stored_once_count_once(tmp_path: Path) -> None:
    layer = floats(30, 30)
    nodes = [node("MatMul", ["x", "first"], "y"), node("MatMul", ["y", "second"], "z")]
    model = graph(nodes, {"x": [1, 30]}, {"z": [1, 30]}, {"first": layer, "second": layer.copy()})
    assert step_weight_bytes(model, halves=False) == 2 * layer.nbytes
    with WeightsFile(tmp_path, "weights.bin") as file:
        file.store(model)
    assert step_weight_bytes(model, halves=False) == layer.nbytes


@pytest.mark.skipif(sys.platform != "linux", reason="counts files by /proc")
def test_the_weights_file_is_closed(tmp_path: Path) -> None:
    model = decoder(embedding=floats(50, 30), layer=floats(30, 30), head=floats(30, 50))
    with WeightsFile(tmp_path, "weights.bin") as file:
        file.store(model)
    assert step_weight_bytes(model, halves=True) == 4 * (30 * 30 + 30 * 50)
    opened = [os.path.realpath(file) for file in Path("/proc/self/fd").iterdir()]
    assert str(tmp_path / "weights.bin") not in opened


@pytest.mark.parametrize(("chosen", "share"), [(2, 2 / 8), ("K", 1)], ids=["known", "not known"])
def test_chosen_experts_only(chosen: int | str, share: float) -> None:
    codes, scales = RNG.integers(0, 256, (8, 16, 2, 16), np.uint8), floats(8, 16, 2)
    nodes = [node("ExpertMatMulNBits", ["x", "ids", "codes", "scales"], "y")]
    inputs = {"x": ["T", 1, 64], "ids": ["T", chosen]}
    model = graph(nodes, inputs, {"y": ["T", chosen, 16]}, {"codes": codes, "scales": scales})
    assert step_weight_bytes(model, halves=False) == share * (codes.nbytes + scales.nbytes)


def test_a_two_pass_head_reads_high_nibbles() -> None:
    codes, scales = RNG.integers(0, 256, (64, 2, 32), np.uint8), floats(64, 2)
    nodes = [node("TwoPassMatMulNBits", ["x", "codes", "scales"], "y")]
    model = graph(nodes, {"x": [1, 64]}, {"y": [1, 64]}, {"codes": codes, "scales": scales})
    assert step_weight_bytes(model, halves=False) == codes.nbytes // 2 + scales.nbytes
