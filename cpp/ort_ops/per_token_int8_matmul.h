// edgekiln.ort::PerTokenInt8MatMul: float activations, quantized to int8 per token, times a constant int8 weight.
#pragma once

#include "kernels/common/thread_team.h"
#include "kernels/kernel_table.h"
#include "ort_ops/constant_weights.h"
#include "ort_ops/ort_api.h"

namespace edgekiln::ort {

// Engines define a function of standard ops under this name, which runs where the kernel is not registered.
class PerTokenInt8MatMul {
 public:
  enum Input : std::size_t { kA, kWeight, kScales };  // weight [K, N], scales [N]
  static constexpr const char* kName = "PerTokenInt8MatMul";
  static constexpr ONNXTensorElementDataType kInputs[] = {kFloat, kInt8, kFloat};
  static constexpr ONNXTensorElementDataType kOutputs[] = {kFloat};
  static constexpr Signature kSignature{kInputs, {}, kOutputs};

  explicit PerTokenInt8MatMul(const OrtKernelInfo* info)
      : weight_(WeightPacker(info).pack_int8(kWeight, integer(info, "K"), integer(info, "N"))) {}

  void compute(OrtKernelContext* context) const {
    const Tensor a = input(context, kA);
    std::vector<std::int64_t> shape = a.shape;
    if (shape.empty() || shape.back() != static_cast<std::int64_t>(weight_.k)) fail("the input is not K wide");
    shape.back() = static_cast<std::int64_t>(weight_.n);
    const std::size_t m = leading_size(shape);
    auto* out = static_cast<float*>(output(context, 0, shape));
    if (!m) return;
    // Bound here: the region may run on another thread, whose thread_local it must not use.
    thread_local Scratch own;
    Scratch& scratch = own;
    run_team({run_parallel, context}, [&](const Parallel& threads) {
      kernels().per_token_int8_gemm(weight_, a.floats(), m, out, threads, scratch);
    });
  }

 private:
  PackedInt8 weight_;
};

}  // namespace edgekiln::ort
