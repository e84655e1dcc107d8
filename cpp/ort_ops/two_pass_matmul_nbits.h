// edgekiln.ort::TwoPassMatMulNBits: MatMulNBits whose largest results matter.
#pragma once

#include <algorithm>
#include <optional>

#include "kernels/thread_team.h"
#include "kernels/two_pass_lm_head.h"
#include "ort_ops/matmul_nbits.h"

namespace edgekiln::ort {

// An op of our own: graphs bring MatMulNBits under this name, for where this kernel is not registered.
class TwoPassMatMulNBits {
 public:
  static constexpr const char* kName = "TwoPassMatMulNBits";
  static constexpr Signature kSignature = MatMulNBits::kSignature;

  explicit TwoPassMatMulNBits(const OrtKernelInfo* info) : depth_(integer(info, "K")), columns_(integer(info, "N")) {
    const Zero zero = input_count(info) > MatMulNBits::kOptional[0] ? Zero::kZeroPoints : Zero::kMiddle;
    const MatMulNBitsCall weight = constant_code_weight(info, 1, depth_, columns_, zero);
    if (shortlist_ = shortlist_of(weight, real(info, "margin")); shortlist_) {
      release(weight);
    } else {
      panels_.emplace(packed(weight, half_scales_of(weight)));
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
    if (!shortlist_) return kernels().front().code_panels(*panels_, a.floats(), rows, out, threads, scratch);
    const auto script = [&](const Parallel& parallel) {
      for (std::size_t row = 0; row < rows; row += kQuantizedRows)
        kernels().front().shortlist(*shortlist_, a.floats() + row * depth_, std::min(kQuantizedRows, rows - row),
                                    out + row * columns_, parallel, scratch);
    };
    Team<decltype(script)>::run(threads, script);
  }

 private:
  std::int64_t depth_, columns_;
  std::optional<Shortlist> shortlist_;
  std::optional<CodePanels> panels_;
};

}  // namespace edgekiln::ort
