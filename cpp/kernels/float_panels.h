// Products in float with a weight that is kept in another form: a panel of it becomes float in the first-level cache
// and is multiplied there.
#pragma once

#include <algorithm>

#include "kernels/gemm.h"
#include "kernels/parallel.h"

namespace edgekiln::EDGEKILN_ISA {

inline constexpr std::size_t kFloatColumns = 64;
inline constexpr std::size_t kFloatDepth = 128;  // a panel fits the first-level cache

// out[rows, columns] = a[rows, depth] * w, for columns [first, first + kFloatColumns).
//
// `fill(first, count, k, depth, to)` writes to[depth, kFloatColumns] = rows [k, k + depth) of w in these columns; those
// up to a whole vector after the last are written too.
template <typename Fill>
void multiply_float_panel(const float* a, std::size_t rows, std::size_t depth, std::size_t columns, std::size_t first,
                          float* out, Fill&& fill) {
  const std::size_t count = std::min(kFloatColumns, columns - first);
  const bool fits = count == kFloatColumns;
  thread_local Scratch memory;
  float* panel = at_least(memory, kFloatColumns * (kFloatDepth + (fits ? 0 : rows)));
  float* to = fits ? out + first : panel + kFloatColumns * kFloatDepth;
  const std::size_t stride = fits ? columns : kFloatColumns;
  const std::size_t width = (count + kLanes - 1) / kLanes * kLanes;
  for (std::size_t k = 0; k < depth; k += kFloatDepth) {
    const std::size_t part = std::min(kFloatDepth, depth - k);
    fill(first, count, k, part, panel);
    gemm(rows, width, part, a + k, depth, panel, kFloatColumns, to, stride, k != 0);
  }
  if (fits) return;
  for (std::size_t row = 0; row < rows; ++row)
    std::copy_n(to + row * kFloatColumns, count, out + row * columns + first);
}

}  // namespace edgekiln::EDGEKILN_ISA
