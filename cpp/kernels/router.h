// The router of a mixture of experts: which experts each token chooses, and the gates that weight their outputs.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/common/parallel.h"

namespace edgekiln {

// What becomes of the logits, one an expert: their softmax, from which experts are chosen; the softmax of the chosen
// logits; or their sigmoids, from which experts are chosen.
enum class RouterScore { kSoftmax, kSoftmaxOfChosen, kSigmoid };

struct Router {
  std::size_t experts, chosen, hidden;  // chosen: experts a token, at most `experts`
  const float* weight;                  // [experts, hidden]
  const float* bias;                    // [experts], of the logits; null for none
  const float* choice_bias;             // [experts], added to scores to choose, but not for gates; null for none
  RouterScore score;
  bool normalized;     // gates are divided by their sum plus `sum_epsilon`
  float sum_epsilon;   // for `normalized`
  float scale = 1.0f;  // factor of the gates

  // Between the logits of two tokens.
  std::size_t stride() const { return (experts + kPadding - 1) / kPadding * kPadding; }

 private:
  static constexpr std::size_t kPadding = 16;
};

struct RouterArgs {
  std::size_t tokens;
  const float* x;       // [tokens, hidden]
  float* logits;        // [tokens, stride()], memory for the kernel
  std::int64_t* index;  // [tokens, chosen], the experts of the highest scores, highest first; of equal ones the first
  float* gates;         // [tokens, chosen]
};

// A token's results do not depend on the other tokens. Where scores are NaN, `index` has some of the experts.
using RouterKernel = void (*)(const Router&, const RouterArgs&, const Parallel&);

}  // namespace edgekiln
