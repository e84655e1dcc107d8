"""Match the QKV prologue of an attention; see `edgekiln.export.functions.qkv_prologue`."""

import onnx_ir as ir

from edgekiln.export.functions.qkv_prologue import HEAD_NORM, QKVPrologue
from edgekiln.export.passes.common.tensors import inputs_of, is_weight, only_reader, shape_of


def match_qkv_prologue(attention: ir.Node) -> QKVPrologue | None:
    """The prologue of a GroupQueryAttention or RotaryAttention; None if its inputs are computed in another way.

    Cases:
        1. packed input: no prologue;
        2. packed input that is the Add of a bias [P]: the Add;
        3. query, key and value apart, from one Split, query and key through Reshape, SimplifiedLayerNormalization and
           Reshape: these nodes.
    """
    if all(value is not None for value in attention.inputs[:3]):
        return _normed(attention)
    (packed,) = inputs_of(attention, 1)
    add = packed.producer()
    if add is None or add.op_type != "Add" or not only_reader(packed):
        return QKVPrologue(packed)
    left, right = inputs_of(add, 2)
    for bias, projected in ((left, right), (right, left)):
        if is_weight(bias) and len(shape_of(bias)) == 1 and only_reader(projected):
            return QKVPrologue(projected, (add,), (bias,), biased=1)
    return QKVPrologue(packed)


def _normed(attention: ir.Node) -> QKVPrologue | None:
    query, key, value = inputs_of(attention, 3)
    split = value.producer()
    chains = [chain for part in (query, key) if (chain := _norm_of(part)) is not None]
    if split is None or split.op_type != "Split" or len(split.outputs) != 3 or len(chains) != 2:
        return None
    parts = [reshape.inputs[0] for reshape, _, _ in chains]
    (projected,) = inputs_of(split, 1)
    if list(split.outputs) != [*parts, value] or not all(map(only_reader, split.outputs)):
        return None
    gammas = [inputs_of(norm, 2)[1] for _, norm, _ in chains]
    epsilons = {norm.attributes["epsilon"].as_float() for _, norm, _ in chains}
    if not all(map(is_weight, gammas)) or len(epsilons) != 1 or not only_reader(projected):
        return None
    heads, kv_heads = (attention.attributes[name].as_int() for name in ("num_heads", "kv_num_heads"))
    (head_dim,) = shape_of(gammas[0])
    sizes = (heads * head_dim, kv_heads * head_dim, kv_heads * head_dim)
    if _split_sizes(split) != sizes or shape_of(gammas[1]) != (head_dim,):
        return None
    nodes = (split, *(node for chain in chains for node in chain))
    return QKVPrologue(projected, nodes, tuple(gammas), normed=1, head_epsilon=epsilons.pop(), split_sizes=sizes)


def _norm_of(flat: ir.Value) -> tuple[ir.Node, ir.Node, ir.Node] | None:
    """Reshape to heads, norm and Reshape back, the last of which produces `flat`; None for other nodes."""
    nodes: list[ir.Node] = []
    value: ir.Value | None = flat
    for op in ("Reshape", HEAD_NORM, "Reshape"):
        node = value.producer() if value is not None else None
        if value is None or node is None or node.op_type != op or not only_reader(value):
            return None
        nodes.append(node)
        value = node.inputs[0]
    back, norm, reshape = nodes
    return reshape, norm, back


def _split_sizes(split: ir.Node) -> tuple[int, ...]:
    """The sizes of a Split, from an initializer or a Constant; empty if they are computed."""
    sizes = split.inputs[1] if len(split.inputs) > 1 else None
    tensor = ir.convenience.get_const_tensor(sizes) if sizes is not None else None
    return () if tensor is None else tuple(tensor.numpy().tolist())
