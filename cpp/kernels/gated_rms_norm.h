// RMS norm of a gated value, as layers with states have it before their output projection.
#pragma once

#include <cstddef>

#include "kernels/common/parallel.h"

namespace edgekiln {

// With silu(x) = x / (1 + e^-x), for each row:
//   norm before gate (Gated DeltaNet): out = rms_norm(x) * gamma * silu(gate)
//   gate before norm (Mamba-2): out = rms_norm(x * silu(gate)) * gamma
//   no norm: out = x * silu(gate)
struct GatedRmsNormArgs {
  std::size_t rows, width;
  const float *x, *gate;  // [rows, width]
  const float* gamma;     // [width]; null for no norm
  float epsilon;
  bool norm_before_gate;
  float* out;                   // [rows, width]; may be `x`
  std::size_t gate_stride = 0;  // floats from a row of the gate to the next; 0 for width
};

using GatedRmsNormKernel = void (*)(const GatedRmsNormArgs&, const Parallel&);

}  // namespace edgekiln
