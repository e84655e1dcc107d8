// Operands of prefill attention in bfloat16, multiplied in AMX tiles.
#pragma once

#include "kernels/amx/amx.h"
#include "kernels/avx512/bf16_prefill_operands.h"

namespace edgekiln::EDGEKILN_ISA {

// Bf16Operands for tiles, whose k is a multiple of 16 words.
struct AmxOperands : Bf16Operands {
  static constexpr std::size_t kRowBlock = 32;
  using Configuration = tiles::Configured;

  static const Bf16Pair* pack_values(const float* from, std::size_t keys, std::size_t dim, std::size_t padded,
                                     Bf16Pair* to) {
    Bf16Operands::pack_values(from, keys, dim, padded, to);
    const std::size_t pairs = (keys + 1) / 2, whole = tiles::whole_rows(pairs);
    std::fill(to + pairs * dim, to + whole * dim, Bf16Pair{});
    return to;
  }

  static void matmul(std::size_t m, std::size_t n, std::size_t k, const Bf16Pair* a, std::size_t a_stride,
                     const Bf16Pair* b, std::size_t b_stride, float* c, std::size_t c_stride, bool accumulate) {
    constexpr std::size_t word = sizeof(Bf16Pair), edge = tiles::kRows;
    const tiles::Layout a_at{a_stride * word, tiles::kBytes, edge * a_stride * word};
    const tiles::Layout b_at{b_stride * word, edge * b_stride * word, tiles::kBytes};
    const tiles::Layout c_at{c_stride * word, tiles::kBytes, edge * c_stride * word};
    const std::size_t height = (m + edge - 1) / edge, width = n / edge, steps = (k + edge - 1) / edge;
    for (std::size_t j = 0; j < width; j += 2)
      for (std::size_t i = 0; i < height; i += 2)
        tiles::matmul<tiles::Type::kBf16>(height - i, width - j, a + i * edge * a_stride, a_at, b + j * edge, b_at,
                                          steps, c + i * edge * c_stride + j * edge, c_at, accumulate);
  }
};

}  // namespace edgekiln::EDGEKILN_ISA
