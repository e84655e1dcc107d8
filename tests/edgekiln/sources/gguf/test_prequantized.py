"""Quantized GGUF weights keep their codes: compared with the file, and with the logits of an engine."""

from pathlib import Path

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Kind
from gguf.quants import quantize

from edgekiln.calib.presets import UNCALIBRATED, preset
from edgekiln.calib.quantization_plan import plan_quantization
from edgekiln.export.tracing.meta_model import build_meta_model
from edgekiln.runtimes.base import KernelsChoice
from edgekiln.sources.quantized.gguf_multiples import MULTIPLES
from edgekiln.sources.resolve import resolve
from support.gguf_files import LAYERS, gpt2, llama_tensors, write
from support.parity import Logits, all_logits, check


def quantized_llama(path: Path, kind: Kind, **extra: Kind) -> Path:
    """The random llama with smaller weights and every matrix in the format `kind`; `extra` overrides single tensors."""

    def prequantized(name: str, value: np.ndarray) -> object:
        chosen = extra.get(name.split(".")[-2], kind)
        if value.ndim != 2:
            return value
        if chosen == Kind.NVFP4:  # the gguf package only dequantizes it
            block, size = GGML_QUANT_SIZES[chosen]
            if value.shape[1] % block:
                return quantize(0.2 * value, Kind.Q8_0), Kind.Q8_0
            blocks = np.random.default_rng(value.shape).integers(
                0, 256, (*value.shape[:1], value.shape[1] // block, size)
            )
            blocks[..., :4] = 0x18 + blocks[..., :4] % 16  # scales of 1/32 to 1/8
            return blocks.astype(np.uint8).reshape(len(value), -1), chosen
        return quantize(0.2 * value, chosen), chosen

    return write(path, "llama", {name: prequantized(name, value) for name, value in llama_tensors()[1].items()})


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4"])
def test_quantized_weights_keep_their_codes(tmp_path: Path, kind: str) -> None:
    weights = resolve(str(quantized_llama(tmp_path / "m.gguf", Kind[kind]))).weights
    matrices = [name for name in weights.keys() if len(weights.shape(name)) == 2]  # noqa: SIM118
    assert len(matrices) == 7 * LAYERS + 1
    for name in [*matrices, "lm_head.weight"]:
        prequantized = weights.prequantized(name)
        assert prequantized is not None, name
        # transformers' layout, in which the rows of q and k are permuted for RoPE.
        np.testing.assert_allclose(prequantized.read().dequantize(), weights.read(name).numpy(), rtol=0, atol=1e-5)
    assert weights.prequantized("model.norm.weight") is None


def test_a_transposed_weight_keeps_its_codes(tmp_path: Path) -> None:
    weights = resolve(str(gpt2(tmp_path / "m.gguf", Kind.Q4_1))).weights
    for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"):
        prequantized = weights.prequantized(f"transformer.h.0.{name}.weight")
        assert prequantized is not None
        expected = weights.read(f"transformer.h.0.{name}.weight").numpy().T
        np.testing.assert_allclose(prequantized.read().dequantize(), expected, rtol=0, atol=1e-5)


_BUILT = [
    *(("Q4_1", "Q8_0"), ("Q5_0", "Q4_1"), ("NVFP4", "NVFP4"), ("Q4_1", "NVFP4")),
    *(("MXFP4", "Q8_0"), ("MXFP4", "MXFP4")),
]


@pytest.fixture(scope="module", params=_BUILT, ids="-".join)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Logits]:
    """Formats of the matrices and of the embedding, and the logits of an engine built from such a file."""
    kind, embedding = request.param
    directory = tmp_path_factory.mktemp("prequantized")
    source = resolve(str(quantized_llama(directory / "m.gguf", Kind[kind], token_embd=Kind[embedding])))
    return kind, embedding, all_logits(source, directory, preset("int4"))


def test_engine_has_the_codes_of_the_file(built: tuple[str, str, Logits], kernels: KernelsChoice) -> None:
    kind, embedding, logits = built
    check(logits, kernels)
    layers = logits.graph.quantization.layers
    assert all(layer.prequantized for layer in layers)
    assert layers[0].names == ["model.embed_tokens.weight", "lm_head.weight"]
    assert layers[0].scheme.bits == (4 if embedding.startswith("Q4") else 8)
    assert {layer.scheme.bits for layer in layers[1:]} == {4 if "4_" in kind or kind == "MXFP4" else 8}


def test_layers_with_int8_activations_are_quantized_again(tmp_path: Path) -> None:
    source = resolve(str(quantized_llama(tmp_path / "m.gguf", Kind.Q4_1)))
    plan = plan_quantization(build_meta_model(source.config), UNCALIBRATED, source.weights.prequantized)
    assert plan.layers[0].prequantized is not None, "the embedding is looked up"
    assert not any(layer.prequantized for layer in plan.layers[1:])
    assert {layer.scheme.activation for layer in plan.layers[1:]} == {"int8-per-token"}


def test_formats_that_are_quantized_again_are_noted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(MULTIPLES, Kind.NVFP4)
    source = resolve(str(quantized_llama(tmp_path / "m.gguf", Kind.Q4_0, attn_q=Kind.NVFP4)))
    plan = plan_quantization(build_meta_model(source.config), preset("int4"), source.weights.prequantized)
    (note,) = plan.notes
    assert note.startswith("NVFP4 has no counterpart")
    assert note.endswith(f"({LAYERS} weights)")
