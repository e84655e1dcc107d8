"""Read AutoRound checkpoints (Intel): integers in GPTQ's or AWQ's layout.

packing_format names the layout: "auto_round:auto_gptq" is GPTQ's, "auto_round" (its own) and "auto_round:gptqmodel" are
GPTQ's with zero points that are not stored minus 1, and "auto_round:auto_awq" is AWQ's.
"""

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel

from edgekiln.sources.quantized import awq, gptq
from edgekiln.sources.quantized.grid import QuantizedLayer, Tensors

_AWQ = ("auto_round:auto_awq", "auto_round:awq")
_MINUS_ONE = ("auto_round:auto_gptq", "auto_round:gptq")


class AutoRoundConfig(BaseModel):
    """The fields of a quantization_config that are read; a layer's bits and group size follow from its tensors."""

    quant_method: Literal["auto-round"]
    bits: Literal[4, 8] = 4
    sym: bool | None = None
    data_type: Literal["int"] = "int"
    act_bits: Literal[16, 32, None] = None
    packing_format: Literal[
        "auto_round",
        "auto_round:gptqmodel",
        "auto_round:auto_gptq",
        "auto_round:gptq",
        "auto_round:auto_awq",
        "auto_round:awq",
    ] = "auto_round:auto_gptq"


def find_layers(tensors: Tensors, names: Iterable[str], config: AutoRoundConfig) -> dict[str, QuantizedLayer]:
    """Find the quantized layers among the tensors `names`, as `gptq.find_layers` and `awq.find_layers` do."""
    if config.packing_format in _AWQ:
        return awq.find_layers(tensors, names, awq.AwqConfig(quant_method="awq", bits=4))
    version: Literal["gptq", "gptq_v2"] = "gptq" if config.packing_format in _MINUS_ONE else "gptq_v2"
    layout = gptq.GptqConfig(quant_method="gptq", bits=config.bits, sym=config.sym, checkpoint_format=version)
    return gptq.find_layers(tensors, names, layout)
