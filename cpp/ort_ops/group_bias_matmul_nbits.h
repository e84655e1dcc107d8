// edgekiln.ort::GroupBiasMatMulNBits: MatMulNBits with symmetric codes and a float bias a group, llama.cpp's "min".
#pragma once

#include "ort_ops/matmul_nbits.h"

namespace edgekiln::ort {

// Engines define a function of standard ops under this name, which runs where the kernel is not registered.
class GroupBiasMatMulNBits : public MatMulNBits {
 public:
  enum Input : std::size_t { kA, kCodes, kScales, kGroupBias };
  static_assert(kGroupBias == static_cast<std::size_t>(MatMulNBits::kZeroPoints));
  static constexpr const char* kName = "GroupBiasMatMulNBits";
  static constexpr ONNXTensorElementDataType kInputs[] = {kFloat, kUint8, kFloat, kFloat};
  static constexpr Signature kSignature{kInputs, {}, MatMulNBits::kOutputs};

  explicit GroupBiasMatMulNBits(const OrtKernelInfo* info) : MatMulNBits(info, WeightScheme::kGroupBias) {}
};

}  // namespace edgekiln::ort
