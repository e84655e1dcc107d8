// edgekiln.ort::{,Symmetric,GroupBias,Codebook}ExpertMatMulNBits: MatMulNBits with the weights of chosen experts.
#pragma once

#include <optional>

#include "ort_ops/constant_weights.h"
#include "ort_ops/expert_inputs.h"

namespace edgekiln::ort {

// Engines define functions of standard ops under these names, which run where the kernels are not registered.
class ExpertMatMulNBits {
 public:
  static constexpr const char* kName = "ExpertMatMulNBits";
  static constexpr ONNXTensorElementDataType kInputs[] = {kFloat, kInt64, kUint8, kFloat, kUint8};
  static constexpr ONNXTensorElementDataType kOutputs[] = {kFloat};
  static constexpr Signature kSignature{kInputs, {}, kOutputs};

  explicit ExpertMatMulNBits(const OrtKernelInfo* info) : ExpertMatMulNBits(info, WeightScheme::kZeroPoints) {}

  void compute(OrtKernelContext* context) const {
    const ExpertMatMulArgs args = expert_args(context, experts_, weight_.k, n_);
    if (packed_) {
      run_expert_matmul(context, NBitsExpertFormat{*packed_}, args);
    } else {
      run_expert_matmul(context, UnpackedExpertFormat{weight_, n_}, args);
    }
  }

 protected:
  ExpertMatMulNBits(const OrtKernelInfo* info, WeightScheme scheme)
      : experts_(expert_count(info)), n_(integer(info, "N")) {
    weight_ = constant_nbits_weight(info, kExpertWeight, integer(info, "K"), experts_ * n_, scheme);
    if (kernels().nbits_gemm) packed_.emplace(weight_, experts_, WeightPacker(info).experts_place(weight_, experts_));
  }

 private:
  std::size_t experts_, n_;
  MatMulNBitsArgs weight_{};  // of all experts, one after another
  std::optional<NBitsExperts> packed_;
};

class SymmetricExpertMatMulNBits : public ExpertMatMulNBits {
 public:
  static constexpr const char* kName = "SymmetricExpertMatMulNBits";
  static constexpr ONNXTensorElementDataType kInputs[] = {kFloat, kInt64, kUint8, kFloat};
  static constexpr Signature kSignature{kInputs, {}, ExpertMatMulNBits::kOutputs};

  explicit SymmetricExpertMatMulNBits(const OrtKernelInfo* info) : ExpertMatMulNBits(info, WeightScheme::kSymmetric) {}
};

class GroupBiasExpertMatMulNBits : public ExpertMatMulNBits {
 public:
  static constexpr const char* kName = "GroupBiasExpertMatMulNBits";
  static constexpr ONNXTensorElementDataType kInputs[] = {kFloat, kInt64, kUint8, kFloat, kFloat};
  static constexpr Signature kSignature{kInputs, {}, ExpertMatMulNBits::kOutputs};

  explicit GroupBiasExpertMatMulNBits(const OrtKernelInfo* info) : ExpertMatMulNBits(info, WeightScheme::kGroupBias) {}
};

// Only for instruction sets with packed weights.
class CodebookExpertMatMulNBits : public ExpertMatMulNBits {
 public:
  static constexpr const char* kName = "CodebookExpertMatMulNBits";
  static constexpr ONNXTensorElementDataType kInputs[] = {kFloat, kInt64, kUint8, kFloat, kInt8};
  static constexpr Signature kSignature{kInputs, {}, ExpertMatMulNBits::kOutputs};

  explicit CodebookExpertMatMulNBits(const OrtKernelInfo* info) : ExpertMatMulNBits(info, WeightScheme::kCodebook) {}
};

}  // namespace edgekiln::ort
