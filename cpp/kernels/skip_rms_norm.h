// A residual addition and the root-mean-square norm of its sum.
#pragma once

#include <cstddef>

#include "kernels/common/parallel.h"

namespace edgekiln {

// sum = a + b + bias and out = sum / sqrt(mean(sum^2) + epsilon) * gamma, row by row.
struct SkipRmsNormArgs {
  std::size_t rows, width;
  const float *a, *b;  // [rows, width]
  const float* gamma;  // [width]
  const float* bias;   // [width]; null for none
  float epsilon;
  float* out;  // [rows, width]; may be `a` or `b`
  float* sum;  // [rows, width]; may be `a` or `b`; null if nobody reads it
};

using SkipRmsNormKernel = void (*)(const SkipRmsNormArgs&, const Parallel&);

}  // namespace edgekiln
