"""int8-static from calibration to engine: numpy reference, engine and TensorRT's Q/DQ graph agree."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edgekiln import runtimes
from edgekiln.calib.calibrate import calibrate
from edgekiln.calib.evaluation.hf_reference import load_model
from edgekiln.calib.presets import preset
from edgekiln.engine.reports import read_quantization
from edgekiln.export.passes.onnx.static_int8 import LowerStaticInt8ToQDQ
from edgekiln.pipeline.assemble import canonical_graph, write_engine
from edgekiln.pipeline.options import BuildOptions
from edgekiln.progress import StepTimer
from edgekiln.sources.resolve import resolve
from support.graphs import run_reference
from support.models import VOCABULARY, save_checkpoint

IDS = np.random.default_rng(0).integers(0, VOCABULARY, 20)


SLOW_FAMILIES = [pytest.param(family, marks=pytest.mark.slow) for family in ("qwen2", "gemma2", "phi3")]


@pytest.mark.parametrize("family", ["llama", "gpt2", *SLOW_FAMILIES])
def test_engine_graph_and_qdq_agree(tmp_path: Path, family: str) -> None:
    save_checkpoint(tmp_path / "model", family, **({"n_layer": 2} if family == "gpt2" else {"num_hidden_layers": 2}))
    windows = np.random.default_rng(1).integers(0, VOCABULARY, (4, 24))
    original = resolve(str(tmp_path / "model"))
    source, recipe = calibrate(original, preset("int8-static"), windows, lambda step, done: None)
    options = BuildOptions(quant="int8-static", recipe=recipe)
    engines = []
    for name in ("engine", "qdq"):
        canonical = canonical_graph(source, options)
        if name == "qdq":
            LowerStaticInt8ToQDQ()(canonical.graph)
        else:
            past = {
                value.name: np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)  # type: ignore[index, call-overload]
                for value in canonical.graph.graph.inputs[2:]
            }
            feeds = {"input_ids": IDS[None], "position_ids": np.arange(20)[None], **past}
            expected = run_reference(canonical.graph, feeds)[0][0, -1]  # type: ignore[arg-type]
        (tmp_path / name).mkdir()
        write_engine(canonical, source, tmp_path / name, options, StepTimer())
        engines.append(runtimes.open(tmp_path / name).score(IDS)[-1])
    with torch.no_grad():
        exact = load_model(original)(input_ids=torch.tensor(IDS)[None]).logits[0, -1].numpy()
    size = np.linalg.norm(exact)
    # A difference in the last bit before rounding can change an int8 code.
    assert np.linalg.norm(engines[0] - engines[1]) < 0.01 * size
    assert np.linalg.norm(engines[0] - expected) < 0.03 * size
    assert np.linalg.norm(expected - exact) < 0.15 * size
    layers = read_quantization(tmp_path / "engine").layers
    static = [layer for layer in layers.values() if layer.activation == "int8-static"]
    assert len(static) >= 8
    others = {name for name in layers if layers[name].activation != "int8-static"}
    assert others <= {"model.embed_tokens", "transformer.wte", "lm_head"}
    for layer in static:
        assert layer.input_scale is not None
        assert layer.input_scale > 0
        assert layer.input_clipped is not None
        assert 0 <= layer.input_clipped < 0.02
        assert layer.output_error is not None
        assert layer.output_error < 0.01
