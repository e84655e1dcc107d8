"""Swap a model's linear layers and embedding for ones that trace as quantized ops, before any weight is read.

`plan` decides each layer's scheme and swaps; `quantized_tensors` later reads and quantizes one layer at a time, so
that no float copy of the model ever stands in memory.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from edgekiln.calib.quantize import quantize
from edgekiln.calib.scheme import QuantizationOptions, Scheme, embedding_scheme, linear_scheme
from edgekiln.calib.weight import QuantizedWeight, pack_int4
from edgekiln.errors import SourceError, UnsupportedModelError
from edgekiln.export import canonical


class QuantizedWeightModule(torch.nn.Module):
    """Holds the quantized form of a weight [N, K]; parameters stand on the meta device until the graph is written."""

    qweight: torch.Tensor
    scales: torch.Tensor
    zero_points: torch.Tensor | None

    def __init__(self, rows: int, columns: int, scheme: Scheme) -> None:
        super().__init__()
        self.scheme = scheme
        self.columns = columns
        groups = (rows, columns // scheme.group_size) if scheme.group_size else (rows,)
        dtype = torch.uint8 if scheme.group_size else torch.int8
        self.qweight = _stand_in((rows, columns * scheme.bits // 8), dtype)
        self.scales = _stand_in(groups, torch.float32)
        self.zero_points = None if scheme.symmetric else _stand_in(groups, torch.uint8)

    def extra_repr(self) -> str:
        """Part of what tells one layer from another when the tracer looks for equal ones."""
        return str(self.scheme)


def _stand_in(shape: tuple[int, ...], dtype: torch.dtype) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"), requires_grad=False)


class QuantizedLinear(torch.nn.Module):
    """Linear layer that traces as `edgekiln::QuantizedMatMul`."""

    def __init__(self, weight: QuantizedWeightModule, bias: torch.nn.Parameter | None) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [..., K] to [..., N]."""
        y = canonical.quantized_matmul(
            x,
            self.weight.qweight,
            self.weight.scales,
            self.weight.zero_points,
            bits=self.weight.scheme.bits,
            group_size=self.weight.scheme.group_size or 0,
            activation=self.weight.scheme.activation,
        )
        return y if self.bias is None else y + self.bias


class QuantizedEmbedding(torch.nn.Module):
    """Embedding that traces as `edgekiln::QuantizedGather`."""

    embed_scale: torch.Tensor | None

    def __init__(self, weight: QuantizedWeightModule, embed_scale: torch.Tensor | None) -> None:
        super().__init__()
        self.weight = weight
        self.register_buffer("embed_scale", embed_scale, persistent=False)

    def forward(self, indices: torch.Tensor) -> torch.Tensor:
        """indices: int64 [...] to [..., K]."""
        assert self.weight.zero_points is not None
        rows = canonical.quantized_gather(
            indices,
            self.weight.qweight,
            self.weight.scales,
            self.weight.zero_points,
            bits=self.weight.scheme.bits,
            group_size=self.weight.scheme.group_size or 0,
            hidden_size=self.weight.columns,
        )
        return rows if self.embed_scale is None else rows * self.embed_scale


@dataclass
class LayerPlan:
    """One weight to quantize.

    Attributes:
        names: what the weight is called in the model, more than one when it is tied.
        scheme: what it is quantized to.
        transposed: the checkpoint stores it [K, N].
    """

    names: list[str]
    scheme: Scheme
    transposed: bool = False


@dataclass
class QuantizationPlan:
    """What `plan` decided; `notes` are sentences for the user."""

    layers: list[LayerPlan] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def plan(model: PreTrainedModel, options: QuantizationOptions) -> QuantizationPlan:
    """Swap the modules of a model without weights, in place; what cannot be quantized stays float and is noted."""
    result = QuantizationPlan()
    if options.quant == "none":
        return result
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = {module: name for name, module in model.named_modules(remove_duplicate=False)}
    tied = head is not None and getattr(head, "weight", None) is embedding.weight
    shared = _plan_embedding(model, names[embedding], embedding, options, result)
    for name, module in list(model.named_modules()):
        if not isinstance(module, torch.nn.Linear | Conv1D):
            continue
        rows, columns = _shape(module)
        is_head = module is head
        if is_head and tied and shared is not None:
            _swap(model, name, QuantizedLinear(shared, module.bias))
            result.layers[0].names.append(f"{name}.weight")
            continue
        try:
            scheme = (embedding_scheme if is_head else linear_scheme)(options, columns)
        except UnsupportedModelError:
            result.notes.append(f"{name} is {columns} wide, which no group size divides: left in floating point")
            continue
        assert scheme is not None
        if not is_head and scheme.group_size and scheme.group_size != options.group_size:
            result.notes.append(
                f"{name} is {columns} wide, which {options.group_size} does not divide: group size {scheme.group_size}"
            )
        weight = QuantizedWeightModule(rows, columns, scheme)
        _swap(model, name, QuantizedLinear(weight, module.bias))
        result.layers.append(LayerPlan([f"{name}.weight"], scheme, isinstance(module, Conv1D)))
    return result


def _plan_embedding(
    model: PreTrainedModel, name: str, module: torch.nn.Module, options: QuantizationOptions, result: QuantizationPlan
) -> QuantizedWeightModule | None:
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    rows, columns = weight.shape
    known = type(module) is torch.nn.Embedding or hasattr(module, "embed_scale")
    try:
        scheme = embedding_scheme(options, columns) if known else None
    except UnsupportedModelError:
        scheme = None
    if scheme is None:
        result.notes.append(f"{name} ({type(module).__name__}, {columns} wide) is left in floating point")
        return None
    quantized = QuantizedWeightModule(rows, columns, scheme)
    scale = getattr(module, "embed_scale", None)
    _swap(model, name, QuantizedEmbedding(quantized, None if scale is None else torch.as_tensor(scale)))
    result.layers.append(LayerPlan([f"{name}.weight"], scheme))
    return quantized


def _shape(module: torch.nn.Linear | Conv1D) -> tuple[int, int]:
    rows, columns = module.weight.shape
    return (columns, rows) if isinstance(module, Conv1D) else (rows, columns)


def _swap(model: PreTrainedModel, name: str, module: torch.nn.Module) -> None:
    owner, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(owner), attribute, module.eval())


def quantized_tensors(
    plan: QuantizationPlan, read: Callable[[str], torch.Tensor]
) -> Iterator[tuple[LayerPlan, QuantizedWeight, dict[str, npt.NDArray[np.generic]]]]:
    """Quantize layer after layer; yields the tensors by what they are appended to the weight's name in the graph.

    Args:
        plan: what `plan` returned.
        read: name in the model to weight, float [N, K] (or [K, N] where the layer plan says transposed).

    Raises:
        SourceError: a weight holds NaN or infinity; the message names it.
    """
    for layer in plan.layers:
        weight = read(layer.names[0]).float()
        try:
            quantized = quantize(weight.t().contiguous() if layer.transposed else weight, layer.scheme)
        except SourceError as error:
            raise SourceError(f"{layer.names[0]}: {error}") from error
        codes = pack_int4(quantized.codes) if layer.scheme.bits == 4 else quantized.codes
        tensors: dict[str, npt.NDArray[np.generic]] = {"qweight": codes, "scales": quantized.scales}
        if quantized.zero_points is not None:
            tensors["zero_points"] = quantized.zero_points
        yield layer, quantized, tensors
