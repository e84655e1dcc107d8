"""Lower the canonical graph for ONNX Runtime on CPUs, with functions that edgekiln's kernels replace."""

from typing import Final

import onnx_ir as ir
from onnx_ir.passes import Sequential, common

from edgekiln.engine.graph_io import GraphIO
from edgekiln.engine.manifest import KVCacheSpec
from edgekiln.export import canonical
from edgekiln.export.functions.define import MICROSOFT
from edgekiln.export.lower.base import Lowering, LoweringOptions, run_passes
from edgekiln.export.passes.common.fold_weight_functions import FoldWeightFunctions
from edgekiln.export.passes.common.fold_weight_transposes import FoldWeightTransposes
from edgekiln.export.passes.common.fuse_shared_inputs import FuseSharedInputs
from edgekiln.export.passes.common.logits_to_keep import AddLogitsToKeep
from edgekiln.export.passes.common.sequence_length import LowerSequenceLength, recompute_beyond
from edgekiln.export.passes.common.share_act_order import ShareActOrder
from edgekiln.export.passes.ort.cancel_transposes import CancelTransposes
from edgekiln.export.passes.ort.codebook_matmul import LowerToCodebookMatMul
from edgekiln.export.passes.ort.decoder_layers import FuseDecoderLayers
from edgekiln.export.passes.ort.expert_matmul import LowerExpertMatMul
from edgekiln.export.passes.ort.fuse_recurrence import FuseRecurrence
from edgekiln.export.passes.ort.gated_rms_norm import FuseGatedRMSNorm
from edgekiln.export.passes.ort.gather_block_quantized import LowerToGatherBlockQuantized
from edgekiln.export.passes.ort.group_bias_matmul import LowerToGroupBiasMatMul
from edgekiln.export.passes.ort.group_query_attention import LowerToGroupQueryAttention, cache_windows
from edgekiln.export.passes.ort.mamba2_mixer import FuseMamba2Mixer
from edgekiln.export.passes.ort.mamba_projection import ReadMambaProjection
from edgekiln.export.passes.ort.matmul_bnb4 import LowerToMatMulBnb4
from edgekiln.export.passes.ort.matmul_integer_to_float import LowerToMatMulIntegerToFloat
from edgekiln.export.passes.ort.matmul_nbits import LowerToMatMulNBits
from edgekiln.export.passes.ort.mixture_of_experts import FuseMixtureOfExperts
from edgekiln.export.passes.ort.mixture_post_attention import FuseMixturePostAttention
from edgekiln.export.passes.ort.per_token_int8 import LowerToPerTokenInt8MatMul
from edgekiln.export.passes.ort.post_attention import FusePostAttention
from edgekiln.export.passes.ort.recurrence import LowerRecurrence
from edgekiln.export.passes.ort.sequence_lengths import window_start_input
from edgekiln.export.passes.ort.share_angles import ShareAngles
from edgekiln.export.passes.ort.skip_rms_norm import FuseSkipRMSNorm
from edgekiln.export.passes.ort.swiglu import FuseSwiGLU
from edgekiln.export.passes.ort.two_pass_lm_head import FuseTwoPassLMHead

# Every QuantizedMatMul and QuantizedGather to an op of ONNX Runtime, or to a function of them.
LOWER_QUANTIZED_OPS: Final = Sequential(
    LowerToGatherBlockQuantized(),
    LowerToMatMulBnb4(),
    LowerToCodebookMatMul(),
    LowerToGroupBiasMatMul(),
    LowerToMatMulNBits(),
    LowerToMatMulIntegerToFloat(),
    LowerToPerTokenInt8MatMul(),
)


# Layers with states to functions that edgekiln's kernels replace.
FUSE_RECURRENCE: Final = (
    FoldWeightFunctions(),
    FuseRecurrence(),
    CancelTransposes(),
    FuseGatedRMSNorm(),
    FuseMamba2Mixer(),
    ReadMambaProjection(),
)


def lower(model: ir.Model, max_length: int) -> None:
    """Lower a canonical graph in place.

    Args:
        model: the graph.
        max_length: tokens of a sequence, at most.

    Raises:
        UnsupportedModelError: ONNX Runtime's kernels cannot run the model.
    """
    run_passes(model, Sequential(*FUSE_RECURRENCE))
    lower_ops(model, max_length, window_buffers=True)
    run_passes(
        model,
        Sequential(
            FuseMixtureOfExperts(),
            FusePostAttention(),
            FuseMixturePostAttention(),
            FuseDecoderLayers(),
            AddLogitsToKeep(),
            FuseTwoPassLMHead(),
        ),
    )


def lower_ops(
    model: ir.Model,
    max_length: int,
    total_length: ir.Value | None = None,
    *,
    window_buffers: bool = False,
    rotary_cache_bytes: int = 0,
) -> None:
    """Lower every canonical op to an op of ONNX Runtime, or to a small function of them, in place; shared with CUDA.

    Args:
        model: the graph.
        max_length: tokens of a sequence, at most.
        total_length: graph input with the largest length of a batch; None computes it in the graph.
        window_buffers: sliding-window layers hold the last tokens only.
        rotary_cache_bytes: most bytes of the cosines and sines of all positions that attentions read, as float32.

    Raises:
        UnsupportedModelError: ONNX Runtime's kernels cannot run the model.
    """
    passes = Sequential(
        LowerSequenceLength(max_length),
        ShareActOrder(),
        FuseSharedInputs(),
        ShareAngles(),
        LowerToGroupQueryAttention(
            max_length, total_length, window_buffers=window_buffers, rotary_cache_bytes=rotary_cache_bytes
        ),
        LowerRecurrence(),
        common.RemoveUnusedNodesPass(),
        FuseSkipRMSNorm(),
        LowerExpertMatMul(),
        LOWER_QUANTIZED_OPS,
        FuseSwiGLU(),
        FoldWeightTransposes(),
        common.RemoveUnusedNodesPass(),
    )
    run_passes(model, passes)
    model.opset_imports[MICROSOFT] = 1
    model.opset_imports.pop(canonical.DOMAIN, None)


def _kv_cache(model: ir.Model, options: LoweringOptions) -> KVCacheSpec:
    windows = cache_windows(model, options.max_length)
    layers = sum(node.op_type == "Attention" for node in model.graph) if windows else 0
    return KVCacheSpec(
        layout="shared-buffer",
        dtype="float32",
        windows=[windows.get(layer, 0) for layer in range(layers)],
        recompute_beyond=recompute_beyond(model, options.max_length),
    )


LOWERING: Final = Lowering(
    lower=lambda model, options: lower(model, options.max_length),
    kv_cache=_kv_cache,
    io=GraphIO(window_start=window_start_input()),
    sequence_length=True,
)
