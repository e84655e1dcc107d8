// Puts edgekiln's kernels into a session in place of ONNX Runtime's, by registering them under the same names.
//
// ONNX Runtime looks custom kernels up before its own, so an engine's graph stays what every ONNX Runtime runs. What
// they do not implement they refuse when the session is made, and the caller makes it without this library.
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "between_attentions_op.h"
#include "gated_silu_op.h"
#include "group_query_attention.h"
#include "matmul_n_bits_op.h"
#include "row_quantized_op.h"
#include "skip_norm_op.h"

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

// Those under ONNX Runtime's own names.
template <bool Rounded>
OrtCustomOpDomain* theirs() {
  static const Op<GroupQueryAttention<float, Rounded>> attention;
  static const Op<GroupQueryAttention<std::int8_t, Rounded>> int8_attention;
  static const Op<MatMulNBits> matmul;
  static const Op<SkipNorm> skip_norm;
  static const Domain domain = domain_of("com.microsoft", {&attention, &int8_attention, &matmul, &skip_norm});
  return domain.get();
}

void add_domains(OrtSessionOptions* options) {
  static const Op<GatedSilu> gated_silu;
  static const Op<OffsetMatMulNBits> offset_matmul;
  static const Op<RowQuantizedMatMul> row_quantized;
  static const Op<BetweenAttentions<OffsetProduct>> offset_between;
  static const Op<BetweenAttentions<ZeroPointProduct>> zero_point_between;
  static const Op<BetweenAttentions<Int8Product>> row_quantized_between;
  // Sessions look into their domains for as long as they live, and keep this library loaded: its end is the domains'.
  // What has no kernel for this processor stays the function that the graph brings.
  std::vector<const OrtCustomOp*> ours{&gated_silu, &offset_matmul};
  if (kernels().front().row_quantized) ours.insert(ours.end(), {&row_quantized, &row_quantized_between});
  if (kernels().front().code_panels) ours.insert(ours.end(), {&offset_between, &zero_point_between});
  static const Domain own = domain_of(kOwnDomain, ours);
  const bool rounded = kernels().front().rounded_attention && takes_rounded(options);
  check(api->AddCustomOpDomain(options, rounded ? theirs<true>() : theirs<false>()));
  check(api->AddCustomOpDomain(options, own.get()));
}

}  // namespace
}  // namespace edgekiln::ort

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(OrtSessionOptions* options,
                                                                               const OrtApiBase* base) {
  using namespace edgekiln::ort;
  api = base->GetApi(kApiVersion);
  if (!api) return nullptr;  // a runtime older than this library: its own kernels stay
  return guarded([&] { add_domains(options); });
}

extern "C" __attribute__((visibility("default"))) const char* edgekiln_ops_instruction_set() {
  return edgekiln::kernels().front().instruction_set;
}
