// Float GEMM with a weight in another form: a slab of 64 columns and 128 values of k is dequantized into the L1 cache
// and multiplied there. For every instruction set.
#pragma once

#include <algorithm>

#include "kernels/common/parallel.h"
#include "kernels/vector/gemm.h"

namespace edgekiln::EDGEKILN_ISA {

inline constexpr std::size_t kFloatColumns = 64;
inline constexpr std::size_t kFloatK = 128;

// out[m, n] = a[m, k] * w, for columns [first, first + kFloatColumns).
//
// `fill(first, count, first_k, count_k, to)` writes to[count_k, kFloatColumns] = the weights of `count` columns from
// `first` on and count_k values of k from `first_k` on; it may write up to a whole vector of columns past the last.
template <typename Fill>
void dequantized_gemm(const float* a, std::size_t m, std::size_t k, std::size_t n, std::size_t first, float* out,
                      Fill&& fill) {
  const std::size_t count = std::min(kFloatColumns, n - first);
  const bool fits = count == kFloatColumns;
  thread_local Scratch memory;
  float* slab = at_least(memory, kFloatColumns * (kFloatK + (fits ? 0 : m)));
  float* to = fits ? out + first : slab + kFloatColumns * kFloatK;
  const std::size_t stride = fits ? n : kFloatColumns;
  const std::size_t width = (count + kLanes - 1) / kLanes * kLanes;
  for (std::size_t at = 0; at < k; at += kFloatK) {
    const std::size_t count_k = std::min(kFloatK, k - at);
    fill(first, count, at, count_k, slab);
    gemm(m, width, count_k, a + at, k, slab, kFloatColumns, to, stride, at != 0);
  }
  if (fits) return;
  for (std::size_t row = 0; row < m; ++row) std::copy_n(to + row * kFloatColumns, count, out + row * n + first);
}

}  // namespace edgekiln::EDGEKILN_ISA
