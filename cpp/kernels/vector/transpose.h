// Matrix transposition, in squares of kLanes x kLanes floats that fit in registers. For every instruction set.
#pragma once

#include "kernels/vector/vector.h"

namespace edgekiln::EDGEKILN_ISA {
namespace detail {

template <int... Lane>
inline void transpose_square(const float* from, std::size_t from_stride, float* to, std::size_t to_stride,
                             std::integer_sequence<int, Lane...>) {
  Floats rows[kLanes];
  for (int i = 0; i < kLanes; ++i) rows[i] = load(from + i * from_stride);
  // Swap the off-diagonal quarters, of blocks of halving size.
  const auto swap_blocks = [&]<int Half>() {
    for (int i = 0; i < kLanes; ++i) {
      if (i & Half) continue;
      const Floats a = rows[i], b = rows[i + Half];
      rows[i] = __builtin_shufflevector(a, b, (Lane & Half ? kLanes + Lane - Half : Lane)...);
      rows[i + Half] = __builtin_shufflevector(a, b, (Lane & Half ? kLanes + Lane : Lane + Half)...);
    }
  };
  if constexpr (kLanes >= 16) swap_blocks.template operator()<8>();
  if constexpr (kLanes >= 8) swap_blocks.template operator()<4>();
  swap_blocks.template operator()<2>();
  swap_blocks.template operator()<1>();
  for (int i = 0; i < kLanes; ++i) store(to + i * to_stride, rows[i]);
}

}  // namespace detail

// to[kLanes, to_stride] = from[kLanes, from_stride] transposed.
inline void transpose_square(const float* from, std::size_t from_stride, float* to, std::size_t to_stride) {
  detail::transpose_square(from, from_stride, to, to_stride, std::make_integer_sequence<int, kLanes>{});
}

// to[columns, to_stride] = from[rows, columns] transposed; rows of `to` are padded with zeros to whole vectors.
inline void transpose(const float* from, std::size_t rows, std::size_t columns, float* to, std::size_t to_stride) {
  std::size_t i = 0;
  if (columns % kLanes == 0) {
    for (; i + kLanes <= rows; i += kLanes)
      for (std::size_t j = 0; j < columns; j += kLanes)
        transpose_square(from + i * columns + j, columns, to + j * to_stride + i, to_stride);
  }
  for (const std::size_t end = (rows + kLanes - 1) / kLanes * kLanes; i < end; ++i)
    for (std::size_t j = 0; j < columns; ++j) to[j * to_stride + i] = i < rows ? from[i * columns + j] : 0.0f;
}

}  // namespace edgekiln::EDGEKILN_ISA
