// Puts edgekiln's kernels into a session in place of ONNX Runtime's, by registering them under the same names.
//
// ONNX Runtime looks custom kernels up before its own, so an engine's graph stays what every ONNX Runtime runs. What
// they do not implement they refuse when the session is made, and the caller makes it without this library.
#include "group_query_attention.h"
#include "matmul_n_bits_op.h"
#include "skip_norm_op.h"

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(OrtSessionOptions* options,
                                                                               const OrtApiBase* base) {
  using namespace edgekiln::ort;
  api = base->GetApi(kApiVersion);
  if (!api) return nullptr;  // a runtime older than this library: its own kernels stay
  static const Op<GroupQueryAttention<float>> attention;
  static const Op<GroupQueryAttention<std::int8_t>> int8_attention;
  static const Op<MatMulNBits> matmul;
  static const Op<OffsetMatMulNBits> offset_matmul;
  static const Op<SkipNorm> skip_norm;
  OrtCustomOpDomain *domain = nullptr, *own = nullptr;
  return guarded([&] {
    check(api->CreateCustomOpDomain("com.microsoft", &domain));
    check(api->CustomOpDomain_Add(domain, &attention));
    check(api->CustomOpDomain_Add(domain, &int8_attention));
    check(api->CustomOpDomain_Add(domain, &matmul));
    check(api->CustomOpDomain_Add(domain, &skip_norm));
    check(api->AddCustomOpDomain(options, domain));
    check(api->CreateCustomOpDomain(OffsetMatMulNBits::kDomain, &own));
    check(api->CustomOpDomain_Add(own, &offset_matmul));
    check(api->AddCustomOpDomain(options, own));
  });
}

extern "C" __attribute__((visibility("default"))) const char* edgekiln_ops_instruction_set() {
  return edgekiln::kernels().front().instruction_set;
}
