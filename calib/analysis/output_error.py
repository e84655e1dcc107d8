"""The error that quantization causes in a layer's output on calibration data."""

from collections.abc import Callable, Iterable

import torch
from transformers import PreTrainedModel

from edgekiln.calib.data.loader import Windows
from edgekiln.calib.expert_linears import EACH, expert_linears
from edgekiln.calib.formats.fake_quant import fake_quantize
from edgekiln.calib.formats.weight import QuantizedWeight
from edgekiln.calib.moe import ExpertWeight
from edgekiln.calib.quantization_plan import LayerPlan
from edgekiln.sources.base import ModelSource

# Tokens sampled from each layer's input. The relative error, a ratio of two sums over them, is steady to about 1%.
MAX_TOKENS = 256
# Of each expert of a layer, so that all of its experts together take little more memory than a dense layer.
_MAX_EXPERT_TOKENS = 16
_WINDOWS = 4


def measured_error(layer: LayerPlan, quantized: QuantizedWeight, source: ModelSource) -> float | None:
    """Output error of a layer on the inputs that calibration sampled; None if it sampled none.

    Raises:
        SourceError: the weight cannot be read.
    """
    if layer.experts is not None:
        return _experts_error(layer.experts, quantized, source)
    inputs = source.layer_inputs.get(layer.module)
    if inputs is None:
        return None
    weight = source.weights.read(layer.names[0])
    return output_error(inputs, weight.t() if layer.transposed else weight, quantized)


def _experts_error(experts: ExpertWeight, quantized: QuantizedWeight, source: ModelSource) -> float | None:
    """The error over all experts, each on the tokens that the router sent to it."""
    linears = f"{experts.name}{EACH}"
    found = [(expert, source.layer_inputs.get(f"{linears}.{expert}")) for expert in range(experts.experts)]
    sampled = {expert: inputs for expert, inputs in found if inputs is not None}
    if not sampled:
        return None
    weights = experts.of_each(source.weights.read(experts.name))
    values = torch.from_numpy(quantized.dequantize()).reshape(weights.shape)
    difference = energy = 0.0
    for expert, inputs in sampled.items():
        expected = inputs @ weights[expert].float().t()
        actual = fake_quantize(inputs, quantized) @ values[expert].t()
        difference += float((actual - expected).double().square().sum())
        energy += float(expected.double().square().sum())
    return difference / energy if energy else 0.0


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
        layers: module names, those of linear layers of experts too; see `expert_linears`. The head, and layers that do
            not run, are left out of the result.
        windows: int64 [windows, length] tokens.
        count: how many of the windows to use.

    Returns:
        Layer name to float [T, K] with T up to `MAX_TOKENS`. Layers that read the same tensor share one tensor.
    """
    used = windows[:count]
    experts = {f"{name}.{expert}" for name, each in expert_linears(model).items() for expert in range(len(each))}
    parts: dict[str, list[torch.Tensor]] = {}
    # Layers that read the same tensor run one after the other.
    last: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None)

    def observe(name: str) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            nonlocal last
            if arguments[0] is not last[0]:
                x = arguments[0].reshape(-1, arguments[0].shape[-1])
                most = max(1, (_MAX_EXPERT_TOKENS if name in experts else MAX_TOKENS) // len(used))
                places = torch.linspace(0, len(x) - 1, min(most, len(x))).long()
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
