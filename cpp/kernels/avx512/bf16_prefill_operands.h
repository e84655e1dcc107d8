// Operands of prefill attention in bfloat16, multiplied in vectors. For AVX512-BF16.
#pragma once

#include "kernels/avx512/bf16.h"
#include "kernels/vector/prefill_operands.h"

namespace edgekiln::EDGEKILN_ISA {

// Operands rounded to bfloat16, in pairs along k; accumulators stay float.
struct Bf16Operands : VectorMatMul {
  static constexpr std::size_t kRowBlock = 48;
  using Word = Bf16Pair;
  static constexpr std::size_t kValues = 2;

  // Whether rows of head_dim values fill whole vectors.
  static bool supports(std::size_t dim) { return dim % (2 * kLanes) == 0; }

  static void pack_queries(const float* from, std::size_t count, Bf16Pair* to) { to_bf16(from, count, to); }

  // to[dim / 2, stride] = keys [keys, dim] transposed; `memory` has room for [keys, dim] floats.
  static void pack_keys(const float* from, std::size_t keys, std::size_t dim, Bf16Pair* to, std::size_t stride,
                        float* memory) {
    to_bf16(from, keys * dim, reinterpret_cast<Bf16Pair*>(memory));
    transpose(memory, keys, dim / 2, reinterpret_cast<float*>(to), stride);
  }

  // to[(keys + 1) / 2, dim] = values [keys, dim], two keys a word.
  static const Bf16Pair* pack_values(const float* from, std::size_t keys, std::size_t dim, std::size_t, Bf16Pair* to) {
    for (std::size_t i = 0; i < keys; i += 2)
      interleave_bf16(from + i * dim, i + 1 < keys ? from + (i + 1) * dim : nullptr, dim, to + i / 2 * dim);
    return to;
  }

  // In place, up to the next multiple of 2 * kLanes weights.
  static void pack_weights(float* line, std::size_t count) {
    to_bf16(line, (count + 2 * kLanes - 1) / (2 * kLanes) * (2 * kLanes), reinterpret_cast<Bf16Pair*>(line));
  }
};

}  // namespace edgekiln::EDGEKILN_ISA
