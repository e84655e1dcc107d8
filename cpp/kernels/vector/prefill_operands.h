// The number formats that prefill attention multiplies: how queries, keys, values and weights are laid out for its
// GEMMs.
//
// An Operands type has a Word of 32 bits, which holds kValues values along k, and
//   pack_queries, pack_keys, pack_values, pack_weights: convert float operands to words
//   matmul: c[m, n] = a[m, k] * b[k, n] of words, added to c if `accumulate`; it may access m up to a multiple of 16
//   kRowBlock: query rows whose scores stay in the cache
//   Configuration: an object that exists while a thread calls matmul
//   kSkipsMaskedKeys, if it is a member: keys that all rows of a block mask are not multiplied
#pragma once

#include <algorithm>

#include "kernels/vector/gemm.h"
#include "kernels/vector/transpose.h"

namespace edgekiln::EDGEKILN_ISA {

// Multiplication in vectors.
struct VectorMatMul {
  struct Configuration {};

  template <typename... Arguments>
  static void matmul(Arguments... arguments) {
    gemm(arguments...);
  }
};

struct FloatOperands : VectorMatMul {
  static constexpr std::size_t kRowBlock = 48;
  using Word = float;
  static constexpr std::size_t kValues = 1;

  static void pack_queries(const float* from, std::size_t count, float* to) { std::copy_n(from, count, to); }

  // to[dim, stride] = keys [keys, dim] transposed.
  static void pack_keys(const float* from, std::size_t keys, std::size_t dim, float* to, std::size_t stride, float*) {
    transpose(from, keys, dim, to, stride);
  }

  // Values [keys, padded] of [keys, dim], where `padded` is a multiple of kLanes: in `to` if padding is needed.
  static const float* pack_values(const float* from, std::size_t keys, std::size_t dim, std::size_t padded, float* to) {
    if (padded == dim) return from;
    for (std::size_t i = 0; i < keys; ++i) std::copy_n(from + i * dim, dim, to + i * padded);
    return to;
  }

  static void pack_weights(float*, std::size_t) {}
};

}  // namespace edgekiln::EDGEKILN_ISA
