// edgekiln.ort::{RMSNormThenGate,GateThenRMSNorm}: RMS norm over the last axis, times a gate.
#pragma once

#include <cstddef>

#include "kernels/kernel_table.h"
#include "ort_ops/ort_api.h"

namespace edgekiln::ort {

// Engines define functions under these names, which run where the kernel is not registered.
template <bool NormBeforeGate>
class GatedRMSNorm {
 public:
  enum Input : std::size_t { kX, kGate, kGamma };
  static constexpr const char* kName = NormBeforeGate ? "RMSNormThenGate" : "GateThenRMSNorm";
  static constexpr ONNXTensorElementDataType kInputs[] = {kFloat, kFloat, kFloat};
  static constexpr ONNXTensorElementDataType kOutputs[] = {kFloat};
  static constexpr Signature kSignature{kInputs, {}, kOutputs};

  explicit GatedRMSNorm(const OrtKernelInfo* info) : epsilon_(real(info, "epsilon")) {}

  void compute(OrtKernelContext* context) const {
    const Tensor x = input(context, kX), gate = input(context, kGate), gamma = input(context, kGamma);
    const std::int64_t width = x.shape.empty() ? 0 : x.shape.back();
    if (width < 1 || gate.shape != x.shape || element_count(gamma.shape) != static_cast<std::size_t>(width))
      fail("the gate has another shape than the input, or gamma is not as wide");
    GatedRmsNormArgs args{};
    args.rows = leading_size(x.shape);
    args.width = static_cast<std::size_t>(width);
    args.x = x.floats();
    args.gate = gate.floats();
    args.gamma = gamma.floats();
    args.epsilon = epsilon_;
    args.norm_before_gate = NormBeforeGate;
    args.out = static_cast<float*>(output(context, 0, x.shape));
    if (args.rows) kernels().gated_rms_norm(args, {run_parallel, context});
  }

 private:
  float epsilon_;
};

}  // namespace edgekiln::ort
