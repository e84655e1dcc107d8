// A float matrix times a weight in groups of 4 or 8 bits: what the kernels of each instruction set share.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/float16.h"
#include "kernels/parallel.h"

namespace edgekiln {

// out[rows, columns] = a[rows, depth] * w[columns, depth] transposed, w = scale * (code - zero point) + offset. The
// layout is that of ONNX Runtime's MatMulNBits; the caller owns all memory.
struct MatMulNBitsCall {
  std::size_t rows, depth, columns;
  std::size_t group;  // codes that share a scale: 32, 64 or 128, a divisor of depth
  int bits;           // 4 or 8
  const float* a;
  const std::uint8_t* codes;        // [columns, depth * bits / 8], 4-bit codes low nibble first
  const float* scales;              // [columns, depth / group]
  const std::uint8_t* zero_points;  // [columns, ceil(depth / group * bits / 8)], packed as the codes; null: 8 or 128
  float* out;
  const float* offsets = nullptr;  // [columns, depth / group], without zero points; null for none
  // `scales`, and with offsets the weight of code 0 in each group, for kernels that can read half as much; null where
  // binary16 does not hold them. kHalfPadding more of them may be read.
  const Half* half_scales = nullptr;
  const Half* half_minima = nullptr;

  int zero_point_bits = 0;  // where they are other than the codes'

  int bits_of_zero_points() const { return zero_point_bits ? zero_point_bits : bits; }
  int middle() const { return 1 << (bits - 1); }
  std::size_t groups() const { return depth / group; }
  std::size_t row_bytes() const { return depth * bits / 8; }
  std::size_t zero_point_bytes() const { return (groups() * bits_of_zero_points() + 7) / 8; }
};

// The zero point of a group, in a column's packed ones.
inline int zero_point_of(const std::uint8_t* line, int bits, std::size_t group) {
  return bits == 8 ? line[group] : line[group / 2] >> group % 2 * 4 & 15;
}

// Calls of up to so many rows quantize them to int8, in blocks of 32 with a scale each: one a token needs the speed.
// More rows are multiplied as they are.
inline constexpr std::size_t kQuantizedRows = 8;

inline constexpr std::size_t kHalfPadding = 16;

using MatMulNBitsKernel = void (*)(const MatMulNBitsCall&, const Parallel&, Scratch&);

}  // namespace edgekiln
