// SwiGLU, the activation of a gated MLP (Shazeer, "GLU Variants Improve Transformer", 2020).
#pragma once

#include <cstddef>

#include "kernels/common/parallel.h"

namespace edgekiln {

// out = silu(gate) * up with silu(x) = x / (1 + e^-x), in float32.
struct SwigluArgs {
  std::size_t tokens, width;
  const float* gate_up;  // [tokens, 2, width]
  float* out;            // [tokens, width]
};

using SwigluKernel = void (*)(const SwigluArgs&, const Parallel&);

}  // namespace edgekiln
