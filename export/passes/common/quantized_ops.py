"""The inputs and attributes of the quantized canonical ops, read from a node."""

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from edgekiln.export import canonical
from edgekiln.export.passes.common.tensors import attribute, inputs_of, name_of, optional_input


@dataclass(frozen=True)
class QuantizedOp:
    """One quantized canonical op; see `edgekiln.export.canonical` for shapes and meaning.

    Attributes:
        node: the node.
        x: the activations, or the indices of a QuantizedGather.
        qweight, scales, zero_points, group_bias, input_scale: inputs; None where absent.
        bits, group_size, activation, codebook: attributes; an empty codebook is none.
    """

    node: ir.Node
    x: ir.Value
    qweight: ir.Value
    scales: ir.Value
    zero_points: ir.Value | None
    group_bias: ir.Value | None
    input_scale: ir.Value | None
    bits: int
    group_size: int
    activation: str
    codebook: str

    @property
    def name(self) -> str:
        """The name of its output, which names of new values derive from."""
        return name_of(self.node)


@dataclass(frozen=True)
class QuantizedExpertOp(QuantizedOp):
    """A QuantizedExpertMatMul, whose weight begins with an axis for the experts.

    Attributes:
        index: int64[T, k], the experts of each token.
    """

    index: ir.Value


def quantized_matmuls(model: ir.Model) -> Iterator[QuantizedOp]:
    """Every QuantizedMatMul of the graph, which may be replaced while iterating."""
    return _ops(model, "QuantizedMatMul")


def quantized_gathers(model: ir.Model) -> Iterator[QuantizedOp]:
    """Every QuantizedGather of the graph, which may be replaced while iterating."""
    return _ops(model, "QuantizedGather")


def quantized_expert_matmuls(model: ir.Model) -> Iterator[QuantizedExpertOp]:
    """Every QuantizedExpertMatMul of the graph, which may be replaced while iterating."""
    for node in list(model.graph):
        if (node.domain, node.op_type) == (canonical.DOMAIN, "QuantizedExpertMatMul"):
            x, index, qweight, scales = inputs_of(node, 4)
            yield QuantizedExpertOp(
                node,
                x,
                qweight,
                scales,
                zero_points=optional_input(node, 4),
                group_bias=optional_input(node, 5),
                input_scale=None,
                bits=int(attribute(node, "bits")),
                group_size=int(attribute(node, "group_size")),
                activation=str(attribute(node, "activation")),
                codebook=_codebook(node),
                index=index,
            )


def _ops(model: ir.Model, op: str) -> Iterator[QuantizedOp]:
    for node in list(model.graph):
        if (node.domain, node.op_type) == (canonical.DOMAIN, op):
            yield _read(node)


def _read(node: ir.Node) -> QuantizedOp:
    x, qweight, scales = inputs_of(node, 3)
    return QuantizedOp(
        node,
        x,
        qweight,
        scales,
        zero_points=optional_input(node, 3),
        group_bias=optional_input(node, 4),
        input_scale=optional_input(node, 5),
        bits=int(attribute(node, "bits")),
        group_size=int(attribute(node, "group_size")),
        activation=str(attribute(node, "activation")) if "activation" in node.attributes else "none",
        codebook=_codebook(node),
    )


def _codebook(node: ir.Node) -> str:
    return str(attribute(node, "codebook")) if "codebook" in node.attributes else ""
