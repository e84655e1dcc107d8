// What attention over a prompt multiplies: floats or, where the processor multiplies them, pairs of bfloat16.
#pragma once

#include "kernels/amx.h"
#include "kernels/gemm.h"
#include "kernels/transpose.h"

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
struct PairOperands : VectorProducts {
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

#if defined(EDGEKILN_TILES)

// The same in tiles, whose depth is a multiple of 16 pairs.
struct TileOperands : PairOperands {
  using Unit = tiles::Configured;

  static const Pair* values(const float* from, std::size_t keys, std::size_t dim, std::size_t padded, Pair* to) {
    PairOperands::values(from, keys, dim, padded, to);
    const std::size_t pairs = (keys + 1) / 2, whole = tiles::whole_rows(pairs);
    std::fill(to + pairs * dim, to + whole * dim, Pair{});
    return to;
  }

  static void multiply(std::size_t rows, std::size_t columns, std::size_t depth, const Pair* a, std::size_t a_stride,
                       const Pair* b, std::size_t b_stride, float* c, std::size_t c_stride, bool accumulate) {
    constexpr std::size_t word = sizeof(Pair), edge = tiles::kRows;
    const tiles::Layout a_at{a_stride * word, tiles::kBytes, edge * a_stride * word};
    const tiles::Layout b_at{b_stride * word, edge * b_stride * word, tiles::kBytes};
    const tiles::Layout c_at{c_stride * word, tiles::kBytes, edge * c_stride * word};
    const std::size_t height = (rows + edge - 1) / edge, width = columns / edge, steps = (depth + edge - 1) / edge;
    for (std::size_t j = 0; j < width; j += 2)
      for (std::size_t i = 0; i < height; i += 2)
        tiles::product<tiles::Numbers::kPairs>(height - i, width - j, a + i * edge * a_stride, a_at, b + j * edge, b_at,
                                               steps, c + i * edge * c_stride + j * edge, c_at, accumulate);
  }
};

#endif

}  // namespace edgekiln::EDGEKILN_ISA
