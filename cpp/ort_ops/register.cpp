// Puts edgekiln's kernels into a session in place of ONNX Runtime's, by registering them under the same names.
//
// ONNX Runtime looks custom kernels up before its own, so an engine's graph stays what every ONNX Runtime runs. What
// they do not implement they refuse when the session is made, and the caller makes it without this library.
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "ort_ops/decoder_layers.h"
#include "ort_ops/gather_block_quantized.h"
#include "ort_ops/group_query_attention.h"
#include "ort_ops/matmul_nbits.h"
#include "ort_ops/per_token_int8_matmul.h"
#include "ort_ops/post_attention.h"
#include "ort_ops/skip_rms_norm.h"
#include "ort_ops/swiglu.h"
#include "ort_ops/two_pass_matmul_nbits.h"

namespace edgekiln::ort {
namespace {

struct Release {
  void operator()(OrtCustomOpDomain* domain) const { api->ReleaseCustomOpDomain(domain); }
};
using Domain = std::unique_ptr<OrtCustomOpDomain, Release>;

Domain domain_of(const char* name, const std::vector<const OrtCustomOp*>& ops) {
  OrtCustomOpDomain* created = nullptr;
  check(api->CreateCustomOpDomain(name, &created));
  Domain domain(created);
  for (const OrtCustomOp* op : ops) check(api->CustomOpDomain_Add(created, op));
  return domain;
}

// Set to `bfloat16` in a session's configuration by who takes products of attention, in prompts, of rounded numbers.
constexpr const char* kAttentionEntry = "edgekiln.attention";

bool takes_rounded(const OrtSessionOptions* options) {
  int there = 0;
  check(api->HasSessionConfigEntry(options, kAttentionEntry, &there));
  if (!there) return false;
  std::size_t size = 0;
  check(api->GetSessionConfigEntry(options, kAttentionEntry, nullptr, &size));
  std::string value(size, '\0');
  check(api->GetSessionConfigEntry(options, kAttentionEntry, value.data(), &size));
  return value.c_str() == std::string_view("bfloat16");
}

// Ops of a decoder's layers, whose products are of one kind.
template <typename Product, bool Rounded>
struct LayerOps {
  Op<PostAttention<Product>> between;
  Op<DecoderLayers<Product, float, Rounded>> layers;
  Op<DecoderLayers<Product, std::int8_t, Rounded>> int8_layers;

  void add_to(std::vector<const OrtCustomOp*>& ops) const { ops.insert(ops.end(), {&between, &layers, &int8_layers}); }
};

// Those under ONNX Runtime's own names.
template <bool Rounded>
OrtCustomOpDomain* theirs() {
  static const Op<GroupQueryAttention<float, Rounded>> attention;
  static const Op<GroupQueryAttention<std::int8_t, Rounded>> int8_attention;
  static const Op<GatherRows> gather;
  static const Op<MatMulNBits> matmul;
  static const Op<SkipNorm> skip_rms_norm;
  static const Domain domain = domain_of("com.microsoft", {&attention, &int8_attention, &gather, &matmul, &skip_rms_norm});
  return domain.get();
}

// What has no kernel for this processor stays the function that the graph brings.
template <bool Rounded>
OrtCustomOpDomain* ours() {
  static const Op<SwiGLU> swiglu;
  static const Op<GroupBiasMatMulNBits> offset_matmul;
  static const Op<PerTokenInt8MatMul> row_quantized;
  static const Op<TwoPassMatMulNBits> shortlist;
  static const LayerOps<OffsetProduct, Rounded> offset_layers;
  static const LayerOps<ZeroPointProduct, Rounded> zero_point_layers;
  static const LayerOps<Int8Product, Rounded> row_quantized_layers;
  std::vector<const OrtCustomOp*> ops{&swiglu, &offset_matmul};
  if (kernels().per_token_int8_gemm) {
    ops.push_back(&row_quantized);
    row_quantized_layers.add_to(ops);
  }
  if (kernels().nbits_gemm) {
    ops.push_back(&shortlist);
    offset_layers.add_to(ops);
    zero_point_layers.add_to(ops);
  }
  static const Domain domain = domain_of(kOwnDomain, ops);
  return domain.get();
}

// Sessions look into their domains for as long as they live, and keep this library loaded: its end is the domains'.
template <bool Rounded>
void add_domains(OrtSessionOptions* options) {
  check(api->AddCustomOpDomain(options, theirs<Rounded>()));
  check(api->AddCustomOpDomain(options, ours<Rounded>()));
}

}  // namespace
}  // namespace edgekiln::ort

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(OrtSessionOptions* options,
                                                                               const OrtApiBase* base) {
  using namespace edgekiln::ort;
  api = base->GetApi(kApiVersion);
  if (!api) return nullptr;  // a runtime older than this library: its own kernels stay
  return guarded([&] {
    const bool rounded = edgekiln::kernels().bf16_attention && takes_rounded(options);
    (rounded ? add_domains<true> : add_domains<false>)(options);
  });
}

extern "C" __attribute__((visibility("default"))) const char* edgekiln_ops_instruction_set() {
  return edgekiln::kernels().instruction_set;
}
