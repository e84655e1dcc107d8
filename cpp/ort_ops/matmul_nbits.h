// com.microsoft::MatMulNBits on float tensors, with weights of 4 or 8 bits in blocks of 32, 64 or 128, and of
// 8 bits also of 16.
#pragma once

#include <optional>

#include "kernels/common/thread_team.h"
#include "kernels/kernel_table.h"
#include "kernels/pack/float16_group_params.h"
#include "ort_ops/constant_weights.h"
#include "ort_ops/ort_api.h"

namespace edgekiln::ort {

class MatMulNBits {
 public:
  enum Input : std::size_t { kA, kCodes, kScales, kZeroPoints };
  static constexpr const char* kName = "MatMulNBits";
  static constexpr ONNXTensorElementDataType kInputs[] = {kFloat, kUint8, kFloat, kUint8};
  static constexpr std::size_t kOptional[] = {kZeroPoints};
  static constexpr ONNXTensorElementDataType kOutputs[] = {kFloat};
  static constexpr Signature kSignature{kInputs, kOptional, kOutputs};

  explicit MatMulNBits(const OrtKernelInfo* info) : MatMulNBits(info, scheme_of(info)) {}

  // Symmetric where the node has no zero points.
  static WeightScheme scheme_of(const OrtKernelInfo* info) {
    return input_count(info) > kZeroPoints ? WeightScheme::kZeroPoints : WeightScheme::kSymmetric;
  }

  void compute(OrtKernelContext* context) const {
    const Tensor a = input(context, kA);
    std::vector<std::int64_t> shape = a.shape;
    if (shape.empty() || shape.back() != static_cast<std::int64_t>(shape_.k)) fail("the input is not K wide");
    shape.back() = static_cast<std::int64_t>(shape_.n);
    MatMulNBitsArgs args = shape_;
    args.m = leading_size(shape);
    const std::size_t tokens = tokens_of(shape);
    args.a = a.floats();
    args.out = static_cast<float*>(output(context, 0, shape));
    if (!args.m) return;
    // Bound here: the region may run on another thread, whose thread_local it must not use.
    thread_local Scratch own;
    Scratch& scratch = own;
    const Parallel parallel{run_parallel, context};
    if (packed_) {
      return run_team(parallel, [&](const Parallel& threads) {
        kernels().nbits_gemm(*packed_, args.a, args.m, tokens, args.out, threads, scratch);
      });
    }
    args.codes = static_cast<const std::uint8_t*>(input_data(context, kCodes));
    args.scales = static_cast<const float*>(input_data(context, kScales));
    if (scheme_ == WeightScheme::kGroupBias) {
      args.group_bias = static_cast<const float*>(input_data(context, kZeroPoints));
    } else {
      args.zero_points = static_cast<const std::uint8_t*>(input_data(context, kZeroPoints));
    }
    args.float16_scales = float16_params_.scales();
    args.float16_min = float16_params_.mins();
    kernels().matmul_nbits(args, parallel, scratch);
  }

 protected:
  MatMulNBits(const OrtKernelInfo* info, WeightScheme scheme) : scheme_(scheme) {
    shape_.k = integer(info, "K");
    shape_.n = integer(info, "N");
    shape_.group_size = integer(info, "block_size");
    shape_.bits = static_cast<int>(integer(info, "bits"));
    const MatMulNBitsArgs weight = nbits_weight(info, kCodes, shape_, scheme);
    if (!weight.codes && scheme == WeightScheme::kCodebook) fail("weights must be constant");
    if (!weight.codes) return;
    if (kernels().nbits_gemm) {
      packed_.emplace(WeightPacker(info).pack(weight));
    } else {
      float16_params_ = float16_group_params(weight);
    }
  }

 private:
  WeightScheme scheme_;
  MatMulNBitsArgs shape_{};
  // Of a constant weight: packed where the processor has kernels for that, else only its float16 scales.
  std::optional<PackedNBits> packed_;
  Float16GroupParams float16_params_;
};

}  // namespace edgekiln::ort
