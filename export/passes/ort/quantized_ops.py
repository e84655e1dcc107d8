"""Quantized canonical ops as ONNX Runtime's CPU kernels want them.

Cases:
    1. QuantizedMatMul in groups: MatMulNBits at accuracy level 4 (activations quantized to int8 a block inside);
    2. with offsets: a function of MatMulNBits and a small product, see `offset_function`;
    3. with a codebook: MatMulBnb4;
    4. QuantizedMatMul with int8 activations a token: a function around MatMulIntegerToFloat, see
       `per_token_int8_function`;
    5. with a static int8 input: MatMulIntegerToFloat on QuantizeLinear's codes. They are unsigned around 128, which
       gives what signed codes around 0 give; for those ONNX Runtime has no fast kernel on x86;
    6. QuantizedGather: GatherBlockQuantized over the same bytes, so that a tied head shares them.
"""

import numpy as np
import onnx_ir as ir

from edgekiln.export import canonical
from edgekiln.export.functions import define as ort_functions
from edgekiln.export.functions.group_bias_matmul import NAME as OFFSET_MATMUL
from edgekiln.export.functions.group_bias_matmul import group_bias_matmul_function
from edgekiln.export.functions.per_token_int8 import NAME as ROW_QUANTIZED_MATMUL
from edgekiln.export.functions.per_token_int8 import per_token_int8_function
from edgekiln.export.passes.common.tensors import (
    Array,
    attribute,
    constant,
    make,
    new_initializer,
    replace_node,
    shape_of,
    values_of,
)

MICROSOFT = "com.microsoft"
_BNB4_TYPES = {"nf4": 1}


def lower_quantized_ops(model: ir.Model) -> None:
    """Lower every quantized canonical op, in place."""
    static_codes: dict[tuple[ir.Value, float], ir.Value] = {}
    for node in list(model.graph):
        if node.domain != canonical.DOMAIN:
            continue
        if node.op_type == "QuantizedGather":
            _gather(model.graph, node)
        elif node.op_type == "QuantizedMatMul" and "codebook" in node.attributes and attribute(node, "codebook"):
            _matmul_bnb4(model.graph, node)
        elif node.op_type == "QuantizedMatMul" and int(attribute(node, "group_size")):
            _matmul_n_bits(model, node)
        elif node.op_type == "QuantizedMatMul" and attribute(node, "activation") == "int8-static":
            _static(model.graph, node, static_codes)
        elif node.op_type == "QuantizedMatMul":
            _per_token(model, node)


def _packed_zero_points(graph: ir.Graph, zero_points: ir.Value, bits: int) -> ir.Value:
    """Zero points as MatMulNBits packs them: 4-bit ones two a byte along the groups, low nibble first."""
    if bits == 8:
        return zero_points
    rows, groups = shape_of(zero_points)

    def pack() -> Array:
        values = np.pad(values_of(zero_points).astype(np.uint8, copy=False), ((0, 0), (0, groups % 2)))
        return values[:, 0::2] | (values[:, 1::2] << 4)

    return new_initializer(graph, f"{zero_points.name}.packed", (rows, (groups + 1) // 2), ir.DataType.UINT8, pack)


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if len(node.inputs) > index else None


def _matmul_n_bits(model: ir.Model, node: ir.Node) -> None:
    graph = model.graph
    x, qweight, scales = node.inputs[:3]
    assert x is not None
    assert qweight is not None
    assert scales is not None
    bits, group_size = int(attribute(node, "bits")), int(attribute(node, "group_size"))
    rows, groups = shape_of(scales)
    name = node.outputs[0].name or "matmul"
    blob = group_size * bits // 8
    # The same bytes in another shape: the writer stores bytes once, however many tensors they are.
    weight = new_initializer(
        graph,
        f"{qweight.name}.blocks",
        (rows, groups, blob),
        ir.DataType.UINT8,
        lambda: values_of(qweight).reshape(rows, groups, blob),
    )
    zero_points, offsets = _input(node, 3), _input(node, 4)
    inputs = [x, weight, scales]
    if zero_points is not None:
        inputs.append(_packed_zero_points(graph, zero_points, bits))
    numbers = {"K": groups * group_size, "N": rows, "bits": bits, "block_size": group_size}
    if offsets is not None:
        assert zero_points is None
        inputs.append(offsets)
        ort_functions.declare(model, group_bias_matmul_function())
        shape = _by_group(x, group_size)
        new = make(OFFSET_MATMUL, inputs, name + ".nbits", domain=ort_functions.DOMAIN, by_group=shape, **numbers)
    else:
        new = make("MatMulNBits", inputs, name + ".nbits", domain=MICROSOFT, accuracy_level=4, **numbers)
    replace_node(node, [new], [new.outputs[0]])


def _by_group(x: ir.Value, group_size: int) -> list[int]:
    """The shape that Reshape takes to split the last axis of `x` into groups."""
    assert x.shape is not None
    return [*[0] * (len(x.shape) - 1), -1, group_size]


def _matmul_bnb4(graph: ir.Graph, node: ir.Node) -> None:
    x, qweight, scales = node.inputs[:3]
    assert qweight is not None
    assert scales is not None
    rows, groups = shape_of(scales)
    group_size = int(attribute(node, "group_size"))
    size = rows * groups * group_size // 2

    def high_nibble_first() -> Array:
        codes = values_of(qweight).astype(np.uint8, copy=False).reshape(-1)
        return codes << 4 | codes >> 4

    weight = new_initializer(graph, f"{qweight.name}.bnb4", (size,), ir.DataType.UINT8, high_nibble_first)
    scale = new_initializer(
        graph, f"{scales.name}.flat", (rows * groups,), ir.DataType.FLOAT, lambda: values_of(scales).reshape(-1)
    )
    name = node.outputs[0].name or "matmul"
    new = make(
        "MatMulBnb4",
        [x, weight, scale],
        name + ".bnb4",
        domain=MICROSOFT,
        K=groups * group_size,
        N=rows,
        block_size=group_size,
        quant_type=_BNB4_TYPES[str(attribute(node, "codebook"))],
    )
    replace_node(node, [new], [new.outputs[0]])


def _per_token(model: ir.Model, node: ir.Node) -> None:
    x, qweight, scales = node.inputs[:3]
    assert qweight is not None
    rows, columns = shape_of(qweight)
    ort_functions.declare(model, per_token_int8_function())
    inputs = [x, transposed_codes(model.graph, qweight), scales]
    name = (node.outputs[0].name or "matmul") + ".int8"
    new = make(ROW_QUANTIZED_MATMUL, inputs, name, domain=ort_functions.DOMAIN, K=columns, N=rows)
    replace_node(node, [new], [new.outputs[0]])


def _static(graph: ir.Graph, node: ir.Node, static_codes: dict[tuple[ir.Value, float], ir.Value]) -> None:
    """Layers that read the same x with the same scale share its codes."""
    x, qweight, scales, _, _, unit = node.inputs
    assert x is not None
    assert qweight is not None
    assert unit is not None
    name = node.outputs[0].name or "matmul"
    zero = _middle(graph)
    key = (x, float(values_of(unit)))
    new: list[ir.Node] = []
    if key not in static_codes:
        new.append(make("QuantizeLinear", [x, unit, zero], f"{name}.codes"))
        static_codes[key] = new[-1].outputs[0]
    weight = transposed_codes(graph, qweight)
    inputs = [static_codes[key], weight, unit, scales, zero]
    product = make("MatMulIntegerToFloat", inputs, name + ".int8", domain=MICROSOFT)
    replace_node(node, [*new, product], [product.outputs[0]])


def _middle(graph: ir.Graph) -> ir.Value:
    """The code that unsigned int8 inputs have for 0."""
    return constant(graph, "row_zero_point", np.array(128, dtype=np.uint8))


def transposed_codes(graph: ir.Graph, qweight: ir.Value) -> ir.Value:
    """The int8 codes [N, K] of a weight as [K, N]."""
    rows, columns = shape_of(qweight)
    return new_initializer(
        graph, f"{qweight.name}.transposed", (columns, rows), ir.DataType.INT8, lambda: values_of(qweight).T
    )


def _gather(graph: ir.Graph, node: ir.Node) -> None:
    indices, qweight, scales = node.inputs[:3]
    zero_points, offsets = _input(node, 3), _input(node, 4)
    bits, group_size = int(attribute(node, "bits")), int(attribute(node, "group_size"))
    inputs = [qweight, indices, scales]
    if zero_points is not None:
        inputs.append(_packed_zero_points(graph, zero_points, bits))
    name = (node.outputs[0].name or "gather") + ".rows"
    new = make(
        "GatherBlockQuantized",
        inputs,
        name,
        domain=MICROSOFT,
        bits=bits,
        block_size=group_size,
        gather_axis=0,
        quantize_axis=1,
    )
    nodes = [new]
    if offsets is not None:
        shape = node.outputs[0].shape
        assert shape is not None
        new.outputs[0].shape = shape
        last = constant(graph, "last_axis", np.array([-1], dtype=np.int64))
        whole = constant(graph, f"rows.{len(shape)}", np.array([*[0] * (len(shape) - 1), -1], dtype=np.int64))
        by_group = _by_group(new.outputs[0], group_size)
        split = constant(graph, f"groups.{'.'.join(map(str, by_group))}", np.array(by_group, dtype=np.int64))
        parts = make("Reshape", [new.outputs[0], split], f"{name}.groups")
        added = make("Gather", [offsets, indices], f"{name}.offsets", axis=0)
        column = make("Unsqueeze", [added.outputs[0], last], f"{name}.offset_column")
        total = make("Add", [parts.outputs[0], column.outputs[0]], f"{name}.with_offsets")
        result = make("Reshape", [total.outputs[0], whole], f"{name}.whole")
        nodes += [parts, added, column, total, result]
    replace_node(node, nodes, [nodes[-1].outputs[0]])
