"""Swap a model's linear layers and embedding for ones that trace as quantized ops, before any weight is read.

`plan` decides each layer's scheme and swaps; `quantized_tensors` later reads and quantizes one layer at a time, so
that no float copy of the model ever stands in memory.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from edgekiln.calib.formats.prequantized import PrequantizedWeight
from edgekiln.calib.formats.quantize import quantize
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.formats.weight import QuantizedWeight, pack_int4
from edgekiln.calib.recipe import Recipe
from edgekiln.errors import SourceError, UnsupportedModelError
from edgekiln.export import canonical


class QuantizedWeightModule(torch.nn.Module):
    """Holds the quantized form of a weight [N, K]; parameters stand on the meta device until the graph is written."""

    qweight: torch.Tensor
    scales: torch.Tensor
    zero_points: torch.Tensor | None
    offsets: torch.Tensor | None
    order: torch.Tensor | None
    input_scale: torch.Tensor | None

    def __init__(self, rows: int, columns: int, scheme: Scheme) -> None:
        super().__init__()
        self.scheme = scheme
        self.columns = columns
        groups = (rows, columns // scheme.group_size) if scheme.group_size else (rows,)
        dtype = torch.uint8 if scheme.group_size else torch.int8
        self.qweight = _stand_in((rows, columns * scheme.bits // 8), dtype)
        self.scales = _stand_in(groups, torch.float32)
        self.zero_points = None if scheme.symmetric else _stand_in(groups, torch.uint8)
        self.offsets = _stand_in(groups, torch.float32) if scheme.offsets else None
        self.order = _stand_in((columns,), torch.int64) if scheme.ordered else None
        self.input_scale = _stand_in((), torch.float32) if scheme.activation == "int8-static" else None

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
        weight, scheme = self.weight, self.weight.scheme
        y = canonical.quantized_matmul(
            x if weight.order is None else canonical.reordered(x, weight.order),
            weight.qweight,
            weight.scales,
            weight.zero_points,
            weight.offsets,
            weight.input_scale,
            bits=scheme.bits,
            group_size=scheme.group_size or 0,
            activation=scheme.activation,
            codebook=scheme.codebook,
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
        rows = canonical.quantized_gather(
            indices,
            self.weight.qweight,
            self.weight.scales,
            self.weight.zero_points,
            self.weight.offsets,
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
        stored: the weight as it arrives; None where it has to be quantized.
    """

    names: list[str]
    scheme: Scheme
    transposed: bool = False
    stored: PrequantizedWeight | None = None

    @property
    def module(self) -> str:
        """The module that the weight belongs to, the first if it is tied."""
        return self.names[0].removesuffix(".weight")


@dataclass
class QuantizationPlan:
    """What `plan` decided; `notes` are sentences for the user."""

    layers: list[LayerPlan] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def plan(
    model: PreTrainedModel, recipe: Recipe, stored: Callable[[str], PrequantizedWeight | None] = lambda _name: None
) -> QuantizationPlan:
    """Swap the modules of a model without weights, in place; what cannot be quantized stays float and is noted.

    Args:
        model: the skeleton.
        recipe: what each layer gets.
        stored: weight name to the weight as it arrives, which keeps its scheme where that suits; None for a float one.

    Raises:
        RequestError: a pattern of the recipe matches no layer.
    """
    result = QuantizationPlan()
    recipe.check_names(quantizable(model))
    if recipe.default is None and not recipe.overrides:
        return result
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = {module: name for name, module in model.named_modules(remove_duplicate=False)}
    tied = head is not None and getattr(head, "weight", None) is embedding.weight
    shared = _plan_embedding(model, names[embedding], embedding, recipe, stored, result)
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
            scheme = recipe.scheme(name, columns, "head" if is_head else "linear")
        except UnsupportedModelError:
            result.notes.append(f"{name} is {columns} wide, which no group size divides: left in floating point")
            continue
        if scheme is None:
            continue
        arrived = stored(f"{name}.weight")
        kept = arrived.suiting(scheme) if arrived else None
        if kept is not None:
            scheme = kept.scheme
        elif not is_head and (spec := recipe.spec(name)) and scheme.group_size != spec.group_size:
            result.notes.append(
                f"{name} is {columns} wide, which {spec.group_size} does not divide: group size {scheme.group_size}"
            )
        weight = QuantizedWeightModule(rows, columns, scheme)
        _swap(model, name, QuantizedLinear(weight, module.bias))
        result.layers.append(LayerPlan([f"{name}.weight"], scheme, isinstance(module, Conv1D), kept))
    inexact = Counter(layer.stored.note for layer in result.layers if layer.stored and layer.stored.note)
    result.notes += [f"{note} ({count} weights)" for note, count in inexact.items()]
    return result


def quantizable(model: PreTrainedModel) -> list[str]:
    """Names of the modules that a recipe's patterns may match, each once: the embedding and all linear layers."""
    embedding = model.get_input_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if module is embedding or isinstance(module, torch.nn.Linear | Conv1D)
    ]


def _plan_embedding(
    model: PreTrainedModel,
    name: str,
    module: torch.nn.Module,
    recipe: Recipe,
    stored: Callable[[str], PrequantizedWeight | None],
    result: QuantizationPlan,
) -> QuantizedWeightModule | None:
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    rows, columns = weight.shape
    known = type(module) is torch.nn.Embedding or hasattr(module, "embed_scale")
    try:
        wanted = recipe.scheme(name, columns, "embedding")
        if wanted is None:
            return None
        scheme = wanted if known else None
    except UnsupportedModelError:
        scheme = None
    if scheme is None:
        result.notes.append(f"{name} ({type(module).__name__}, {columns} wide) is left in floating point")
        return None
    arrived = stored(f"{name}.weight")
    kept = arrived.suiting(scheme) if arrived else None
    # Rows are looked up from linear grids whose columns are in order.
    if kept is not None and (kept.scheme.codebook or kept.scheme.ordered):
        kept = None
    if kept is not None:
        scheme = kept.scheme
    quantized = QuantizedWeightModule(rows, columns, scheme)
    scale = getattr(module, "embed_scale", None)
    _swap(model, name, QuantizedEmbedding(quantized, None if scale is None else torch.as_tensor(scale)))
    result.layers.append(LayerPlan([f"{name}.weight"], scheme, stored=kept))
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
        quantized = layer.stored.read() if layer.stored else _quantize(layer, read(layer.names[0]).float())
        codes = pack_int4(quantized.codes) if layer.scheme.bits == 4 else quantized.codes
        tensors: dict[str, npt.NDArray[np.generic]] = {"qweight": codes, "scales": quantized.scales}
        for name in ("zero_points", "offsets", "order"):
            if (array := getattr(quantized, name)) is not None:
                tensors[name] = array
        if quantized.input_scale is not None:
            tensors["input_scale"] = np.array(quantized.input_scale, dtype=np.float32)
        yield layer, quantized, tensors


def _quantize(layer: LayerPlan, weight: torch.Tensor) -> QuantizedWeight:
    if layer.scheme.activation == "int8-static":
        raise ValueError(f"{layer.names[0]}: the scale of a static input comes from calibration, and there was none")
    try:
        return quantize(weight.t().contiguous() if layer.transposed else weight, layer.scheme)
    except SourceError as error:
        raise SourceError(f"{layer.names[0]}: {error}") from error
