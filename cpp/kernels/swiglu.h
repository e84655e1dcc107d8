// The activation between the products of a gated layer.
#pragma once

#include <cstddef>

#include "kernels/parallel.h"

namespace edgekiln {

// out[rows, width] = silu(gate) * up, silu(x) = x / (1 + e^-x); each row of `a` is `width` gates and then `width` ups.
struct GatedSiluCall {
  std::size_t rows, width;
  const float* a;
  float* out;
};

using GatedSiluKernel = void (*)(const GatedSiluCall&, const Parallel&);

}  // namespace edgekiln
