// edgekiln.ort::TwoPassMatMulNBits: MatMulNBits whose largest results matter.
#pragma once

#include <algorithm>
#include <optional>

#include "kernels/common/thread_team.h"
#include "kernels/pack/packed_lm_head.h"
#include "ort_ops/matmul_nbits.h"

namespace edgekiln::ort {

// An op of our own: graphs bring MatMulNBits under this name, for where this kernel is not registered.
class TwoPassMatMulNBits {
 public:
  static constexpr const char* kName = "TwoPassMatMulNBits";
  static constexpr Signature kSignature = MatMulNBits::kSignature;

  explicit TwoPassMatMulNBits(const OrtKernelInfo* info) : depth_(integer(info, "K")), columns_(integer(info, "N")) {
    const WeightScheme scheme = input_count(info) > MatMulNBits::kOptional[0] ? WeightScheme::kZeroPoints : WeightScheme::kSymmetric;
    const MatMulNBitsArgs weight = constant_code_weight(info, 1, depth_, columns_, scheme);
    if (shortlist_ = pack_lm_head(weight, real(info, "margin")); shortlist_) {
      release(weight);
    } else {
      panels_.emplace(packed(weight, float16_params_of(weight)));
    }
  }

  void compute(OrtKernelContext* context) const {
    const Tensor a = input(context, 0);
    std::vector<std::int64_t> dims = a.shape;
    if (dims.empty() || dims.back() != depth_) fail("the input is not K wide");
    dims.back() = columns_;
    const std::size_t rows = rows_of(dims);
    auto* out = static_cast<float*>(output(context, 0, dims));
    const Parallel threads{run_parallel, context};
    thread_local Scratch own;
    Scratch& scratch = own;
    if (!shortlist_) return kernels().nbits_gemm(*panels_, a.floats(), rows, out, threads, scratch);
    const auto script = [&](const Parallel& parallel) {
      for (std::size_t row = 0; row < rows; row += kGemvMaxM)
        kernels().two_pass_lm_head(*shortlist_, a.floats() + row * depth_, std::min(kGemvMaxM, rows - row),
                                    out + row * columns_, parallel, scratch);
    };
    ThreadTeam<decltype(script)>::run(threads, script);
  }

 private:
  std::int64_t depth_, columns_;
  std::optional<PackedLmHead> shortlist_;
  std::optional<PackedNBits> panels_;
};

}  // namespace edgekiln::ort
