// What attention over a prompt multiplies: floats or, where the processor multiplies them, pairs of bfloat16.
#pragma once

#include "gemm.h"
#include "transpose.h"

namespace edgekiln::EDGEKILN_ISA {

// Numbers as they are.
struct FloatOperands {
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

#if defined(__AVX512BF16__)

// Numbers rounded to bfloat16; sums stay float.
struct PairOperands {
  using Word = Pair;
  static constexpr std::size_t kNumbers = 2;

  // Whether heads are of a size that fills whole vectors.
  static bool take(std::size_t dim) { return dim % (2 * kLanes) == 0; }

  static void rows(const float* from, std::size_t count, Pair* to) { to_pairs(from, count, to); }

  // to[dim / 2, stride], of keys [keys, dim]; `memory` holds as many floats.
  static void keys(const float* from, std::size_t keys, std::size_t dim, Pair* to, std::size_t stride, float* memory) {
    to_pairs(from, keys * dim, reinterpret_cast<Pair*>(memory));
    transpose(memory, keys, dim / 2, reinterpret_cast<float*>(to), stride);
  }

  // to[(keys + 1) / 2, dim], of values [keys, dim].
  static const Pair* values(const float* from, std::size_t keys, std::size_t dim, std::size_t, Pair* to) {
    for (std::size_t i = 0; i < keys; i += 2)
      pair_rows(from + i * dim, i + 1 < keys ? from + (i + 1) * dim : nullptr, dim, to + i / 2 * dim);
    return to;
  }

  // In place of a line of floats, which has a multiple of 2 * kLanes.
  static void weights(float* line, std::size_t count) {
    to_pairs(line, (count + 2 * kLanes - 1) / (2 * kLanes) * (2 * kLanes), reinterpret_cast<Pair*>(line));
  }
};

#endif

}  // namespace edgekiln::EDGEKILN_ISA
