// The selective scan of Mamba (Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023,
// algorithm 2), with what its function selective_scan_fn does around it.
#pragma once

#include <cstddef>

#include "kernels/common/parallel.h"

namespace edgekiln {

// For each token and channel, with state S [states]:
//   step = softplus(dt + dt_bias)
//   S = exp(step a) S + step x b
//   out = (Sᵀc + d x) silu(z)
// Each token has the same bits whatever the length of the call.
struct SelectiveScanArgs {
  std::size_t batch, length, channels, states;  // states: at most kMaxSelectiveScanStates
  const float* x;                               // [batch, length, channels]
  const float* dt;                              // [batch, length, channels]
  const float* a;                               // [states, channels]
  const float *b, *c;                           // [batch, length, states]
  const float* d;                               // [channels]
  const float* z;                               // [batch, length, channels]
  const float* dt_bias;                         // [channels]
  const float* past;                            // [batch, channels, states]
  float* out;                                   // [batch, length, channels]
  float* present;                               // [batch, channels, states]; not `past`
  std::size_t z_stride = 0;                     // floats from a token of z to the next; 0 for channels
};

inline constexpr std::size_t kMaxSelectiveScanStates = 64;

using SelectiveScanKernel = void (*)(const SelectiveScanArgs&, const Parallel&);

}  // namespace edgekiln
