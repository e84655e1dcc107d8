// edgekiln.ort::PerTokenInt8ExpertMatMul: float activations, quantized to int8 per token, times constant int8 weights
// of chosen experts.
#pragma once

#include "ort_ops/constant_weights.h"
#include "ort_ops/expert_inputs.h"

namespace edgekiln::ort {

// Engines define a function of standard ops under this name, which runs where the kernel is not registered.
class PerTokenInt8ExpertMatMul {
 public:
  static constexpr const char* kName = "PerTokenInt8ExpertMatMul";  // weight [E, K, N], scales [E, N]
  static constexpr ONNXTensorElementDataType kInputs[] = {kFloat, kInt64, kInt8, kFloat};
  static constexpr ONNXTensorElementDataType kOutputs[] = {kFloat};
  static constexpr Signature kSignature{kInputs, {}, kOutputs};

  explicit PerTokenInt8ExpertMatMul(const OrtKernelInfo* info)
      : experts_(expert_count(info)),
        k_(integer(info, "K")),
        n_(integer(info, "N")),
        weight_(WeightPacker(info).pack_int8_experts(kExpertWeight, experts_, k_, n_)) {}

  void compute(OrtKernelContext* context) const {
    run_expert_matmul(context, PerTokenInt8ExpertFormat{weight_}, expert_args(context, experts_, k_, n_));
  }

 private:
  std::size_t experts_, k_, n_;
  Int8Experts weight_;
};

}  // namespace edgekiln::ort
