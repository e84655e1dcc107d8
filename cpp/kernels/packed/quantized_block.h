// A block of activations quantized to int8, which every group size is a multiple of, or half of.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/vector/vector.h"

namespace edgekiln::EDGEKILN_ISA {

inline constexpr std::size_t kBlock = 32;  // values of k

// The weights of kLanes columns in one row of a panel, four bytes a column.
using Bytes = std::uint8_t __attribute__((vector_size(kLanes * sizeof(std::int32_t))));

using BlockCodes = std::int8_t __attribute__((vector_size(kBlock)));

// kBlock activations as scale * code, codes in -127..127.
struct QuantizedBlock {
  BlockCodes codes;
  float scale;
  std::int32_t sum;  // of the codes
};

// In the order of packed 4-bit weights: of each eight the even and then the odd ones.
inline BlockCodes even_then_odd(BlockCodes x) {
  return __builtin_shufflevector(x, x, 0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15, 16, 18, 20, 22, 17, 19, 21,
                                 23, 24, 26, 28, 30, 25, 27, 29, 31);
}

inline Bytes load_bytes(const std::uint8_t* from) {
  Bytes bytes;
  std::memcpy(&bytes, from, sizeof bytes);
  return bytes;
}

// The first and the second codes of packed 4-bit weights.
inline Bytes low_nibbles(Bytes bytes) { return bytes & 15; }
inline Bytes high_nibbles(Bytes bytes) { return bytes >> 4; }

}  // namespace edgekiln::EDGEKILN_ISA
