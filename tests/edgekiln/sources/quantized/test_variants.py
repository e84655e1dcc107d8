"""Legal variants of GPTQ and compressed-tensors checkpoints give the weights that their libraries give."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressed_tensors.compressors.base import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.numpy import load_file, save_file

from edgekiln.sources.resolve import resolve
from support.formats import FORMATS, Format, change_config, gptq, integers, quantize, write_quantized

LAYER = "model.layers.1.mlp.up_proj"


def check(directory: Path, weights: dict[str, np.ndarray]) -> Any:
    """Check that a checkpoint is read as `weights`, and return its reader."""
    reader = resolve(str(directory)).weights
    for name, expected in weights.items():
        prequantized = reader.prequantized(name)
        assert prequantized is not None
        for form in (prequantized, *prequantized.others):
            np.testing.assert_allclose(form.read().dequantize(), expected, rtol=1e-6, atol=1e-7)
    return reader


def edit_tensors(directory: Path, change: Any) -> None:
    file = directory / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, file, metadata={"format": "pt"})


@pytest.mark.parametrize("sym", [None, True, False])
@pytest.mark.parametrize("name", ["gptq symmetric", "gptq asymmetric", "gptq act-order", "gptq v2"])
def test_gptq_is_dequantized_with_its_zero_points_whatever_sym_says(tmp_path: Path, name: str, sym: Any) -> None:
    weights = write_quantized(tmp_path, FORMATS[name])
    change_config(tmp_path, sym=sym)
    reader = check(tmp_path, weights)
    symmetric = reader.prequantized(f"{LAYER}.weight").scheme.symmetric
    assert symmetric == (name == "gptq symmetric" and sym is not False)


@pytest.mark.parametrize("indices", [False, True])
def test_gptq_with_bits_and_group_sizes_of_each_module(tmp_path: Path, indices: bool) -> None:
    shapes = iter([(8, 32), (4, 64), (8, -1)] * 10)

    def write(weight: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        bits, group_size = next(shapes)
        quantized = quantize(weight, bits, weight.shape[1] if group_size == -1 else group_size, False)
        return gptq(quantized, indices=indices), quantized.weight

    dynamic = {r"+:.*\\.up_proj": {"bits": 8, "group_size": 32}, r"-:.*lm_head": {}}
    config = {"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": not indices, "dynamic": dynamic}
    check(tmp_path, write_quantized(tmp_path, Format(config, write, 4)))


STRATEGIES = {"tensor": {}, "channel": {}, "group": {"group_size": 32}}


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("form", "bits"), [("pack-quantized", 4), ("pack-quantized", 8), ("int-quantized", 8)])
def test_compressed_tensors_are_those_of_the_library(
    tmp_path: Path, form: str, bits: int, strategy: str, symmetric: bool
) -> None:
    arguments = QuantizationArgs(num_bits=bits, symmetric=symmetric, strategy=strategy, **STRATEGIES[strategy])
    scheme = QuantizationScheme(targets=["Linear"], weights=arguments)
    library = BaseCompressor.get_value_from_registry(form)

    def write(weight: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        quantized = quantize(weight, bits, 32 if strategy == "group" else weight.shape[1], symmetric)
        rows = 1 if strategy == "tensor" else None
        state = {
            "weight": torch.from_numpy(weight),
            "weight_scale": torch.from_numpy(quantized.scales[:rows]),
            "weight_zero_point": torch.from_numpy(quantized.zeros[:rows] - (1 << bits - 1)).to(torch.int8),
        }
        if strategy == "tensor":
            state = {name: value.reshape(1) if name != "weight" else value for name, value in state.items()}
        compressed = library.compress(state, scheme)
        expected = library.decompress(compressed, scheme)["weight"].numpy()
        return {name: value.numpy() for name, value in compressed.items()}, expected

    groups = {"group_0": {"targets": ["re:.*_proj"], "weights": arguments.model_dump(mode="json")}}
    config = {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": ["lm_head", "re:.*embed.*"],
    }
    reader = check(tmp_path, write_quantized(tmp_path, Format(config, write, bits)))
    assert reader.prequantized(f"{LAYER}.weight").scheme.symmetric == symmetric


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_scalar_scales(tmp_path: Path, shape: tuple[int, ...]) -> None:
    def write(weight: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        quantized = quantize(weight, 8, weight.shape[1], True)
        quantized.scales[:] = quantized.scales.max()
        return integers(quantized) | {"weight_scale": quantized.scales[:1].reshape(shape)}, quantized.weight

    check(tmp_path, write_quantized(tmp_path, Format(FORMATS["int8 weights"].config, write, 8)))


def test_zero_points_of_zero_and_indices_of_minus_one_change_nothing(tmp_path: Path) -> None:
    weights = write_quantized(tmp_path / "int8", FORMATS["int8 weights"])
    edit_tensors(tmp_path / "int8", lambda all: all.update({f"{LAYER}.weight_zero_point": np.zeros((128, 1), np.int8)}))
    scheme = check(tmp_path / "int8", weights).prequantized(f"{LAYER}.weight").scheme
    assert (scheme.activation, scheme.symmetric) == ("int8-per-token", True)
    weights = write_quantized(tmp_path / "packed", FORMATS["packed symmetric"])
    edit_tensors(tmp_path / "packed", lambda all: all.update({f"{LAYER}.weight_g_idx": np.full(64, -1, np.int32)}))
    assert not check(tmp_path / "packed", weights).prequantized(f"{LAYER}.weight").scheme.act_order
