"""Quantized weights as compressed-tensors stores them, and the configuration that says so.

Its codes are signed: an unsigned code or zero point of ours is theirs plus half the range. Whole numbers are packed
into 32-bit words along the inputs, zero points along the outputs, by the library's own functions.
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

_JOINED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
_PACKED, _PLAIN, _MIXED = "pack-quantized", "int-quantized", "mixed-precision"


def expressible(scheme: Scheme) -> bool:
    """Whether the format has the scheme: whole zero points, columns in order, activations as float or int8."""
    if scheme.group_bias or scheme.act_order or scheme.codebook:
        return False
    return (scheme.activation == "none") == (scheme.group_size is not None)


def stored_tensors(weight: QuantizedWeight) -> dict[str, torch.Tensor]:
    """A weight as the format's tensors, by what follows the module's name and a dot.

    Raises:
        ValueError: the format does not have its scheme.
    """
    scheme = weight.scheme
    if not expressible(scheme):
        raise ValueError(f"compressed-tensors does not have {scheme}")
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


def configuration(schemes: Mapping[str, Scheme], ignore: Iterable[str]) -> dict[str, Any]:
    """The quantization_config of config.json.

    Args:
        schemes: linear module to its scheme.
        ignore: linear modules that stay in floating point.
    """
    names: dict[Scheme, list[str]] = {}
    for name, scheme in schemes.items():
        names.setdefault(scheme, []).append(name)
    groups = {
        # One scheme for all is named by class, as readers expect it; else each module by its name.
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


def split_siblings(schemes: Mapping[str, Scheme]) -> list[str]:
    """Modules that servers join into one product though their schemes differ, as `owner.a/b/c`.

    Queries, keys and values are joined, and so are gate and up: all parts of such a product need one scheme.
    """
    found: dict[str, set[Scheme]] = {}
    for name, scheme in schemes.items():
        owner, _, kind = name.rpartition(".")
        for kinds in _JOINED:
            if kind in kinds:
                found.setdefault(f"{owner}.{'/'.join(kinds)}", set()).add(scheme)
    return [name for name, different in found.items() if len(different) > 1]
