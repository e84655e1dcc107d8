"""AWQ (Lin et al. 2023) through llm-compressor: scale salient input channels up before weights are rounded.

AWQ moves factors between layers and leaves rounding to another quantizer. Here the build then rounds to nearest, with
its own search for scales and zero points.
"""

from typing import Any

import torch
from transformers import PreTrainedModel

from edgekiln.calib.data.loader import Windows
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.quantizers.calibration import Calibration
from edgekiln.calib.quantizers.llm_compressor import require_llm_compressor, run_oneshot
from edgekiln.progress import Progress


def quantize(calibration: Calibration) -> None:
    """Replace float weights by scaled ones; see `Quantizer`."""
    scaled = awq(calibration.model, calibration.schemes(), calibration.windows, calibration.progress)
    calibration.replace_weights(floats=scaled)


def awq(
    model: PreTrainedModel, schemes: dict[str, Scheme], windows: Windows, progress: Progress
) -> dict[str, torch.Tensor]:
    """Scale input channels of the linear layers in groups, in place; the model computes the same function.

    Args:
        model: in float32.
        schemes: linear layer to its scheme; layers with one scale per channel are skipped.
        windows: int64 [windows, length] calibration tokens.
        progress: called with the step and how much of it is done.

    Returns:
        The weights and biases of the scaled model by name, without the embedding and the head.

    Raises:
        EdgekilnError: llm-compressor is not installed, or does not support the model.
    """
    require_llm_compressor("awq")
    grouped = {name: scheme for name, scheme in schemes.items() if scheme.group_size}
    if not grouped:
        return {}
    run_oneshot(
        model,
        "awq",
        _modifiers,
        grouped,
        windows,
        lambda done: progress("calibrating (awq)", done),
    )
    ends = {id(part.weight) for part in (model.get_input_embeddings(), model.get_output_embeddings()) if part}
    return {
        name: value.detach()
        for name, value in model.named_parameters()
        if name.rpartition(".")[2] in ("weight", "bias") and id(value) not in ends
    }


def _modifiers(groups: dict[str, Any]) -> list[Any]:
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier

    return [AWQModifier(), QuantizationModifier(**groups)]
