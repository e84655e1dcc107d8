"""What quantization does to a layer's output on calibration data."""

from collections.abc import Callable, Iterable

import torch
from transformers import PreTrainedModel

from edgekiln.calib.data.loader import Windows
from edgekiln.calib.formats.fake_quant import as_seen
from edgekiln.calib.formats.weight import QuantizedWeight
from edgekiln.calib.quantization_plan import LayerPlan
from edgekiln.sources.base import ModelSource

# Rows kept of what a layer reads: the error is a ratio of two sums over them, which 256 steady to a percent or so.
ROWS = 256
_WINDOWS = 4


def measured_error(layer: LayerPlan, quantized: QuantizedWeight, source: ModelSource) -> float | None:
    """Output error of a weight on what the source has seen its layer read; None where it has not.

    Raises:
        SourceError: the weight cannot be read.
    """
    inputs = source.layer_inputs.get(layer.module)
    if inputs is None:
        return None
    weight = source.weights.read(layer.names[0])
    return output_error(inputs, weight.t() if layer.transposed else weight, quantized)


def output_error(inputs: torch.Tensor, weight: torch.Tensor, quantized: QuantizedWeight) -> float:
    """Squared error of a layer's output over its squares, activations treated as at run time.

    Args:
        inputs: float [T, K], what the layer reads.
        weight: float [N, K], what was quantized.
        quantized: what came of it.
    """
    inputs = inputs.float()
    expected = inputs @ weight.float().t()
    difference = as_seen(inputs, quantized) @ torch.from_numpy(quantized.dequantize()).t() - expected
    energy = float(expected.double().square().sum())
    return float(difference.double().square().sum()) / energy if energy else 0.0


@torch.no_grad()
def sample_inputs(
    model: PreTrainedModel, layers: Iterable[str], windows: Windows, count: int = _WINDOWS
) -> dict[str, torch.Tensor]:
    """What the named layers read on a few windows: float [up to ROWS, K] each, one tensor for those that read the same.

    Args:
        model: any causal language model.
        layers: names of its modules; one that does not run, and the head, are left out.
        windows: int64 [windows, length] tokens.
        count: how many of the windows to use.
    """
    used = windows[:count]
    each = max(1, ROWS // len(used))
    parts: dict[str, list[torch.Tensor]] = {}
    # Readers of one tensor run one after the other.
    last: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None)

    def watch(name: str) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            nonlocal last
            if arguments[0] is not last[0]:
                rows = arguments[0].reshape(-1, arguments[0].shape[-1])
                places = torch.linspace(0, len(rows) - 1, min(each, len(rows))).long()
                last = (arguments[0], rows[places].float())
            assert last[1] is not None
            parts.setdefault(name, []).append(last[1])

        return hook

    handles = [model.get_submodule(name).register_forward_pre_hook(watch(name)) for name in layers]
    try:
        for window in used:
            model.base_model(input_ids=torch.from_numpy(window)[None], use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    joined: dict[tuple[int, ...], torch.Tensor] = {}
    result = {}
    for name, rows in parts.items():
        key = tuple(id(part) for part in rows)
        if key not in joined:
            joined[key] = torch.cat(rows)
        result[name] = joined[key]
    return result
