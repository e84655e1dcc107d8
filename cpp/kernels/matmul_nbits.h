// Arguments of MatMulNBits: a float matrix times a weight of 4 or 8 bits in groups along k.
//
// The weight is in ONNX Runtime's own layout (com.microsoft::MatMulNBits), unpacked. Instruction sets with VNNI pack a
// constant weight once (pack/packed_nbits.h) and use KernelTable::nbits_gemm instead of this kernel.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/common/float16.h"
#include "kernels/common/parallel.h"

namespace edgekiln {

inline constexpr std::size_t kCodebookSize = 16;

// What a weight has besides codes and scales: one value a group, or a codebook.
enum class WeightScheme {
  kSymmetric,   // w = scale * (code - 2^(bits - 1))
  kZeroPoints,  // w = scale * (code - zero point)
  kGroupBias,   // w = scale * (code - 2^(bits - 1)) + group bias; llama.cpp stores it as the group's "min"
  kCodebook,    // w = scale * codebook[code], of 4 bits; FP4 and llama.cpp's IQ4_NL are such
};

// out[m, n] = a[m, k] * w[n, k]^T. The caller owns all memory.
struct MatMulNBitsArgs {
  std::size_t m, k, n;
  std::size_t group_size;  // values of k that share a scale: 32, 64 or 128, with 8 bits also 16; a divisor of k
  int bits;                // 4 or 8
  const float* a;
  const std::uint8_t* codes;        // [n, k * bits / 8], 4-bit codes low nibble first
  const float* scales;              // [n, k / group_size]
  const std::uint8_t* zero_points;  // [n, ceil(k / group_size * bits / 8)], packed as the codes; null for symmetric
  float* out;
  const float* group_bias = nullptr;  // [n, k / group_size], without zero points; null for none
  // `scales` as float16, and with a group bias the weight of code 0 ("min") of each group, which halves what a GEMV
  // reads; null where float16 does not hold them exactly. Kernels may read kFloat16Padding elements past the end.
  const Float16* float16_scales = nullptr;
  const Float16* float16_min = nullptr;

  // int8 values of the 4-bit codes, without zero points and group bias; null for none. Packed weights only.
  const std::int8_t* codebook = nullptr;  // [kCodebookSize]

  int zero_point_bits = 0;  // if they have other bits than the codes

  // Of the call that the m rows belong to, if that has more: its number decides how they are rounded.
  std::size_t tokens = 0;

  int bits_of_zero_points() const { return zero_point_bits ? zero_point_bits : bits; }
  int midpoint() const { return 1 << (bits - 1); }
  std::size_t groups() const { return k / group_size; }      // of one of the n columns
  std::size_t column_bytes() const { return k * bits / 8; }  // of its codes
  std::size_t zero_point_bytes() const { return (groups() * bits_of_zero_points() + 7) / 8; }  // of its zero points

  // The weight's columns [first, first + count).
  MatMulNBitsArgs columns(std::size_t first, std::size_t count) const {
    MatMulNBitsArgs part = *this;
    part.n = count;
    part.codes += first * column_bytes();
    part.scales += first * groups();
    if (zero_points) part.zero_points += first * zero_point_bytes();
    if (group_bias) part.group_bias += first * groups();
    for (const Float16** values : {&part.float16_scales, &part.float16_min})
      if (*values) *values += first * groups();
    return part;
  }
};

// One column's zero point of a group; `column` is its packed zero points.
inline int zero_point_of(const std::uint8_t* column, int bits, std::size_t group) {
  return bits == 8 ? column[group] : column[group / 2] >> group % 2 * 4 & 15;
}

// Up to this m a call counts as a GEMV (decoding, or verifying a few drafted tokens): memory bandwidth limits it, and
// activations are quantized to int8 in blocks of 32. Larger m keeps float activations.
inline constexpr std::size_t kGemvMaxM = 8;

inline constexpr std::size_t kFloat16Padding = 16;

using MatMulNBitsKernel = void (*)(const MatMulNBitsArgs&, const Parallel&, Scratch&);

}  // namespace edgekiln
