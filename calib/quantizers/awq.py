"""AWQ (Lin et al. 2023) through llm-compressor: scale salient input channels up before weights are rounded.

AWQ moves factors between layers and leaves rounding to another quantizer. Here the build then rounds to nearest, with
its own search for scales and zero points.
"""

from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from edgekiln.calib.analysis.layer_groups import Predecessor, find_layer_groups
from edgekiln.calib.data.loader import Windows
from edgekiln.calib.expert_linears import expert_linears
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.quantizers.calibration import Calibration
from edgekiln.calib.quantizers.llm_compressor import require_llm_compressor, run_oneshot
from edgekiln.progress import Progress


def quantize(calibration: Calibration) -> None:
    """Replace float weights by scaled ones; see `Quantizer`."""
    changed = awq(calibration.model, calibration.schemes(), calibration.windows, calibration.progress)
    calibration.replace_weights(floats=calibration.parameters(changed))


def awq(model: PreTrainedModel, schemes: dict[str, Scheme], windows: Windows, progress: Progress) -> list[str]:
    """Scale input channels of the linear layers in groups, in place; the model computes the same function.

    Args:
        model: in float32.
        schemes: linear layer to its scheme; layers with one scale per channel are skipped.
        windows: int64 [windows, length] calibration tokens.
        progress: called with the step and how much of it is done.

    Returns:
        The names of the modules of the model whose weights may have changed, without the embedding and the head.

    Raises:
        EdgekilnError: llm-compressor is not installed, or does not support the model.
    """
    require_llm_compressor("awq")
    grouped = {name: scheme for name, scheme in schemes.items() if scheme.group_size}
    if not grouped:
        return []
    run_oneshot(
        model,
        "awq",
        partial(_modifiers, _mappings(model, grouped)),
        grouped,
        windows,
        lambda done: progress("calibrating (awq)", done),
    )
    ends = {id(part.weight) for part in (model.get_input_embeddings(), model.get_output_embeddings()) if part}
    return [
        name
        for name, module in model.named_modules()
        if isinstance(weight := module._parameters.get("weight"), torch.Tensor) and id(weight) not in ends
    ]


def _mappings(model: PreTrainedModel, schemes: dict[str, Scheme]) -> list[tuple[str, list[str]]] | None:
    """Names of a layer whose outputs are divided and of the layers that are multiplied; None for the library's own.

    The library finds layers by patterns of names, which experts and routers do not match.
    """
    if not expert_linears(model):
        return None
    groups = [group for group in find_layer_groups(model, list(schemes)) if group.predecessor is not None]
    return [
        (group.predecessor.name, [*group.routers, *group.layers])  # the inputs of the first are observed
        for group in groups
        if group.predecessor is not None and _is_plain(model, group.predecessor)
    ]


def _is_plain(model: PreTrainedModel, predecessor: Predecessor) -> bool:
    """Whether the group reads each output channel of its predecessor once."""
    weight: Any = model.get_submodule(predecessor.name).weight
    return predecessor.channels.tolist() == list(range(len(weight)))


def _modifiers(mappings: list[tuple[str, list[str]]] | None, groups: dict[str, Any]) -> list[Any]:
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQMapping, AWQModifier

    given = None if mappings is None else [AWQMapping(first, others) for first, others in mappings]
    return [AWQModifier(mappings=given), QuantizationModifier(**groups)]
