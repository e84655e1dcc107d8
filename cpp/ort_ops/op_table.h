// All ops that the library implements, each with the kernels that it calls. An instruction set whose kernel table lacks
// one of them leaves the op to ONNX Runtime: to its kernel of that name, or to the function that engines define.
#pragma once

#include <algorithm>
#include <vector>

#include "ort_ops/causal_conv.h"
#include "ort_ops/codebook_matmul_nbits.h"
#include "ort_ops/cos_sin.h"
#include "ort_ops/decoder_layers.h"
#include "ort_ops/expert_matmul.h"
#include "ort_ops/expert_matmul_nbits.h"
#include "ort_ops/gated_rms_norm.h"
#include "ort_ops/gated_selective_scan.h"
#include "ort_ops/gather_block_quantized.h"
#include "ort_ops/group_bias_matmul_nbits.h"
#include "ort_ops/group_query_attention.h"
#include "ort_ops/linear_attention.h"
#include "ort_ops/mamba2_mixer.h"
#include "ort_ops/matmul_nbits.h"
#include "ort_ops/mixture_of_experts.h"
#include "ort_ops/mixture_weights.h"
#include "ort_ops/per_token_int8_expert_matmul.h"
#include "ort_ops/per_token_int8_matmul.h"
#include "ort_ops/post_attention.h"
#include "ort_ops/simplified_layer_normalization.h"
#include "ort_ops/skip_simplified_layer_normalization.h"
#include "ort_ops/swiglu.h"
#include "ort_ops/two_pass_matmul_nbits.h"

namespace edgekiln::ort {

inline constexpr const char* kOnnxDomain = "";
inline constexpr const char* kMicrosoftDomain = "com.microsoft";

// A field of KernelTable.
struct KernelField {
  const char* name;
  bool (*filled)(const KernelTable&);
};

#define EDGEKILN_FIELD(field)                                               \
  KernelField {                                                             \
    #field, [](const KernelTable& table) { return table.field != nullptr; } \
  }

inline constexpr KernelField kAttention = EDGEKILN_FIELD(attention), kMatMulNBits = EDGEKILN_FIELD(matmul_nbits),
                             kSkipRmsNorm = EDGEKILN_FIELD(skip_rms_norm), kSwiglu = EDGEKILN_FIELD(swiglu),
                             kQkvPrologue = EDGEKILN_FIELD(qkv_prologue), kNBitsGemm = EDGEKILN_FIELD(nbits_gemm),
                             kFloatGemm = EDGEKILN_FIELD(float_gemm),
                             kAddWeightedRows = EDGEKILN_FIELD(add_weighted_rows), kRoute = EDGEKILN_FIELD(route),
                             kPerTokenInt8Gemm = EDGEKILN_FIELD(per_token_int8_gemm),
                             kTwoPassLmHead = EDGEKILN_FIELD(two_pass_lm_head),
                             kDequantizeRow = EDGEKILN_FIELD(dequantize_row), kCausalConv = EDGEKILN_FIELD(causal_conv),
                             kLinearAttention = EDGEKILN_FIELD(linear_attention),
                             kSelectiveScan = EDGEKILN_FIELD(selective_scan),
                             kGatedRmsNorm = EDGEKILN_FIELD(gated_rms_norm);

#undef EDGEKILN_FIELD

struct OpRow {
  const char* domain;
  const OrtCustomOp* op;
  std::vector<KernelField> kernels;
  std::vector<KernelField> optional{};  // used where the table has them

  const char* name() const { return op->GetName(op); }

  bool registered_with(const KernelTable& table) const {
    return std::all_of(kernels.begin(), kernels.end(), [&](const KernelField& field) { return field.filled(table); });
  }
};

// Ops are static: sessions use them throughout their lives, and keep this library loaded.
template <typename Kernel>
const OrtCustomOp* op() {
  static const Op<Kernel> value;
  return &value;
}

// With `Bf16`, prefill attention multiplies in bfloat16; see attention_kernel().
template <bool Bf16>
const std::vector<OpRow>& op_table() {
  static const std::vector<KernelField> post_attention{kNBitsGemm, kSkipRmsNorm, kSwiglu},
      layers{kNBitsGemm, kSkipRmsNorm, kSwiglu, kQkvPrologue, kAttention},
      int8_post_attention{kPerTokenInt8Gemm, kSkipRmsNorm, kSwiglu},
      int8_layers{kPerTokenInt8Gemm, kSkipRmsNorm, kSwiglu, kQkvPrologue, kAttention},
      mamba2_mixer{kCausalConv, kLinearAttention, kGatedRmsNorm}, mixture{kNBitsGemm, kSwiglu, kAddWeightedRows},
      int8_mixture{kPerTokenInt8Gemm, kSwiglu, kAddWeightedRows},
      mixture_block{kNBitsGemm, kSkipRmsNorm, kSwiglu, kAddWeightedRows, kRoute},
      int8_mixture_block{kPerTokenInt8Gemm, kSkipRmsNorm, kSwiglu, kAddWeightedRows, kRoute},
      mixture_layers{kNBitsGemm, kSkipRmsNorm, kSwiglu, kRoute, kAddWeightedRows, kQkvPrologue, kAttention},
      int8_mixture_layers{kPerTokenInt8Gemm, kSkipRmsNorm, kSwiglu, kRoute, kAddWeightedRows, kQkvPrologue, kAttention};
  static const std::vector<OpRow> rows{
      {kOnnxDomain, op<SimplifiedLayerNormalization>(), {kQkvPrologue}},
      {kOnnxDomain, op<Cos>(), {}},
      {kOnnxDomain, op<Sin>(), {}},
      {kMicrosoftDomain, op<GroupQueryAttention<PlainAttention, float, Bf16>>(), {kAttention}},
      {kMicrosoftDomain, op<GroupQueryAttention<PlainAttention, std::int8_t, Bf16>>(), {kAttention}},
      {kOwnDomain, op<GroupQueryAttention<RotaryAttention, float, Bf16>>(), {kAttention}},
      {kOwnDomain, op<GroupQueryAttention<RotaryAttention, std::int8_t, Bf16>>(), {kAttention}},
      {kOwnDomain, op<GroupQueryAttention<PackedRotaryAttention, float, Bf16>>(), {kAttention}},
      {kOwnDomain, op<GroupQueryAttention<PackedRotaryAttention, std::int8_t, Bf16>>(), {kAttention}},
      {kMicrosoftDomain, op<GatherBlockQuantized>(), {kDequantizeRow}},
      {kMicrosoftDomain, op<MatMulNBits>(), {kMatMulNBits}},
      {kMicrosoftDomain, op<SkipSimplifiedLayerNormalization>(), {kSkipRmsNorm}},
      {kOwnDomain, op<SwiGLU>(), {kSwiglu}},
      {kOwnDomain, op<GroupBiasMatMulNBits>(), {kMatMulNBits}},
      {kOwnDomain, op<CodebookMatMulNBits>(), {kNBitsGemm}},
      {kOwnDomain, op<PerTokenInt8MatMul>(), {kPerTokenInt8Gemm}},
      {kOwnDomain, op<ExpertMatMul>(), {kFloatGemm}},
      {kOwnDomain, op<ExpertMatMulNBits>(), {kMatMulNBits}, {kNBitsGemm}},
      {kOwnDomain, op<SymmetricExpertMatMulNBits>(), {kMatMulNBits}, {kNBitsGemm}},
      {kOwnDomain, op<GroupBiasExpertMatMulNBits>(), {kMatMulNBits}, {kNBitsGemm}},
      {kOwnDomain, op<CodebookExpertMatMulNBits>(), {kNBitsGemm}},
      {kOwnDomain, op<PerTokenInt8ExpertMatMul>(), {kPerTokenInt8Gemm}},
      {kOwnDomain, op<MixtureOfExperts<ZeroPointExperts, ZeroPointExperts>>(), mixture},
      {kOwnDomain, op<MixtureOfExperts<ZeroPointExperts, SymmetricExperts>>(), mixture},
      {kOwnDomain, op<MixtureOfExperts<ZeroPointExperts, GroupBiasExperts>>(), mixture},
      {kOwnDomain, op<MixtureOfExperts<SymmetricExperts, ZeroPointExperts>>(), mixture},
      {kOwnDomain, op<MixtureOfExperts<SymmetricExperts, SymmetricExperts>>(), mixture},
      {kOwnDomain, op<MixtureOfExperts<SymmetricExperts, GroupBiasExperts>>(), mixture},
      {kOwnDomain, op<MixtureOfExperts<GroupBiasExperts, ZeroPointExperts>>(), mixture},
      {kOwnDomain, op<MixtureOfExperts<GroupBiasExperts, SymmetricExperts>>(), mixture},
      {kOwnDomain, op<MixtureOfExperts<GroupBiasExperts, GroupBiasExperts>>(), mixture},
      {kOwnDomain, op<MixtureOfExperts<ZeroPointExperts, CodebookExperts>>(), mixture},
      {kOwnDomain, op<MixtureOfExperts<SymmetricExperts, CodebookExperts>>(), mixture},
      {kOwnDomain, op<MixtureOfExperts<GroupBiasExperts, CodebookExperts>>(), mixture},
      {kOwnDomain, op<MixtureOfExperts<CodebookExperts, ZeroPointExperts>>(), mixture},
      {kOwnDomain, op<MixtureOfExperts<CodebookExperts, SymmetricExperts>>(), mixture},
      {kOwnDomain, op<MixtureOfExperts<CodebookExperts, GroupBiasExperts>>(), mixture},
      {kOwnDomain, op<MixtureOfExperts<CodebookExperts, CodebookExperts>>(), mixture},
      {kOwnDomain, op<MixtureOfExperts<PerTokenInt8Experts, PerTokenInt8Experts>>(), int8_mixture},
      {kOwnDomain, op<CausalConv>(), {kCausalConv}},
      {kOwnDomain, op<LinearAttention>(), {kLinearAttention}},
      {kOwnDomain, op<Mamba2Scan>(), {kLinearAttention}},
      {kOwnDomain, op<GatedDeltaRule>(), {kLinearAttention}},
      {kOwnDomain, op<GatedSelectiveScan>(), {kSelectiveScan}},
      {kOwnDomain, op<GatedRMSNorm<true>>(), {kGatedRmsNorm}},
      {kOwnDomain, op<GatedRMSNorm<false>>(), {kGatedRmsNorm}},
      {kOwnDomain, op<Mamba2Mixer<false>>(), mamba2_mixer},
      {kOwnDomain, op<Mamba2Mixer<true>>(), mamba2_mixer},
      {kOwnDomain, op<TwoPassMatMulNBits>(), {kNBitsGemm}, {kTwoPassLmHead}},
      {kOwnDomain, op<PostAttention<PostAttentionConstants<GroupBias>>>(), post_attention},
      {kOwnDomain, op<PostAttention<PostAttentionConstants<ZeroPoint>>>(), post_attention},
      {kOwnDomain, op<PostAttention<PostAttentionConstants<Symmetric>>>(), post_attention},
      {kOwnDomain, op<PostAttention<PostAttentionConstants<Codebook>>>(), post_attention},
      {kOwnDomain, op<PostAttention<PostAttentionConstants<PerTokenInt8>>>(), int8_post_attention},
      {kOwnDomain, op<DecoderLayers<PostAttentionConstants<GroupBias>, float, Bf16>>(), layers},
      {kOwnDomain, op<DecoderLayers<PostAttentionConstants<GroupBias>, std::int8_t, Bf16>>(), layers},
      {kOwnDomain, op<DecoderLayers<PostAttentionConstants<ZeroPoint>, float, Bf16>>(), layers},
      {kOwnDomain, op<DecoderLayers<PostAttentionConstants<ZeroPoint>, std::int8_t, Bf16>>(), layers},
      {kOwnDomain, op<DecoderLayers<PostAttentionConstants<Symmetric>, float, Bf16>>(), layers},
      {kOwnDomain, op<DecoderLayers<PostAttentionConstants<Symmetric>, std::int8_t, Bf16>>(), layers},
      {kOwnDomain, op<DecoderLayers<PostAttentionConstants<Codebook>, float, Bf16>>(), layers},
      {kOwnDomain, op<DecoderLayers<PostAttentionConstants<Codebook>, std::int8_t, Bf16>>(), layers},
      {kOwnDomain, op<DecoderLayers<PostAttentionConstants<PerTokenInt8>, float, Bf16>>(), int8_layers},
      {kOwnDomain, op<DecoderLayers<PostAttentionConstants<PerTokenInt8>, std::int8_t, Bf16>>(), int8_layers},
      {kOwnDomain, op<PostAttention<MixtureConstants<GroupBias>>>(), mixture_block},
      {kOwnDomain, op<PostAttention<MixtureConstants<ZeroPoint>>>(), mixture_block},
      {kOwnDomain, op<PostAttention<MixtureConstants<Symmetric>>>(), mixture_block},
      {kOwnDomain, op<PostAttention<MixtureConstants<Codebook>>>(), mixture_block},
      {kOwnDomain, op<PostAttention<MixtureConstants<PerTokenInt8>>>(), int8_mixture_block},
      {kOwnDomain, op<DecoderLayers<MixtureConstants<GroupBias>, float, Bf16>>(), mixture_layers},
      {kOwnDomain, op<DecoderLayers<MixtureConstants<GroupBias>, std::int8_t, Bf16>>(), mixture_layers},
      {kOwnDomain, op<DecoderLayers<MixtureConstants<ZeroPoint>, float, Bf16>>(), mixture_layers},
      {kOwnDomain, op<DecoderLayers<MixtureConstants<ZeroPoint>, std::int8_t, Bf16>>(), mixture_layers},
      {kOwnDomain, op<DecoderLayers<MixtureConstants<Symmetric>, float, Bf16>>(), mixture_layers},
      {kOwnDomain, op<DecoderLayers<MixtureConstants<Symmetric>, std::int8_t, Bf16>>(), mixture_layers},
      {kOwnDomain, op<DecoderLayers<MixtureConstants<Codebook>, float, Bf16>>(), mixture_layers},
      {kOwnDomain, op<DecoderLayers<MixtureConstants<Codebook>, std::int8_t, Bf16>>(), mixture_layers},
      {kOwnDomain, op<DecoderLayers<MixtureConstants<PerTokenInt8>, float, Bf16>>(), int8_mixture_layers},
      {kOwnDomain, op<DecoderLayers<MixtureConstants<PerTokenInt8>, std::int8_t, Bf16>>(), int8_mixture_layers},
  };
  return rows;
}

}  // namespace edgekiln::ort
