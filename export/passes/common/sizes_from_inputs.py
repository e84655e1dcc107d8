"""Read sizes from the inputs of a graph instead of from the values inside it."""

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.export.passes.common.tensors import input_of


class SizesFromInputs(InPlacePass):
    """Let Shape nodes read the sizes of a graph input where it has the same ones.

    torch.export takes a size from any tensor that has it, often from one inside an early layer, which later layers
    would then depend on. A symbolic size has one name wherever it occurs.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite Shape nodes in place."""
        sources: dict[tuple[str | int, ...], tuple[ir.Value, int, int]] = {}
        for value in model.graph.inputs:
            sizes = _sizes(value)
            for start in range(len(sizes)):
                for end in range(start + 1, len(sizes) + 1):
                    sources.setdefault(sizes[start:end], (value, start, end))
        modified = False
        for node in model.graph:
            if node.op_type != "Shape" or node.domain or input_of(node, 0).is_graph_input():
                continue
            sizes = _sizes(input_of(node, 0))
            start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(sizes))
            source = sources.get(sizes[start:end])
            if source is None:
                continue
            node.replace_input_with(0, source[0])
            node.attributes["start"] = ir.AttrInt64("start", source[1])
            node.attributes["end"] = ir.AttrInt64("end", source[2])
            modified = True
        return PassResult(model, modified)


def _sizes(value: ir.Value) -> tuple[str | int, ...]:
    """The sizes of a value, symbolic ones by name; one without a name is like no other."""
    unknown = (
        (size.value or f"{value.name}.{axis}") if isinstance(size, ir.SymbolicDim) else size
        for axis, size in enumerate(value.shape or ())
    )
    return tuple(unknown)
