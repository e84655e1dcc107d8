// edgekiln.ort::TwoPassMatMulNBits: MatMulNBits of an LM head, exact for the candidates near the maximum.
#pragma once

#include <algorithm>
#include <optional>

#include "kernels/common/thread_team.h"
#include "kernels/kernel_table.h"
#include "ort_ops/constant_weights.h"
#include "ort_ops/matmul_nbits.h"

namespace edgekiln::ort {

// Engines define MatMulNBits under this name, which runs where the kernel is not registered.
class TwoPassMatMulNBits {
 public:
  enum Input : std::size_t { kA, kCodes, kScales, kZeroPoints };
  static constexpr const char* kName = "TwoPassMatMulNBits";
  static constexpr Signature kSignature = MatMulNBits::kSignature;

  explicit TwoPassMatMulNBits(const OrtKernelInfo* info) : k_(integer(info, "K")), n_(integer(info, "N")) {
    const MatMulNBitsArgs weight = constant_nbits_weight(info, kCodes, k_, n_, MatMulNBits::scheme_of(info));
    const WeightPacker packer(info);
    if (kernels().two_pass_lm_head) lm_head_ = packer.pack_head(weight, real(info, "margin"));
    if (!lm_head_) packed_.emplace(packer.pack(weight));
  }

  void compute(OrtKernelContext* context) const {
    const Tensor a = input(context, kA);
    std::vector<std::int64_t> shape = a.shape;
    if (shape.empty() || shape.back() != k_) fail("the input is not K wide");
    shape.back() = n_;
    const std::size_t m = leading_size(shape);
    auto* out = static_cast<float*>(output(context, 0, shape));
    const Parallel threads{run_parallel, context};
    // Bound here: the region may run on another thread, whose thread_local it must not use.
    thread_local Scratch own;
    Scratch& scratch = own;
    if (!lm_head_) return kernels().nbits_gemm(*packed_, a.floats(), m, tokens_of(shape), out, threads, scratch);
    const auto region = [&](const Parallel& parallel) {
      for (std::size_t token = 0; token < m; token += kLmHeadRows)
        kernels().two_pass_lm_head(*lm_head_, a.floats() + token * k_, std::min(kLmHeadRows, m - token),
                                   out + token * n_, parallel, scratch);
    };
    ThreadTeam<decltype(region)>::run(threads, region);
  }

 private:
  std::int64_t k_, n_;
  // One of the two: weights that pack_lm_head() cannot split, or all where the instruction set has no kernel for two
  // passes, are packed as those of MatMulNBits.
  std::optional<PackedLmHead> lm_head_;
  std::optional<PackedNBits> packed_;
};

}  // namespace edgekiln::ort
