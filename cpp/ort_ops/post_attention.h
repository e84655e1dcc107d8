// edgekiln.ort::{GroupBias,ZeroPoint,Symmetric,PerTokenInt8}{,Mixture}PostAttention: a decoder layer from its
// attention's output to the QKV projections of the next layer. See PostAttentionBlock and MixturePostAttentionBlock.
#pragma once

#include <algorithm>
#include <array>

#include "kernels/common/thread_team.h"
#include "ort_ops/ort_api.h"
#include "ort_ops/post_attention_weights.h"

namespace edgekiln::ort {

// Engines define a function of standard ops under this name, which runs where the kernel is not registered. Weights
// must be constant. `Constants` is PostAttentionConstants or MixtureConstants of a format.
template <typename Constants>
class PostAttention {
 public:
  enum Input : std::size_t { kAttended, kResidual, kFirstConstant };
  enum Output : std::size_t { kProjected, kSum };
  static constexpr const char* kName = Constants::kPostAttentionName;
  static constexpr auto kInputs = [] {
    std::array<ONNXTensorElementDataType, kFirstConstant + Constants::kCount + Constants::kOptional> types{};
    types.fill(kFloat);
    std::copy(Constants::kTypes.begin(), Constants::kTypes.end(), types.begin() + kFirstConstant);
    return types;
  }();
  static constexpr auto kOptional = [] {
    std::array<std::size_t, Constants::kOptional> inputs{};
    for (std::size_t i = 0; i < inputs.size(); ++i) inputs[i] = kFirstConstant + Constants::kCount + i;
    return inputs;
  }();
  static constexpr std::array kOutputs{kFloat, kFloat};
  static constexpr Signature kSignature{kInputs, kOptional, kOutputs};

  explicit PostAttention(const OrtKernelInfo* info) : block_(Constants::load(WeightPacker(info), kFirstConstant)) {}

  void compute(OrtKernelContext* context) const {
    const Tensor attended = input(context, kAttended), residual = input(context, kResidual);
    const auto width = [](std::size_t size) { return static_cast<std::int64_t>(size); };
    std::vector<std::int64_t> shape = attended.shape;
    if (shape.empty() || shape.back() != width(block_.widths.attended))
      fail("the input is not as wide as the attention");
    shape.back() = width(block_.widths.hidden);
    if (residual.shape != shape) fail("the residual has another shape than the output");
    const std::size_t m = leading_size(shape), tokens = tokens_of(shape);
    auto* sum = static_cast<float*>(output(context, kSum, shape));
    shape.back() = width(block_.widths.projected);
    auto* projected = static_cast<float*>(output(context, kProjected, shape));
    if (!m) return;
    const PostAttentionArgs args{attended.floats(), residual.floats(), m, tokens, projected, sum};
    // Captured by reference to this thread's: the region may run on another thread.
    thread_local DecoderScratch own_scratch;
    run_team({run_parallel, context},
             [&, &scratch = own_scratch](const Parallel& parallel) { block_.compute(args, parallel, scratch); });
  }

 private:
  typename Constants::Block block_;
};

}  // namespace edgekiln::ort
