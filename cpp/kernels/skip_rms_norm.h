// Skip RMS norm: a residual addition and the root-mean-square norm of the sum (Zhang and Sennrich, "Root Mean Square
// Layer Normalization", 2019).
#pragma once

#include <cstddef>

#include "kernels/common/parallel.h"

namespace edgekiln {

// For each token: sum = a + b + bias and out = sum / sqrt(mean(sum^2) + epsilon) * gamma, in float32.
struct SkipRmsNormArgs {
  std::size_t tokens, width;
  const float *a, *b;  // [tokens, width]
  const float* gamma;  // [width]
  const float* bias;   // [width]; null for none
  float epsilon;
  float* out;  // [tokens, width]; may be `a` or `b`
  float* sum;  // [tokens, width]; may be `a` or `b`; null if the sum is not needed
};

using SkipRmsNormKernel = void (*)(const SkipRmsNormArgs&, const Parallel&);

}  // namespace edgekiln
