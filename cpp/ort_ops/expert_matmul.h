// edgekiln.ort::ExpertMatMul: float activations times constant float weights of chosen experts.
#pragma once

#include "ort_ops/expert_inputs.h"

namespace edgekiln::ort {

// Engines define a function of standard ops under this name, which runs where the kernel is not registered.
class ExpertMatMul {
 public:
  static constexpr const char* kName = "ExpertMatMul";  // weight [E, N, K]
  static constexpr ONNXTensorElementDataType kInputs[] = {kFloat, kInt64, kFloat};
  static constexpr ONNXTensorElementDataType kOutputs[] = {kFloat};
  static constexpr Signature kSignature{kInputs, {}, kOutputs};

  explicit ExpertMatMul(const OrtKernelInfo* info) : experts_(expert_count(info)), n_(integer(info, "N")) {
    weight_.k = integer(info, "K");
    weight_.n = experts_ * n_;
    weight_.values = constant_input<float>(info, kExpertWeight, weight_.k * weight_.n);
    if (!weight_.k || !n_) fail("K and N must be positive");
  }

  void compute(OrtKernelContext* context) const {
    run_expert_matmul(context, FloatExpertFormat{weight_, n_}, expert_args(context, experts_, weight_.k, n_));
  }

 private:
  std::size_t experts_, n_;
  FloatExpertWeight weight_{};  // of all experts, one after another
};

}  // namespace edgekiln::ort
