"""Lower the canonical graph to what ONNX Runtime runs fastest on a CPU."""

from typing import Final

import onnx_ir as ir
from onnx_ir.passes import common

from edgekiln.engine.manifest import KVCacheSpec
from edgekiln.export.lower.base import Lowering
from edgekiln.export.passes.common.fuse_shared_inputs import fuse_shared_inputs
from edgekiln.export.passes.common.logits_to_keep import AddLogitsToKeep
from edgekiln.export.passes.common.share_act_order import share_orders
from edgekiln.export.passes.common.transpose_weights import transpose_weights
from edgekiln.export.passes.ort.decoder import fuse_decoder_layers
from edgekiln.export.passes.ort.group_query_attention import lower_attention
from edgekiln.export.passes.ort.post_attention import fuse_post_attention
from edgekiln.export.passes.ort.quantized_ops import lower_quantized_ops
from edgekiln.export.passes.ort.skip_rms_norm import fuse_rms_norm
from edgekiln.export.passes.ort.swiglu import fuse_gated_silu
from edgekiln.export.passes.ort.two_pass_lm_head import shortlist_logits

KEY_VALUE_KIND: Final = "shared-buffer"


def lower(model: ir.Model, max_length: int) -> None:
    """Lower in place; `max_length` positions get rotary angles.

    Raises:
        UnsupportedModelError: naming what ONNX Runtime's kernels do not take.
    """
    lower_ops(model, max_length)
    fuse_post_attention(model)
    fuse_decoder_layers(model)
    AddLogitsToKeep()(model)
    shortlist_logits(model)


def lower_ops(model: ir.Model, max_length: int, total_length: ir.Value | None = None) -> None:
    """The part that other processors share: every op becomes one of ONNX Runtime's, or a small function of them.

    `total_length` is the graph input that says the largest length of a batch, for a graph that has one.

    Raises:
        UnsupportedModelError: naming what ONNX Runtime's kernels do not take.
    """
    share_orders(model)
    fuse_shared_inputs(model)
    lower_attention(model, max_length, total_length)
    common.RemoveUnusedNodesPass()(model)
    fuse_rms_norm(model)
    lower_quantized_ops(model)
    fuse_gated_silu(model)
    transpose_weights(model)
    common.RemoveUnusedNodesPass()(model)
    model.opset_imports["com.microsoft"] = 1
    model.opset_imports.pop("edgekiln", None)


LOWERING: Final = Lowering(
    lower=lambda model, options: lower(model, options.max_length),
    kv_cache=lambda _: KVCacheSpec(layout=KEY_VALUE_KIND, dtype="float32"),
)
