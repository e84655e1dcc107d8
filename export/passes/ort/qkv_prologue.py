"""Match the QKV prologue of an attention; see `edgekiln.export.functions.qkv_prologue`."""

import onnx_ir as ir

from edgekiln.export.functions.qkv_prologue import HEAD_NORM, QKVPrologue
from edgekiln.export.passes.common.tensors import inputs_of, is_weight, only_reader, shape_of

# Ops of the norm of each head, and of a norm over all heads.
_OF_HEADS, _JOINT = ("Reshape", HEAD_NORM, "Reshape"), (HEAD_NORM,)


def match_qkv_prologue(attention: ir.Node) -> QKVPrologue | None:
    """The prologue of a GroupQueryAttention or RotaryAttention; None if its inputs are computed in another way.

    Cases:
        1. packed input: no prologue;
        2. packed input that is the Add of a bias [P]: the Add;
        3. query, key and value apart, from one Split, query and key through Reshape, SimplifiedLayerNormalization and
           Reshape: these nodes;
        4. the same without the Reshapes: norms over all heads.
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
    chains = [chain for part in (query, key) if (chain := _chain(part, _OF_HEADS) or _chain(part, _JOINT))]
    if split is None or split.op_type != "Split" or len(split.outputs) != 3 or len(chains) != 2:
        return None
    joint = len(chains[0]) == len(_JOINT)
    parts = [chain[0].inputs[0] for chain in chains]
    (projected,) = inputs_of(split, 1)
    if list(split.outputs) != [*parts, value] or not all(map(only_reader, split.outputs)):
        return None
    norms = [next(node for node in chain if node.op_type == HEAD_NORM) for chain in chains]
    gammas = [inputs_of(norm, 2)[1] for norm in norms]
    epsilons = {norm.attributes["epsilon"].as_float() for norm in norms}
    if not all(map(is_weight, gammas)) or len(epsilons) != 1 or not only_reader(projected):
        return None
    heads, kv_heads = (attention.attributes[name].as_int() for name in ("num_heads", "kv_num_heads"))
    head_dim = shape_of(gammas[0])[-1] // (heads if joint else 1)
    sizes = (heads * head_dim, kv_heads * head_dim, kv_heads * head_dim)
    widths = [(size,) for size in sizes[:2]] if joint else [(head_dim,)] * 2
    if _split_sizes(split) != sizes or list(map(shape_of, gammas)) != widths or len(chains[0]) != len(chains[1]):
        return None
    nodes = (split, *(node for chain in chains for node in chain))
    return QKVPrologue(projected, nodes, tuple(gammas), 0, 1, int(joint), epsilons.pop(), sizes)


def _chain(end: ir.Value, ops: tuple[str, ...]) -> list[ir.Node] | None:
    """Nodes of these ops, each the only reader of the one before, of which the last one produces `end`."""
    nodes: list[ir.Node] = []
    value: ir.Value | None = end
    for op in reversed(ops):
        node = value.producer() if value is not None else None
        if value is None or node is None or node.op_type != op or not only_reader(value):
            return None
        nodes.append(node)
        value = node.inputs[0]
    return nodes[::-1]


def _split_sizes(split: ir.Node) -> tuple[int, ...]:
    """The sizes of a Split, from an initializer or a Constant; empty if they are computed."""
    sizes = split.inputs[1] if len(split.inputs) > 1 else None
    tensor = ir.convenience.get_const_tensor(sizes) if sizes is not None else None
    return () if tensor is None else tuple(tensor.numpy().tolist())
