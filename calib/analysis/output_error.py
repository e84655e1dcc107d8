"""The error that quantization causes in a layer's output on calibration data."""

from collections.abc import Callable, Iterable

import torch
from transformers import PreTrainedModel

from edgekiln.calib.data.loader import Windows
from edgekiln.calib.formats.fake_quant import fake_quantize
from edgekiln.calib.formats.weight import QuantizedWeight
from edgekiln.calib.quantization_plan import LayerPlan
from edgekiln.sources.base import ModelSource

# Tokens sampled from each layer's input. The relative error, a ratio of two sums over them, is steady to about 1%.
MAX_TOKENS = 256
_WINDOWS = 4


def measured_error(layer: LayerPlan, quantized: QuantizedWeight, source: ModelSource) -> float | None:
    """Output error of a layer on the inputs that calibration sampled; None if it sampled none.

    Raises:
        SourceError: the weight cannot be read.
    """
    inputs = source.layer_inputs.get(layer.module)
    if inputs is None:
        return None
    weight = source.weights.read(layer.names[0])
    return output_error(inputs, weight.t() if layer.transposed else weight, quantized)


def output_error(inputs: torch.Tensor, weight: torch.Tensor, quantized: QuantizedWeight) -> float:
    """Squared error of a layer's output relative to its squares, with activations quantized as at run time.

    Args:
        inputs: float [T, K], inputs of the layer.
        weight: float [N, K], the weight before quantization.
        quantized: the same weight after quantization.
    """
    inputs = inputs.float()
    expected = inputs @ weight.float().t()
    difference = fake_quantize(inputs, quantized) @ torch.from_numpy(quantized.dequantize()).t() - expected
    energy = float(expected.double().square().sum())
    return float(difference.double().square().sum()) / energy if energy else 0.0


@torch.no_grad()
def sample_inputs(
    model: PreTrainedModel, layers: Iterable[str], windows: Windows, count: int = _WINDOWS
) -> dict[str, torch.Tensor]:
    """Sample the inputs of linear layers on a few windows of calibration data.

    Args:
        model: any causal language model.
        layers: module names. The head, and layers that do not run, are left out of the result.
        windows: int64 [windows, length] tokens.
        count: how many of the windows to use.

    Returns:
        Layer name to float [T, K] with T up to `MAX_TOKENS`. Layers that read the same tensor share one tensor.
    """
    used = windows[:count]
    per_window = max(1, MAX_TOKENS // len(used))
    parts: dict[str, list[torch.Tensor]] = {}
    # Layers that read the same tensor run one after the other.
    last: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None)

    def observe(name: str) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            nonlocal last
            if arguments[0] is not last[0]:
                x = arguments[0].reshape(-1, arguments[0].shape[-1])
                places = torch.linspace(0, len(x) - 1, min(per_window, len(x))).long()
                last = (arguments[0], x[places].float())
            assert last[1] is not None
            parts.setdefault(name, []).append(last[1])

        return hook

    handles = [model.get_submodule(name).register_forward_pre_hook(observe(name)) for name in layers]
    try:
        for window in used:
            model.base_model(input_ids=torch.from_numpy(window)[None], use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    joined: dict[tuple[int, ...], torch.Tensor] = {}
    result = {}
    for name, samples in parts.items():
        key = tuple(id(sample) for sample in samples)
        if key not in joined:
            joined[key] = torch.cat(samples)
        result[name] = joined[key]
    return result
