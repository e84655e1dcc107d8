// Causal depthwise convolution over the tokens of a sequence, with the columns before them as a state (Dao, package
// causal_conv1d).
#pragma once

#include <cstddef>

#include "kernels/common/parallel.h"

namespace edgekiln {

// out[t] = activation(bias + sum over i of weight[i] * column[t + i]), where the columns are those of `past` and then
// those of `x`. Each token has the same bits whatever the length of the call.
struct CausalConvArgs {
  std::size_t batch, length, channels, width;  // width: tokens that an output depends on, at most kMaxCausalConvWidth
  const float* x;                              // [batch, length, channels]
  const float* weight;                         // [width, channels]
  const float* bias;                           // [channels]
  const float* past;                           // [batch, channels, width - 1]
  bool silu;                                   // the activation; none otherwise
  float* out;                                  // [batch, length, channels]
  float* present;                              // [batch, channels, width - 1], the last columns; not `past`
  std::size_t x_stride = 0;                    // floats from a token of x to the next; 0 for channels
};

inline constexpr std::size_t kMaxCausalConvWidth = 16;

using CausalConvKernel = void (*)(const CausalConvArgs&, const Parallel&);

}  // namespace edgekiln
