// The library that a session registers: edgekiln's kernels as ONNX Runtime custom ops.
//
// Ops of com.microsoft and of ONNX replace ONNX Runtime's kernels of the same names, which it looks up after custom
// ops, so an engine's graph stays one that every ONNX Runtime runs. Constructors of kernels throw for what they do not
// implement; creating the session then fails, and the caller creates it without this library.
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>

#include "kernels/pack/pack_cache.h"
#include "ort_ops/description.h"
#include "ort_ops/op_table.h"

namespace edgekiln::ort {
namespace {

struct Release {
  void operator()(OrtCustomOpDomain* domain) const { api->ReleaseCustomOpDomain(domain); }
};
using Domain = std::unique_ptr<OrtCustomOpDomain, Release>;

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

// 32 of "1.32.0"; API versions count so.
unsigned minor_version(std::string_view version) {
  const std::size_t dot = version.find('.');
  return dot == version.npos ? 0 : static_cast<unsigned>(std::strtoul(version.data() + dot + 1, nullptr, 10));
}

template <bool Bf16>
Domain make_domain(const std::string& name) {
  OrtCustomOpDomain* created = nullptr;
  check(api->CreateCustomOpDomain(name.c_str(), &created));
  Domain domain(created);
  for (const OpRow& row : op_table<Bf16>())
    if (row.domain == name && row.registered_with(kernels())) check(api->CustomOpDomain_Add(created, row.op));
  return domain;
}

// The domains are static, as their ops are.
template <bool Bf16>
void add_domains(OrtSessionOptions* options) {
  static const Domain domains[] = {make_domain<Bf16>(kOnnxDomain), make_domain<Bf16>(kMicrosoftDomain),
                                   make_domain<Bf16>(kOwnDomain)};
  for (const Domain& domain : domains) check(api->AddCustomOpDomain(options, domain.get()));
}

}  // namespace
}  // namespace edgekiln::ort

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(OrtSessionOptions* options,
                                                                               const OrtApiBase* base) {
  using namespace edgekiln::ort;
  api = base->GetApi(kApiVersion);
  if (!api) return nullptr;  // the runtime is older than this library's API version: it keeps its own kernels
  // Asking for a version that it does not have makes it print a warning.
  if (minor_version(base->GetVersionString()) >= kConfigApiVersion) config_api = base->GetApi(kConfigApiVersion);
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

// Keeps the file of packed weights that sessions with this entry edgekiln.pack_cache wrote, once their weights have
// been checked; without this call none remains. 1 if there is a new file.
extern "C" __attribute__((visibility("default"))) int edgekiln_ops_keep_pack_cache(const char* path) {
  try {
    return edgekiln::PackCache::keep(path);
  } catch (const std::exception&) {
    return 0;
  }
}

// See description(); the caller does not own the string.
extern "C" __attribute__((visibility("default"))) const char* edgekiln_ops_description() {
  static const std::string json = edgekiln::ort::description(edgekiln::kernel_selection().table);
  return json.c_str();
}
