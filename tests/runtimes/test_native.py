"""When edgekiln's own kernels are used, and when ONNX Runtime's."""

import numpy as np
import onnx
import pytest
from onnx import helper

from edgekiln import runtimes
from edgekiln.runtimes import native as native_module
from edgekiln.runtimes.native import STOCK, native_kernels

PROMPT = np.arange(150) % 259


@pytest.fixture
def stock_logits(engine):
    return runtimes.open(engine, native=False).score(PROMPT)


def test_they_are_used_where_they_are_built(engine, stock_logits):
    runtime = runtimes.open(engine)
    assert runtime.kernels in ("avx512", "avx2", "portable")
    logits = runtime.score(PROMPT)
    np.testing.assert_allclose(logits, stock_logits, atol=1e-4, rtol=0)
    assert not np.array_equal(logits, stock_logits), "the session took ONNX Runtime's kernel"


def test_they_are_not_used_on_request(engine):
    assert runtimes.open(engine, native=False).kernels == STOCK


@pytest.mark.parametrize("content", [None, b"not a library"])
def test_without_a_library_that_loads_the_stock_kernels_run(engine, stock_logits, tmp_path, monkeypatch, content):
    library = tmp_path / "libedgekiln_ops.so"
    if content is not None:
        library.write_bytes(content)
    monkeypatch.setattr(native_module, "LIBRARY", library)
    assert native_kernels() is None
    runtime = runtimes.open(engine)
    assert runtime.kernels == STOCK
    np.testing.assert_array_equal(runtime.score(PROMPT), stock_logits)


def test_a_graph_they_refuse_runs_on_the_stock_kernels(make_engine):
    directory = make_engine()
    for name in ("generate.onnx", "score.onnx"):
        model = onnx.load(directory / name)
        for node in model.graph.node:
            if node.op_type == "GroupQueryAttention":
                node.attribute.append(helper.make_attribute("smooth_softmax", 1))
        onnx.save(model, directory / name)
    runtime = runtimes.open(directory, verify=False)
    assert runtime.kernels == STOCK
    expected = runtimes.open(directory, native=False, verify=False).score(PROMPT)
    np.testing.assert_array_equal(runtime.score(PROMPT), expected)
