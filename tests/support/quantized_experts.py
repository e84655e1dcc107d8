"""Write tiny mixtures with quantized experts, and the weights that transformers makes of the dequantized ones."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from support.formats import Format, change_config, gptq, quantize
from support.models import save_checkpoint

SIZES = {"num_hidden_layers": 2, "moe_intermediate_size": 64, "intermediate_size": 64}
Write = Callable[[str, np.ndarray], tuple[dict[str, Any], np.ndarray]]


def of_format(form: Format) -> Write:
    return lambda _, weight: form.write(weight)


def write_experts(directory: Path, family: str, config: dict[str, Any], write: Write, **sizes: Any) -> dict[str, Any]:
    """Write a tiny random mixture whose experts are quantized.

    Args:
        directory: an empty directory for two checkpoints: `quantized`, and `floats` with the dequantized weights.
        family: of the model.
        config: quantization_config.
        write: converts name and values of an expert's matrix to its tensors and the weight that they dequantize to.
        sizes: change the configuration.

    Returns:
        The experts' tensors of transformers, loaded from `floats`, by name.
    """
    torch.manual_seed(0)
    save_checkpoint(directory / "floats", family, **{**SIZES, **sizes})
    shutil.copytree(directory / "floats", directory / "quantized")
    floats = load_file(directory / "floats/model.safetensors")
    quantized = dict(floats)
    for name in [name for name in floats if re.search(r"experts\.\d+\.\w+\.weight$", name)]:
        parts, values = write(name, quantized.pop(name).numpy())
        floats[name] = torch.from_numpy(np.array(values))
        for part, value in parts.items():
            stored = value if isinstance(value, torch.Tensor) else torch.from_numpy(np.array(value, order="C"))
            quantized[f"{name.removesuffix('weight')}{part}"] = stored.contiguous()
    save_file(floats, directory / "floats/model.safetensors", metadata={"format": "pt"})
    save_file(quantized, directory / "quantized/model.safetensors", metadata={"format": "pt"})
    change_config(directory / "quantized", **config)
    return loaded(directory / "floats")


def loaded(directory: Path) -> dict[str, np.ndarray]:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return {
        name: value.detach().numpy()
        for name, value in model.named_parameters()
        if value.dim() == 3 and ".experts." in name
    }


def edit(directory: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    file = directory / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def own_orders(name: str, weight: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """GPTQ with another order of columns in each expert: in groups of 32, of which those of expert 0 are in order."""
    number, down = int(re.findall(r"experts\.(\d+)", name)[0]), "down" in name
    # Gate and up projections see the same input.
    rng = np.random.default_rng([number, down])
    groups = np.arange(weight.shape[1]) // 32 if not number else rng.permutation(weight.shape[1]) // 32
    quantized = quantize(weight, 4, 32, False, groups)
    return gptq(quantized), quantized.weight


def write_gpt_oss(directory: Path) -> dict[str, np.ndarray]:
    """Write a tiny gpt-oss with experts in MXFP4; returns these as transformers dequantizes them."""
    save_checkpoint(directory, "gpt_oss", hidden_size=64, intermediate_size=96)
    expected = {}

    def change(tensors: dict[str, torch.Tensor]) -> None:
        rng = np.random.default_rng(0)
        for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
            experts, k, n = tensors.pop(name).shape
            blocks = torch.from_numpy(rng.integers(0, 256, (experts, n, k // 32, 16), dtype=np.uint8))
            scales = torch.from_numpy(rng.integers(118, 123, (experts, n, k // 32)).astype(np.uint8))
            tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
            expected[name] = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).numpy()

    edit(directory, change)
    change_config(directory, quant_method="mxfp4", modules_to_not_convert=["lm_head"])
    return expected
