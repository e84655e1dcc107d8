"""Fuse rotary embeddings whose cosines and sines have a factor, as those of YaRN and longrope, to RotaryEmbedding."""

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult
from onnxscript.rewriter import pattern

from edgekiln.export.passes.common.tensors import heads_of, values_of


class FuseScaledRotary(InPlacePass):
    """Fuse x · cos + rotate_half(x) · sin to RotaryEmbedding; onnxscript's rules take no factor of cos and sin.

    Matches cos = Cos(Concat(angles, angles)) · factor of [B, S, D], x of [B, H, S, D], and the halves of x as Slices.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        return PassResult(model, bool(_RULES.apply_to_model(model)))


class _Rule(pattern.RewriteRuleClassBase):
    """The op builders and values are onnxscript's."""

    def __init__(self) -> None:
        # Cosines and sines have other readers.
        super().__init__(name="ScaledRotary", remove_nodes=False)

    def pattern(self, op, x, angles, factor, axis, start1, end1, start2, end2):  # type: ignore[no-untyped-def]
        twice = op.Concat(angles, angles, axis=-1)
        cos, sin = (op.Unsqueeze(op.Mul(values, factor), axis) for values in (op.Cos(twice), op.Sin(twice)))
        first, second = op.Slice(x, start1, end1, [3], [1]), op.Slice(x, start2, end2, [3], [1])
        return op.Add(op.Mul(x, cos), op.Mul(op.Concat(op.Neg(second), first, axis=-1), sin))

    def check(self, op, x, factor, axis, start1, end1, start2, end2, **_):  # type: ignore[no-untyped-def]
        result = pattern.MatchResult()
        try:
            _heads, size = heads_of(x)
            bounds = [int(values_of(value).item()) for value in (axis, start1, end1, start2, end2)]
        except ValueError:
            return result.fail("a size or a bound is not static")
        if bounds[:4] != [1, 0, size // 2, size // 2] or bounds[4] < size:
            return result.fail("x is not cut into halves")
        if factor.shape is None or (len(factor.shape) and factor.shape[-1] != 1):
            return result.fail("the factor differs within a head")
        return result

    def rewrite(self, op, x, angles, factor, **_):  # type: ignore[no-untyped-def]
        cos, sin = op.Mul(op.Cos(angles), factor), op.Mul(op.Sin(angles), factor)
        heads, _size = heads_of(x)
        return op.RotaryEmbedding(x, cos, sin, interleaved=0, num_heads=heads)


_RULES = pattern.RewriteRuleSet([_Rule.rule()])
