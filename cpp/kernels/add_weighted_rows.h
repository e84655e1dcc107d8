// Sums of rows with weights: the outputs of the experts of each token.
#pragma once

#include <cstddef>

#include "kernels/common/parallel.h"

namespace edgekiln {

// to[width] += weight * from[width].
struct WeightedRow {
  const float* from;
  float weight;
  float* to;
};

// All `count` rows, in their order; several may have the same `to`.
using AddWeightedRowsKernel = void (*)(const WeightedRow* rows, std::size_t count, std::size_t width, const Parallel&);

}  // namespace edgekiln
