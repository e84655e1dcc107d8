"""FP8, FP4, AutoRound and HQQ checkpoints give the weights that their libraries give."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressed_tensors.compressors.base import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import load_file, save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

from edgekiln.errors import EdgekilnError, SourceError, UnsupportedModelError
from edgekiln.sources.resolve import resolve
from support.formats import FORMATS, Format, change_config, quantize, write_quantized

LAYER = "model.layers.1.mlp.up_proj"
Written = tuple[dict[str, torch.Tensor], np.ndarray]
Weights = dict[str, np.ndarray]


def edit(directory: Path, change: Any) -> None:
    file = directory / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def check_read(directory: Path, weights: Weights, form: str) -> None:
    """Check that the weights are read as floats, with a note that names the format."""
    source = resolve(str(directory))
    assert source.notes == (
        f"engines have no {form}: {len(weights)} weights are dequantized, and quantized again as the preset says",
    )
    for name, expected in weights.items():
        assert source.weights.prequantized(name) is None
        np.testing.assert_allclose(source.weights.read(name).numpy(), expected, rtol=0, atol=0)


def check_kept(directory: Path, weights: Weights, bits: int, rtol: float = 0, atol: float = 0) -> None:
    """Check that the weights are kept in `bits` bits, without a note."""
    source = resolve(str(directory))
    assert source.notes == ()
    for name, expected in weights.items():
        found = source.weights.prequantized(name)
        assert found is not None
        assert found.scheme.bits == bits
        assert found.read().scheme == found.scheme
        np.testing.assert_allclose(found.read().dequantize(), expected, rtol=rtol, atol=atol)
        np.testing.assert_array_equal(source.weights.read(name).numpy(), found.read().dequantize())


def fp8(weight: np.ndarray, grid: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Written:
    """A weight in FP8 with a grid of scales, by transformers' dequantization."""
    scale = torch.rand(grid, generator=torch.Generator().manual_seed(1)).to(dtype)
    values = (torch.from_numpy(weight) * 100).to(torch.float8_e4m3fn)
    expected = Fp8Dequantize(None)._dequantize_one(values, scale.float().reshape(grid or (1, 1)), torch.float32)
    return {"weight": values, "weight_scale_inv": scale}, expected.numpy()


FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e8m0fnu], ids=str)
@pytest.mark.parametrize("grid", [(2, 4), (1, 1), (64, 1), ()], ids=str)
def test_fp8_is_dequantized_as_by_transformers(tmp_path: Path, grid: tuple[int, ...], dtype: torch.dtype) -> None:
    write = Format({**FP8, "weight_block_size": [32, 16] if len(grid) == 2 else None}, partial(fp8, grid=grid), 8)
    weights = write_quantized(tmp_path, write, intermediate_size=64, num_key_value_heads=4)
    check_read(tmp_path, weights, "FP8")


def test_fp8_blocks_that_the_edges_cut_off(tmp_path: Path) -> None:
    size = 48

    def write(weight: np.ndarray) -> Written:
        n, k = weight.shape
        grid = (-(-n // size), -(-k // size))
        whole = np.zeros((grid[0] * size, grid[1] * size), np.float32)
        whole[:n, :k] = weight
        parts, expected = fp8(whole, grid)
        return parts | {"weight": parts["weight"][:n, :k], "activation_scale": torch.ones(1)}, expected[:n, :k]

    form = Format({**FP8, "activation_scheme": "static", "weight_block_size": [size, size]}, write, 8)
    check_read(tmp_path, write_quantized(tmp_path, form), "FP8")


def test_fp4_beside_fp8_is_kept(tmp_path: Path) -> None:
    def write(weight: np.ndarray) -> Written:
        rng = np.random.default_rng(0)
        packed = torch.from_numpy(rng.integers(-128, 128, (len(weight), weight.shape[1] // 2), dtype=np.int8))
        exponents = rng.integers(120, 130, (len(weight), weight.shape[1] // 32)).astype(np.uint8)
        scale = torch.from_numpy(exponents).view(torch.float8_e8m0fnu)
        expected = Fp8Dequantize(None)._dequantize_one(packed, scale, torch.float32)
        return {"weight": packed, "weight_scale_inv": scale}, expected.numpy()

    weights = write_quantized(tmp_path, Format({**FP8, "weight_block_size": [128, 128]}, write, 4))
    check_kept(tmp_path, weights, 4)
    (other,) = resolve(str(tmp_path)).weights.prequantized(f"{LAYER}.weight").others
    assert "MXFP4 is kept exactly in 8 bits" in other.note


def test_fbgemm_scales_each_channel(tmp_path: Path) -> None:
    def write(weight: np.ndarray) -> Written:
        parts, expected = fp8(weight, (len(weight), 1))
        return {"weight": parts["weight"], "weight_scale": parts["weight_scale_inv"]}, expected

    check_read(tmp_path, write_quantized(tmp_path, Format({"quant_method": "fbgemm_fp8"}, write, 8)), "FP8")


def compressed(weight: np.ndarray, library: Any, scheme: QuantizationScheme, rows: int, columns: int) -> Written:
    """A weight as compressed-tensors stores it, with scales of blocks of `rows` by `columns`."""
    limit = 448.0 if scheme.weights.num_bits == 8 else 6.0
    blocks = weight.reshape(len(weight) // rows, rows, -1, columns)
    scale = torch.from_numpy(np.abs(blocks).max((1, 3))) / limit
    state = {"weight": torch.from_numpy(weight), "weight_scale": scale}
    if scheme.weights.strategy == "tensor_group":
        state["weight_global_scale"] = torch.tensor([448.0 * 6 / np.abs(weight).max()], dtype=torch.float32)
        state["weight_scale"] = (scale * state["weight_global_scale"]).to(torch.float8_e4m3fn).float()
    elif scheme.weights.scale_dtype == torch.uint8:
        state["weight_scale"] = torch.exp2(torch.ceil(torch.log2(scale)))
    parts = library.compress(state, scheme)
    return parts, library.decompress(dict(parts), scheme)["weight"].float().numpy()


@pytest.mark.parametrize(
    ("form", "arguments", "block", "kept"),
    [
        ("float-quantized", {"strategy": "tensor"}, None, "FP8"),
        ("float-quantized", {"strategy": "channel"}, (1, 64), "FP8"),
        ("float-quantized", {"strategy": "group", "group_size": 16}, (1, 16), "FP8"),
        ("float-quantized", {"strategy": "block", "block_structure": [32, 16]}, (32, 16), "FP8"),
        ("mxfp8-quantized", {"strategy": "group", "group_size": 32, "scale_dtype": torch.uint8}, (1, 32), "MXFP8"),
        ("mxfp4-pack-quantized", {"strategy": "group", "group_size": 32, "scale_dtype": torch.uint8}, (1, 32), None),
        (
            "nvfp4-pack-quantized",
            {"strategy": "tensor_group", "group_size": 16, "scale_dtype": torch.float8_e4m3fn},
            (1, 16),
            None,
        ),
    ],
    ids=lambda value: value["strategy"] if isinstance(value, dict) else str(value),
)
def test_floats_of_compressed_tensors_are_those_of_the_library(
    tmp_path: Path, form: str, arguments: dict[str, Any], block: tuple[int, int] | None, kept: str | None
) -> None:
    bits = 4 if "fp4" in form else 8
    args = QuantizationArgs(num_bits=bits, type="float", symmetric=True, **arguments)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    library = BaseCompressor.get_value_from_registry(form)

    def write(weight: np.ndarray) -> Written:
        rows, columns = block or weight.shape
        return compressed(weight, library, scheme, rows, columns if rows > 1 or columns < 64 else weight.shape[1])

    config = {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": args.model_dump(mode="json")}},
    }
    weights = write_quantized(tmp_path, Format(config, write, bits))
    if kept is None:
        # NVFP4's scale is a quotient, which the library rounds to its own type.
        check_kept(tmp_path, weights, 8 if "nvfp4" in form else 4, 1e-2 if "nvfp4" in form else 0)
    else:
        check_read(tmp_path, weights, kept)


@pytest.mark.slow
@pytest.mark.llm_compressor  # which installs AutoRound
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    "packing", ["auto_round", "auto_round:gptqmodel", "auto_round:auto_gptq", "auto_round:auto_awq"]
)
def test_auto_round_by_its_own_packer(tmp_path: Path, packing: str, bits: int, symmetric: bool) -> None:
    from auto_round.export.export_to_autoround.export import dynamic_import_quant_linear_for_packing

    if bits == 8 and "awq" in packing:
        pytest.skip("AWQ has 4 bits")
    backend = {"auto_round:auto_gptq": "auto_round:gptq"}.get(packing, packing)
    kind = dynamic_import_quant_linear_for_packing(backend, bits, 32, symmetric)

    def write(weight: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        quantized = quantize(weight, bits, 32, symmetric)
        n, k = weight.shape
        linear = torch.nn.Linear(k, n, bias=False)
        linear.weight.data = torch.from_numpy(quantized.weight)
        scales, zeros = torch.from_numpy(quantized.scales), torch.from_numpy(quantized.zeros).float()
        if "awq" in packing:
            layer = kind.from_linear(linear, bits, 32, scales=scales.t(), zeros=zeros.t(), device="cpu")
        else:
            layer = kind(bits, 32, k, n, False)
            layer.device = "cpu"
            layer.pack(linear, scales, zeros, device="cpu")
        names = ("qweight", "qzeros", "scales", "g_idx")
        return {part: value for part, value in layer.state_dict().items() if part in names}, quantized.weight

    config = {"quant_method": "auto-round", "bits": bits, "group_size": 32, "sym": symmetric, "packing_format": packing}
    check_kept(tmp_path, write_quantized(tmp_path, Format(config, write, bits)), bits, 1e-6, 1e-7)


def hqq(weight: np.ndarray, bits: int, group_size: int, axis: int) -> Written:
    """A weight as HQQLinear.state_dict gives it, without its optimization of the zero points.

    The codes of all rows are divided into 8 / bits parts; the first part is in the upper bits.
    """
    groups = weight.reshape(-1, group_size) if axis else weight.reshape(group_size, -1)
    low, high = groups.min(axis, keepdims=True), groups.max(axis, keepdims=True)
    scale = ((high - low) / ((1 << bits) - 1)).astype(np.float16).astype(np.float32)
    zero = (-low / scale).astype(np.float16).astype(np.float32)
    codes = np.clip(np.rint(groups / scale + zero), 0, (1 << bits) - 1).astype(np.uint8)
    parts = np.split(codes, 8 // bits)
    packed = np.zeros_like(parts[0])
    for number, part in enumerate(parts):
        packed |= part << (8 - bits * (number + 1))
    expected = ((codes - zero) * scale).reshape(weight.shape)
    numbers = {"nbits": bits, "group_size": group_size, "axis": axis}
    flags = {"view_as_float": 0, "offload_meta": 0, "encoded_state_dict": 1, "stores_quant_config": 1, "optimize": 1}
    flags |= {"channel_wise": 1, "round_zero": 0, "quant_scale": 0, "quant_zero": 0}
    texts = {"packing": f"{bits}bit_u8", "unpack_view_dtype": "torch.uint8", "compute_dtype": "torch.float16"}
    return {
        "W_q": torch.from_numpy(packed),
        "scale": torch.from_numpy(scale).half(),
        "zero": torch.from_numpy(zero).half(),
        "shape": torch.tensor(weight.shape),
        **{name: torch.tensor(value, dtype=torch.int32) for name, value in numbers.items()},
        **{name: torch.tensor(value, dtype=torch.uint8) for name, value in flags.items()},
        **{name: torch.tensor([ord(char) for char in text], dtype=torch.uint8) for name, text in texts.items()},
    }, expected


HQQ = {"quant_method": "hqq", "quant_config": {}, "skip_modules": ["lm_head"]}


@pytest.mark.parametrize(("bits", "group_size"), [(8, 64), (4, 64), (4, 32), (2, 32), (1, 64)])
def test_hqq_groups_of_rows_are_kept(tmp_path: Path, bits: int, group_size: int) -> None:
    weights = write_quantized(tmp_path, Format(HQQ, partial(hqq, bits=bits, group_size=group_size, axis=1), bits))
    # Sums of float32 around the size of a group bias.
    check_kept(tmp_path, weights, 8 if bits == 8 else 4, 1e-5, 1e-6)


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
def test_hqq_groups_of_columns_are_read(tmp_path: Path, bits: int) -> None:
    weights = write_quantized(tmp_path, Format(HQQ, partial(hqq, bits=bits, group_size=64, axis=0), bits))
    check_read(tmp_path, weights, "HQQ groups along axis 0")


BLOCKS = Format({**FP8, "weight_block_size": [32, 32]}, lambda weight: fp8(weight, (len(weight) // 32, 2)), 8)
NAN = torch.full((128, 64), float("nan")).to(torch.float8_e4m3fn)


@pytest.mark.parametrize(
    ("form", "part", "value", "message"),
    [
        (BLOCKS, "weight_scale_inv", None, rf"{LAYER}.weight is damaged: it is F8_E4M3 and has no scales"),
        (BLOCKS, "weight_scale_inv", torch.ones(3, 2), r"scales have the shape \[3, 2\], which does not fit its shape"),
        (BLOCKS, "weight_scale_inv", torch.full((4, 2), float("inf")), "8 values that are NaN or infinite"),
        (BLOCKS, "weight", NAN, "a value is NaN or infinite"),
        (Format(HQQ, partial(hqq, bits=4, group_size=64, axis=1), 4), "zero", None, "it has no zero"),
        (Format(HQQ, partial(hqq, bits=4, group_size=64, axis=1), 4), "nbits", torch.tensor(3), "HQQ codes of 3 bits"),
        (Format(HQQ, partial(hqq, bits=4, group_size=64, axis=1), 4), "shape", torch.tensor([1, 2]), "do not fit each"),
        (Format(HQQ, partial(hqq, bits=4, group_size=64, axis=1), 4), "axis", torch.ones(2), "not one integer"),
    ],
)
def test_damage_is_named(tmp_path: Path, form: Format, part: str, value: torch.Tensor | None, message: str) -> None:
    write_quantized(tmp_path, form)

    def change(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[f"{LAYER}.{part}"]
        if value is not None:
            tensors[f"{LAYER}.{part}"] = value

    edit(tmp_path, change)
    with pytest.raises(EdgekilnError, match=message) as caught:
        resolve(str(tmp_path)).weights.read(f"{LAYER}.weight")
    assert "\n" not in str(caught.value)


def test_fp8_without_a_configuration_is_refused(tmp_path: Path) -> None:
    write_quantized(tmp_path, BLOCKS)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises((SourceError, UnsupportedModelError), match="F8_E4M3, which cannot be read yet"):
        resolve(str(tmp_path))


def test_fp8_of_compressed_tensors_without_scales_is_an_error(tmp_path: Path) -> None:
    write_quantized(tmp_path, BLOCKS)
    config = FORMATS["int8 weights"].config
    change_config(tmp_path, **{**config, "format": "float-quantized"})
    with pytest.raises(SourceError, match="floats of 8 or 4 bits and no weight_scale"):
        resolve(str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_type": "mx_fp"}, "data_type 'mx_fp'"),
        ({"bits": 2}, "bits 2"),
        ({"act_bits": 8}, "act_bits 8"),
        ({"packing_format": "mlx"}, "packing_format 'mlx'"),
    ],
)
def test_other_kinds_of_auto_round_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_quantized(tmp_path, FORMATS["gptq symmetric"])
    change_config(tmp_path, quant_method="intel/auto-round", **changes)
    with pytest.raises(UnsupportedModelError, match=f"quantized with auto-round and {message}"):
        resolve(str(tmp_path))


@pytest.mark.parametrize("method", ["quanto", "torchao", "aqlm", "eetq", "vptq", "bitnet", "higgs", "spqr", "modelopt"])
def test_other_methods_are_named(tmp_path: Path, method: str) -> None:
    write_quantized(tmp_path, FORMATS["gptq symmetric"])
    change_config(tmp_path, quant_method=method)
    with pytest.raises(UnsupportedModelError, match=f"quantized with {method}, which cannot be read yet"):
        resolve(str(tmp_path))
