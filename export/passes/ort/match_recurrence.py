"""Match the arithmetic around recurrences that `edgekiln.export.tracing.recurrent_functions` traces."""

from dataclasses import dataclass

import onnx_ir as ir

from edgekiln.export.passes.common.tensors import inputs_of, is_weight, only_reader, shape_of

_LARGEST = 3.4e38  # no limit
_COLUMNS = (0, 2, 1)  # perm of the Transpose between tokens and channels


@dataclass(frozen=True)
class Step:
    """A step size min(max(softplus(dt + bias), least), most).

    Attributes:
        dt: float [B, S, H], or [B, C, S].
        bias: float [H], an initializer.
        least, most: its limits.
    """

    dt: ir.Value
    bias: ir.Value
    least: float = 0.0
    most: float = _LARGEST

    @property
    def limited(self) -> bool:
        """Whether it has limits beyond those of softplus."""
        return self.least > 0 or self.most < _LARGEST


def producer_of(value: ir.Value | None, op: str) -> ir.Node | None:
    """The node that computes `value`, if it is a standard op of that name."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op and node.domain == "" else None


def other_factor(value: ir.Value | None, factor: ir.Value, op: str = "Mul") -> ir.Value | None:
    """x of value = x · factor; with another `op`, its other input."""
    node = producer_of(value, op)
    if node is None or factor not in node.inputs:
        return None
    left, right = inputs_of(node, 2)
    return right if left is factor else left


def vector(value: ir.Value | None) -> ir.Value | None:
    """The initializer float [H] that `value` is, or whose Unsqueeze it is."""
    if value is None:
        return None
    unsqueeze = producer_of(value, "Unsqueeze")
    found = unsqueeze.inputs[0] if unsqueeze is not None else value
    return found if found is not None and is_weight(found) and len(shape_of(found)) == 1 else None


def match_step(value: ir.Value | None) -> Step | None:
    """The step size that `value` is. torch.onnx computes softplus as Where(x > 20, x, Softplus(x))."""
    least, most = 0.0, _LARGEST
    if (clip := producer_of(value, "Clip")) is not None:
        limits = [_number(limit) for limit in (*clip.inputs[1:], None, None)[:2]]
        least, most = limits[0] or 0.0, _LARGEST if limits[1] is None else limits[1]
        if any(each is not None and not is_weight(each) for each in clip.inputs[1:]):
            return None
        value = clip.inputs[0]
    where = producer_of(value, "Where")
    if where is not None:
        value = where.inputs[2]
    softplus = producer_of(value, "Softplus")
    add = producer_of(softplus.inputs[0], "Add") if softplus is not None else None
    if add is None or (where is not None and where.inputs[1] is not add.outputs[0]):
        return None
    left, right = inputs_of(add, 2)
    for dt, bias in ((left, vector(right)), (right, vector(left))):
        if bias is not None:
            return Step(dt, bias, least, most)
    return None


def match_decay(value: ir.Value | None) -> tuple[Step, ir.Value, ir.Value] | None:
    """The step, its value and a [H] of value = step · a."""
    mul = producer_of(value, "Mul")
    if mul is None:
        return None
    left, right = inputs_of(mul, 2)
    for size, a in ((left, right), (right, left)):
        if (step := match_step(size)) is not None and a.shape is not None and len(a.shape) == 1:
            return step, size, a
    return None


def match_silu(value: ir.Value | None) -> ir.Value | None:
    """x of value = x · sigmoid(x)."""
    mul = producer_of(value, "Mul")
    if mul is None:
        return None
    left, right = inputs_of(mul, 2)
    for x, sigmoid in ((left, right), (right, left)):
        node = producer_of(sigmoid, "Sigmoid")
        if node is not None and node.inputs[0] is x:
            return x
    return None


def match_skip(out: ir.Value, x: ir.Value) -> tuple[ir.Node, ir.Value] | None:
    """The Add of out + x · d, which alone reads `out`, and d [H]."""
    add = only_reader(out)
    if add is None or add.op_type != "Add":
        return None
    d = vector(other_factor(other_factor(add.outputs[0], out, "Add"), x))
    return None if d is None else (add, d)


def match_l2_norm(value: ir.Value) -> tuple[ir.Value, float] | None:
    """x and epsilon of value = x / sqrt(sum(x²) + epsilon) over the last axis."""
    mul = producer_of(value, "Mul")
    for x, inverse in (mul.inputs, tuple(reversed(mul.inputs))) if mul is not None else ():
        root = producer_of(inverse, "Reciprocal")
        root = producer_of(root.inputs[0], "Sqrt") if root is not None else None
        add = producer_of(root.inputs[0], "Add") if root is not None else None
        if x is None or add is None:
            continue
        total, small = add.inputs
        reduced = producer_of(total, "ReduceSum")
        epsilon = _number(small)
        if reduced is not None and epsilon is not None and other_factor(reduced.inputs[0], x) is x:
            return x, epsilon
    return None


def match_inverse_rms(value: ir.Value | None, x: ir.Value) -> float | None:
    """Epsilon of value = 1 / sqrt(mean(x²) + epsilon), the mean over the last axis."""
    root = producer_of(value, "Reciprocal")
    root = producer_of(root.inputs[0], "Sqrt") if root is not None else None
    add = producer_of(root.inputs[0], "Add") if root is not None else None
    mean = producer_of(add.inputs[0], "ReduceMean") if add is not None else None
    if add is None or mean is None or len(mean.inputs) < 2 or _number(mean.inputs[1]) not in (-1, _last_axis(x)):
        return None
    square = producer_of(mean.inputs[0], "Pow")
    if square is None or square.inputs[0] is not x or _number(square.inputs[1]) != 2:
        return None
    return _number(add.inputs[1])


def _last_axis(x: ir.Value) -> int | None:
    return len(x.shape) - 1 if x.shape is not None else None


def tokens_first(value: ir.Value) -> ir.Value | None:
    """x [B, S, C] whose Transpose `value` [B, C, S] is."""
    transpose = producer_of(value, "Transpose")
    if transpose is None or tuple(transpose.attributes["perm"].as_ints()) != _COLUMNS:
        return None
    return transpose.inputs[0]


def _number(value: ir.Value | None) -> float | None:
    """The only value of an initializer or Constant."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return float(tensor.numpy().item()) if tensor is not None and tensor.size == 1 else None
