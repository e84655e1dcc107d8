// The activation between the products of a gated layer.
#pragma once

#include <cstddef>

#include "kernels/common/parallel.h"

namespace edgekiln {

// out[rows, width] = silu(gate) * up, silu(x) = x / (1 + e^-x); each row of `a` is `width` gates and then `width` ups.
struct SwigluArgs {
  std::size_t rows, width;
  const float* a;
  float* out;
};

using SwigluKernel = void (*)(const SwigluArgs&, const Parallel&);

}  // namespace edgekiln
