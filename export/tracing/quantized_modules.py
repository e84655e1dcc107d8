"""Modules that trace as quantized ops, and the swap that puts them in place of a model's layers.

Their parameters stay on the meta device: a trace needs shapes and types only.
"""

import torch
from transformers import PreTrainedModel

from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.quantization_plan import QuantizationPlan, weight_shape
from edgekiln.export import canonical


class QuantizedParameters(torch.nn.Module):
    """The tensors of a quantized weight [N, K], shared by the embedding and the head when they are tied.

    Those of a weight that all experts of a layer have begin with an axis for the experts.
    """

    qweight: torch.Tensor
    scales: torch.Tensor
    zero_points: torch.Tensor | None
    group_bias: torch.Tensor | None
    order: torch.Tensor | None
    input_scale: torch.Tensor | None

    def __init__(self, n: int, k: int, scheme: Scheme, experts: int | None = None) -> None:
        super().__init__()
        self.scheme = scheme
        self.k = k
        rows = (n,) if experts is None else (experts, n)
        groups = (*rows, k // scheme.group_size) if scheme.group_size else rows
        dtype = torch.uint8 if scheme.group_size else torch.int8
        self.qweight = _meta_parameter((*rows, k * scheme.bits // 8), dtype)
        self.scales = _meta_parameter(groups, torch.float32)
        self.zero_points = None if scheme.symmetric else _meta_parameter(groups, torch.uint8)
        self.group_bias = _meta_parameter(groups, torch.float32) if scheme.group_bias else None
        orders = (k,) if experts is None else (experts, k)
        self.order = _meta_parameter(orders, torch.int64) if scheme.act_order else None
        self.input_scale = _meta_parameter((), torch.float32) if scheme.activation == "int8-static" else None

    @property
    def device(self) -> torch.device:
        """As of a weight, for models that move their input to it."""
        return self.qweight.device

    @property
    def dtype(self) -> torch.dtype:
        """The type that modules convert activations to."""
        return self.scales.dtype

    def __matmul__(self, x: torch.Tensor) -> torch.Tensor:
        """The weight times columns [..., K, S], which Mamba computes without calling the layer: [..., N, S]."""
        return QuantizedLinear(self, None)(x.transpose(-1, -2)).transpose(-1, -2)

    def of_experts(self, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Each token times the weights of its experts; see `canonical.quantized_expert_matmul`."""
        return canonical.quantized_expert_matmul(
            x if self.order is None else canonical.reordered_for_experts(x, index, self.order),
            index,
            self.qweight,
            self.scales,
            self.zero_points,
            self.group_bias,
            bits=self.scheme.bits,
            group_size=self.scheme.group_size or 0,
            activation=self.scheme.activation,
            codebook=self.scheme.codebook,
        )

    def extra_repr(self) -> str:
        """The scheme, so that layer deduplication distinguishes layers of different schemes."""
        return str(self.scheme)


def _meta_parameter(shape: tuple[int, ...], dtype: torch.dtype) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"), requires_grad=False)


class QuantizedLinear(torch.nn.Module):
    """Linear layer that traces as `edgekiln::QuantizedMatMul`."""

    def __init__(self, weight: QuantizedParameters, bias: torch.nn.Parameter | None) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: float [..., K] to float [..., N]."""
        weight, scheme = self.weight, self.weight.scheme
        y = canonical.quantized_matmul(
            x if weight.order is None else canonical.reordered(x, weight.order),
            weight.qweight,
            weight.scales,
            weight.zero_points,
            weight.group_bias,
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

    def __init__(self, weight: QuantizedParameters, embed_scale: torch.Tensor | None) -> None:
        super().__init__()
        self.weight = weight
        self.register_buffer("embed_scale", embed_scale, persistent=False)

    def forward(self, indices: torch.Tensor) -> torch.Tensor:
        """indices: int64 [...] to float [..., K]."""
        embeddings = canonical.quantized_gather(
            indices,
            self.weight.qweight,
            self.weight.scales,
            self.weight.zero_points,
            self.weight.group_bias,
            bits=self.weight.scheme.bits,
            group_size=self.weight.scheme.group_size or 0,
            hidden_size=self.weight.k,
        )
        return embeddings if self.embed_scale is None else embeddings * self.embed_scale


def swap_quantized_modules(model: PreTrainedModel, quantization: QuantizationPlan) -> None:
    """Replace every planned layer of `model` by QuantizedLinear or QuantizedEmbedding, in place.

    Args:
        model: the meta model that `quantization` was made for.
        quantization: layers and their schemes; the names of a tied layer share one QuantizedParameters.
    """
    embedding = model.get_input_embeddings()
    for layer in quantization.layers:
        if layer.experts is not None:
            each = layer.experts
            owner, _, attribute = each.name.rpartition(".")
            module = model.get_submodule(owner)
            delattr(module, attribute)  # torch refuses a module in place of a parameter
            setattr(module, attribute, QuantizedParameters(each.n, each.k, layer.scheme, each.experts))
            continue
        parameters: QuantizedParameters | None = None
        for name in (name.removesuffix(".weight") for name in layer.names):
            module = model.get_submodule(name)
            parameters = parameters or QuantizedParameters(*weight_shape(module), layer.scheme)
            swapped: torch.nn.Module
            if module is embedding:
                scale = getattr(module, "embed_scale", None)
                swapped = QuantizedEmbedding(parameters, None if scale is None else torch.as_tensor(scale))
            else:
                swapped = QuantizedLinear(parameters, module.bias)  # type: ignore[arg-type]
            owner, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(owner), attribute, swapped.eval())
