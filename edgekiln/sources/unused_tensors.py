"""Tensors of a checkpoint that the model has no place for: an error where they change the result, else a note."""

import re
from collections.abc import Sequence
from pathlib import Path

from transformers import PretrainedConfig, PreTrainedModel

from edgekiln.errors import SourceError
from edgekiln.sources.weight_conversion import CheckpointTensors

# Scales, zero points and codes of quantized weights, as the known formats name them.
_QUANTIZED = re.compile(
    r"[._](weight_scale|weight_scale_inv|weight_scale_2|scale_weight|weight_zero_point|weight_packed|weight_shape|SCB|CB"
    r"|qweight|qzeros|scales|g_idx|weight_g_idx|input_scale|absmax|quant_map|quant_state\.\w+|nested_absmax|codebooks?"
    r"|codes|scales_and_zeros|blocks|W_q)$"
)
_BIAS = ".bias"
_LAYER = re.compile(r"\.(\d+)\.")


def check_unused(
    tensors: CheckpointTensors, unused: Sequence[str], model: PreTrainedModel, config: PretrainedConfig, where: Path
) -> None:
    """Refuse tensors without which the model computes something else than it was trained to compute.

    Args:
        tensors: the checkpoint.
        unused: names of its tensors that the model has no place for.
        model: the model.
        config: configuration of its text decoder.
        where: the checkpoint, for error messages.

    Raises:
        SourceError: one belongs to a quantized weight, is a bias, other than 0, of a module without a bias, or belongs
            to a decoder layer beyond those of the configuration.
    """
    modules = {name for name, _ in model.named_modules()}
    weights = set(model.state_dict())
    # Layers that predict further tokens follow those of the decoder; transformers has no place for them either.
    predicts_more = bool(getattr(config, "num_nextn_predict_layers", None))
    for name in unused:
        if _QUANTIZED.search(name):
            raise SourceError(
                f"{where} holds {name}, a part of a quantized weight that its config.json does not describe: "
                "download config.json again or give the unquantized checkpoint"
            )
        if (layer := _LAYER.search(name)) and not predicts_more:
            count = getattr(config, "num_hidden_layers", None)
            # Layers may lack tensors that the checkpoint has: those that share the keys and values of others.
            if isinstance(count, int) and int(layer[1]) >= count and _LAYER.sub(".0.", name, count=1) in weights:
                raise SourceError(
                    f"{where} holds {name} of a layer beyond the {count} of its configuration: "
                    "the two do not belong together"
                )
        owner = name.removesuffix(_BIAS)
        if owner != name and owner in modules and bool(tensors.read(name).count_nonzero()):
            raise SourceError(
                f"{where} holds {name}, and its configuration makes {owner} without a bias: correct config.json"
            )


def unused_notes(unused: Sequence[str], model: PreTrainedModel) -> list[str]:
    """A note on tensors that the model has no place for; its lines after the first name them."""
    where = f"in the checkpoint {'is' if len(unused) == 1 else 'are'} not part of {type(model).__name__}"
    if len(unused) < 2:
        return [f"{name} {where}" for name in unused]
    return ["\n".join([f"{len(unused)} tensors {where}", *unused])]
