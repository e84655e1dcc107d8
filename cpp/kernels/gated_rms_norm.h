// RMS norm of a gated value, as layers with states have it before their output projection.
#pragma once

#include <cstddef>

#include "kernels/common/parallel.h"

namespace edgekiln {

// With silu(x) = x / (1 + e^-x), for each row:
//   norm before gate (Gated DeltaNet): out = rms_norm(x) * gamma * silu(gate)
//   gate before norm (Mamba-2): out = rms_norm(x * silu(gate)) * gamma
struct GatedRmsNormArgs {
  std::size_t rows, width;
  const float *x, *gate;  // [rows, width]
  const float* gamma;     // [width]
  float epsilon;
  bool norm_before_gate;
  float* out;  // [rows, width]; may be `x`
};

using GatedRmsNormKernel = void (*)(const GatedRmsNormArgs&, const Parallel&);

}  // namespace edgekiln
