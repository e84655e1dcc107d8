// The library that a session registers: edgekiln's kernels as ONNX Runtime custom ops.
//
// Ops of com.microsoft replace ONNX Runtime's kernels of the same names, which it looks up after custom ops, so an
// engine's graph stays one that every ONNX Runtime runs. Constructors of kernels throw for what they do not implement;
// creating the session then fails, and the caller creates it without this library.
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "ort_ops/decoder_layers.h"
#include "ort_ops/gather_block_quantized.h"
#include "ort_ops/group_bias_matmul_nbits.h"
#include "ort_ops/group_query_attention.h"
#include "ort_ops/matmul_nbits.h"
#include "ort_ops/per_token_int8_matmul.h"
#include "ort_ops/post_attention.h"
#include "ort_ops/skip_simplified_layer_normalization.h"
#include "ort_ops/swiglu.h"
#include "ort_ops/two_pass_matmul_nbits.h"

namespace edgekiln::ort {
namespace {

struct Release {
  void operator()(OrtCustomOpDomain* domain) const { api->ReleaseCustomOpDomain(domain); }
};
using Domain = std::unique_ptr<OrtCustomOpDomain, Release>;

Domain make_domain(const char* name, const std::vector<const OrtCustomOp*>& ops) {
  OrtCustomOpDomain* created = nullptr;
  check(api->CreateCustomOpDomain(name, &created));
  Domain domain(created);
  for (const OrtCustomOp* op : ops) check(api->CustomOpDomain_Add(created, op));
  return domain;
}

// A session config entry; with value "bfloat16", prefill attention multiplies in bfloat16 if the processor can.
constexpr const char* kAttentionEntry = "edgekiln.attention";

bool wants_bf16_attention(const OrtSessionOptions* options) {
  int has_entry = 0;
  check(api->HasSessionConfigEntry(options, kAttentionEntry, &has_entry));
  if (!has_entry) return false;
  std::size_t size = 0;
  check(api->GetSessionConfigEntry(options, kAttentionEntry, nullptr, &size));
  std::string value(size, '\0');
  check(api->GetSessionConfigEntry(options, kAttentionEntry, value.data(), &size));
  return value.c_str() == std::string_view("bfloat16");
}

// The fused ops of decoder layers, for one weight format.
template <typename Format, bool Bf16>
struct LayerOps {
  Op<PostAttention<Format>> post_attention;
  Op<DecoderLayers<Format, float, Bf16>> layers;
  Op<DecoderLayers<Format, std::int8_t, Bf16>> layers_int8_cache;

  void add_to(std::vector<const OrtCustomOp*>& ops) const {
    ops.insert(ops.end(), {&post_attention, &layers, &layers_int8_cache});
  }
};

template <bool Bf16>
OrtCustomOpDomain* microsoft_domain() {
  static const Op<GroupQueryAttention<float, Bf16>> attention;
  static const Op<GroupQueryAttention<std::int8_t, Bf16>> int8_attention;
  static const Op<GatherBlockQuantized> gather;
  static const Op<MatMulNBits> matmul;
  static const Op<SkipSimplifiedLayerNormalization> skip_rms_norm;
  static const Domain domain =
      make_domain("com.microsoft", {&attention, &int8_attention, &gather, &matmul, &skip_rms_norm});
  return domain.get();
}

// Ops without a kernel for this processor are left out: sessions then run the functions that engines define.
template <bool Bf16>
OrtCustomOpDomain* own_domain() {
  static const Op<SwiGLU> swiglu;
  static const Op<GroupBiasMatMulNBits> group_bias_matmul;
  static const Op<PerTokenInt8MatMul> per_token_int8_matmul;
  static const Op<TwoPassMatMulNBits> two_pass_lm_head;
  static const LayerOps<GroupBias, Bf16> group_bias_layers;
  static const LayerOps<ZeroPoint, Bf16> zero_point_layers;
  static const LayerOps<PerTokenInt8, Bf16> per_token_int8_layers;
  std::vector<const OrtCustomOp*> ops{&swiglu, &group_bias_matmul};
  if (kernels().per_token_int8_gemm) {
    ops.push_back(&per_token_int8_matmul);
    per_token_int8_layers.add_to(ops);
  }
  if (kernels().nbits_gemm) {
    ops.push_back(&two_pass_lm_head);
    group_bias_layers.add_to(ops);
    zero_point_layers.add_to(ops);
  }
  static const Domain domain = make_domain(kOwnDomain, ops);
  return domain.get();
}

// The domains are static: sessions use them throughout their lives, and keep this library loaded.
template <bool Bf16>
void add_domains(OrtSessionOptions* options) {
  check(api->AddCustomOpDomain(options, microsoft_domain<Bf16>()));
  check(api->AddCustomOpDomain(options, own_domain<Bf16>()));
}

}  // namespace
}  // namespace edgekiln::ort

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(OrtSessionOptions* options,
                                                                               const OrtApiBase* base) {
  using namespace edgekiln::ort;
  api = base->GetApi(kApiVersion);
  if (!api) return nullptr;  // the runtime is older than this library's API version: it keeps its own kernels
  return guarded([&] {
    const edgekiln::KernelSelection& selection = edgekiln::kernel_selection();
    if (!selection.error.empty()) fail(selection.error);
    if (!selection.table) return;
    const bool bf16 = edgekiln::kernels().bf16_attention && wants_bf16_attention(options);
    (bf16 ? add_domains<true> : add_domains<false>)(options);
  });
}

// The sentence for an environment variable EDGEKILN_ISA that this processor does not support; null without one.
extern "C" __attribute__((visibility("default"))) const char* edgekiln_ops_error() {
  const std::string& error = edgekiln::kernel_selection().error;
  return error.empty() ? nullptr : error.c_str();
}

// The instruction set whose kernels are registered, "onnxruntime" for none; null where edgekiln_ops_error() is not.
extern "C" __attribute__((visibility("default"))) const char* edgekiln_ops_instruction_set() {
  const edgekiln::KernelSelection& selection = edgekiln::kernel_selection();
  if (!selection.error.empty()) return nullptr;
  return selection.table ? selection.table->instruction_set : edgekiln::kOnnxRuntimeKernels;
}
