"""Convert quantized weights to the compressed-tensors format, and write its quantization_config.

The format's codes and zero points are signed, edgekiln's unsigned: they differ by half the range of the codes. The
library's own functions pack codes into 32-bit words along the input channels, and zero points along the output
channels.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    QuantizationStatus,
    QuantizationStrategy,
)
from compressed_tensors.version import __version__ as VERSION

from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.formats.weight import QuantizedWeight

_FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
_PACKED, _PLAIN, _MIXED = "pack-quantized", "int-quantized", "mixed-precision"


def is_supported(scheme: Scheme) -> bool:
    """Whether compressed-tensors supports the scheme.

    It has no group biases, column orders or codebooks; activations are float with groups, and int8 with one scale per
    channel.
    """
    if scheme.group_bias or scheme.act_order or scheme.codebook:
        return False
    return (scheme.activation == "none") == (scheme.group_size is not None)


def checkpoint_tensors(weight: QuantizedWeight) -> dict[str, torch.Tensor]:
    """The tensors that hold a weight in the format, by their names within the module, such as "weight_packed".

    Raises:
        ValueError: the format does not support its scheme.
    """
    scheme = weight.scheme
    if not is_supported(scheme):
        raise ValueError(f"compressed-tensors does not support {scheme}")
    if scheme.group_size is None:
        tensors = {
            "weight": torch.from_numpy(weight.codes),
            "weight_scale": torch.from_numpy(weight.scales.reshape(-1, 1)),
        }
        if weight.input_scale is not None:
            tensors["input_scale"] = torch.tensor([weight.input_scale])
        return tensors
    tensors = {
        "weight_packed": pack_to_int32(_signed(weight.codes, scheme.bits), scheme.bits),
        "weight_scale": torch.from_numpy(weight.scales),
        "weight_shape": torch.tensor(weight.codes.shape),
    }
    if weight.zero_points is not None:
        zero_points = pack_to_int32(_signed(weight.zero_points, scheme.bits), scheme.bits, packed_dim=0)
        tensors["weight_zero_point"] = zero_points.contiguous()
    return tensors


def _signed(codes: Any, bits: int) -> torch.Tensor:
    return (torch.from_numpy(codes).to(torch.int16) - (1 << (bits - 1))).to(torch.int8)


def quantization_config(schemes: Mapping[str, Scheme], ignore: Iterable[str]) -> dict[str, Any]:
    """The `quantization_config` of config.json.

    Args:
        schemes: quantized linear module to its scheme.
        ignore: linear modules in floating point.
    """
    names: dict[Scheme, list[str]] = {}
    for name, scheme in schemes.items():
        names.setdefault(scheme, []).append(name)
    groups = {
        # By convention a single scheme targets the class Linear; several schemes target modules by name.
        f"group_{index}": _group(scheme, ["Linear"] if len(names) == 1 else targets)
        for index, (scheme, targets) in enumerate(names.items())
    }
    formats = {group.format for group in groups.values()}
    config = QuantizationConfig(
        config_groups=groups,
        format=formats.pop() if len(formats) == 1 else _MIXED,
        quantization_status=QuantizationStatus.COMPRESSED,
        ignore=sorted(ignore),
    )
    return {**config.model_dump(mode="json"), "version": VERSION}


def _group(scheme: Scheme, targets: list[str]) -> QuantizationScheme:
    channel = scheme.group_size is None
    weights = QuantizationArgs(
        num_bits=scheme.bits,
        symmetric=scheme.symmetric,
        strategy=QuantizationStrategy.CHANNEL if channel else QuantizationStrategy.GROUP,
        group_size=scheme.group_size,
    )
    static = scheme.activation == "int8-static"
    inputs = QuantizationArgs(
        num_bits=8,
        symmetric=True,
        strategy=QuantizationStrategy.TENSOR if static else QuantizationStrategy.TOKEN,
        dynamic=not static,
    )
    return QuantizationScheme(
        targets=targets,
        weights=weights,
        input_activations=inputs if channel else None,
        format=_PLAIN if channel else _PACKED,
    )


def fused_layers_with_mixed_schemes(schemes: Mapping[str, Scheme]) -> list[str]:
    """Layers that vLLM fuses into one matrix multiplication although their schemes differ, as `owner.a/b/c`.

    vLLM fuses the projections of queries, keys and values, and gate and up projections; fused layers need one scheme.
    """
    found: dict[str, set[Scheme]] = {}
    for name, scheme in schemes.items():
        owner, _, kind = name.rpartition(".")
        for kinds in _FUSED:
            if kind in kinds:
                found.setdefault(f"{owner}.{'/'.join(kinds)}", set()).add(scheme)
    return [name for name, different in found.items() if len(different) > 1]
