// edgekiln.ort::CodebookMatMulNBits: MatMulNBits with 4-bit codes that index a codebook, as those of FP4 and IQ4_NL do.
#pragma once

#include "ort_ops/matmul_nbits.h"

namespace edgekiln::ort {

// Engines define a function of standard ops under this name, which runs where the kernel is not registered.
class CodebookMatMulNBits : public MatMulNBits {
 public:
  enum Input : std::size_t { kA, kCodes, kScales, kCodebook };
  static_assert(kCodebook == static_cast<std::size_t>(MatMulNBits::kZeroPoints));
  static constexpr const char* kName = "CodebookMatMulNBits";
  static constexpr ONNXTensorElementDataType kInputs[] = {kFloat, kUint8, kFloat, kInt8};
  static constexpr Signature kSignature{kInputs, {}, MatMulNBits::kOutputs};

  explicit CodebookMatMulNBits(const OrtKernelInfo* info) : MatMulNBits(info, WeightScheme::kCodebook) {}
};

}  // namespace edgekiln::ort
