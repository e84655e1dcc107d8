// What attention over a prompt multiplies: floats or, where the processor multiplies them, pairs of bfloat16.
#pragma once

#include <algorithm>

#include "kernels/vector/gemm.h"
#include "kernels/vector/transpose.h"

namespace edgekiln::EDGEKILN_ISA {

// What multiplies words in vectors.
struct VectorProducts {
  struct Unit {};  // while one of these is there

  // As gemm(). Rows up to a multiple of 16 may be read and written.
  template <typename... Arguments>
  static void multiply(Arguments... arguments) {
    gemm(arguments...);
  }
};

// Numbers as they are.
struct FloatOperands : VectorProducts {
  static constexpr std::size_t kRowBlock = 48;  // query rows whose scores stay in the cache
  using Word = float;
  static constexpr std::size_t kNumbers = 1;  // in a word

  static void rows(const float* from, std::size_t count, float* to) { std::copy_n(from, count, to); }

  // to[dim, stride] = keys [keys, dim] transposed.
  static void keys(const float* from, std::size_t keys, std::size_t dim, float* to, std::size_t stride, float*) {
    transpose(from, keys, dim, to, stride);
  }

  // Values [keys, dim] with rows of `padded`, a multiple of kLanes: where they are, or in `to`.
  static const float* values(const float* from, std::size_t keys, std::size_t dim, std::size_t padded, float* to) {
    if (padded == dim) return from;
    for (std::size_t i = 0; i < keys; ++i) std::copy_n(from + i * dim, dim, to + i * padded);
    return to;
  }

  static void weights(float*, std::size_t) {}
};

}  // namespace edgekiln::EDGEKILN_ISA
