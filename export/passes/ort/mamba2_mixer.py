"""Fuse the convolution, scan, gate and norm of a Mamba-2 layer into one call between its projections."""

from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult, common

from edgekiln.export.functions import mamba2_mixer, recurrence
from edgekiln.export.functions.define import DOMAIN, add_function
from edgekiln.export.functions.gated_rms_norm import GATE_THEN_NORM
from edgekiln.export.passes.common.tensors import (
    attribute,
    graph_of,
    input_of,
    inputs_of,
    make,
    move_uses,
    name_of,
    only_reader,
    size_of,
)
from edgekiln.export.passes.ort.match_recurrence import match_silu, other_factor, producer_of


class FuseMamba2Mixer(InPlacePass):
    """Fuse what FuseRecurrence and FuseGatedRMSNorm made of a layer.

    Its Splits and Reshapes, which copy, go with it: the kernels read the parts of the projection in place. Cases:
        1. Mamba2Scan of a CausalConv, and GateThenRMSNorm: Mamba2MixerNorm;
        2. the same with a gate only: Mamba2Mixer.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        modified = False
        for node in list(model.graph):
            if node.op_type == recurrence.MAMBA2_SCAN and node.domain == DOMAIN and (mixer := _match(node)):
                _fuse(model, mixer)
                modified = True
        common.RemoveUnusedNodesPass()(model)
        return PassResult(model, modified)


@dataclass(frozen=True)
class _Mixer:
    """A layer; `norm` is None where it has a gate only, and `last` computes its output."""

    split: ir.Node
    conv: ir.Node
    scan: ir.Node
    norm: ir.Node | None
    last: ir.Node


def _match(scan: ir.Node) -> _Mixer | None:
    x, dt, _, b, c = inputs_of(scan, 5)
    views = [producer_of(value, "Reshape") for value in (x, b, c)]
    parts = [view.inputs[0] if view is not None else None for view in views]
    channels = _three_parts(parts[0])
    conv = channels.inputs[0].producer() if channels is not None and channels.inputs[0] is not None else None
    if channels is None or parts != list(channels.outputs):
        return None
    if conv is None or conv.op_type != recurrence.CAUSAL_CONV or attribute(conv, "activation") != "silu":
        return None
    split = _three_parts(conv.inputs[0])
    if split is None or split.outputs[1] is not conv.inputs[0] or split.outputs[2] is not dt:
        return None
    gated = _match_gate(scan.outputs[0], split.outputs[0])
    return _Mixer(split, conv, scan, *gated) if gated is not None else None


def _match_gate(read: ir.Value, gate: ir.Value) -> tuple[ir.Node | None, ir.Node] | None:
    """The norm, if there is one, and the last node of norm(x · silu(gate)), x being the Reshape of `read`."""
    view = only_reader(read)
    last = only_reader(view.outputs[0]) if view is not None and view.op_type == "Reshape" else None
    if view is None or last is None:
        return None
    x = view.outputs[0]
    if last.op_type == GATE_THEN_NORM and last.inputs[0] is x and last.inputs[1] is gate:
        return last, last
    return (None, last) if match_silu(other_factor(last.outputs[0], x)) is gate else None


def _three_parts(part: ir.Value | None) -> ir.Node | None:
    """The Split of the last axis that `part` comes from, if it has three parts."""
    split = producer_of(part, "Split")
    if split is None or len(split.outputs) != 3 or split.outputs[0].shape is None:
        return None
    return split if split.attributes["axis"].as_int() in (-1, len(split.outputs[0].shape) - 1) else None


def _fuse(model: ir.Model, mixer: _Mixer) -> None:
    x, _, a, b, _, d, dt_bias, past = inputs_of(mixer.scan, 8)
    _, weight, bias, past_conv = inputs_of(mixer.conv, 4)
    name = mamba2_mixer.MAMBA2_MIXER_NORM if mixer.norm is not None else mamba2_mixer.MAMBA2_MIXER
    add_function(model, mamba2_mixer.mamba2_mixer_function(name))
    new = make(
        name,
        [
            *(input_of(mixer.split, 0), weight, bias, a, d, dt_bias, past_conv, past),
            *([input_of(mixer.norm, 2)] if mixer.norm is not None else []),
        ],
        f"{name_of(mixer.last)}.mixer",
        domain=DOMAIN,
        outputs=3,
        **{limit: float(attribute(mixer.scan, limit)) for limit in ("least_step", "most_step")},
        **mamba2_mixer.layout(size_of(b, 2), size_of(b, 3), size_of(x, 2), size_of(x, 3)),
        **({"epsilon": float(attribute(mixer.norm, "epsilon"))} if mixer.norm is not None else {}),
    )
    graph = graph_of(mixer.last)
    graph.insert_before(mixer.last, [new])
    olds = [mixer.last.outputs[0], mixer.conv.outputs[1], mixer.scan.outputs[1]]
    move_uses(graph, olds, new.outputs)
    graph.remove(mixer.last, safe=True)
