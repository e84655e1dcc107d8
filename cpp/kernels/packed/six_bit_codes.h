// Codes of 6 bits, packed for 16 values of k (pack/packed_nbits.h): two rows of nibbles, and a row of the upper 2 bits.
#pragma once

#include "kernels/packed/packed_gemm.h"

namespace edgekiln::EDGEKILN_ISA {

// The upper bits of 16 values of k, whose rows begin at `codes`: for kLanes columns.
inline Ints load_upper_bits(const std::uint8_t* codes) {
  return reinterpret_cast<Ints>(load_bytes(codes + 2 * kNBitsRowBytes));
}

// The codes of four values of k from their nibbles and the upper bits: of values 4 * quarter and on.
inline Bytes six_bit_codes(Bytes nibbles, Ints upper_bits, int quarter) {
  const Ints shifted = quarter < 2 ? upper_bits << (4 - 2 * quarter) : upper_bits >> (2 * quarter - 4);
  return nibbles | reinterpret_cast<Bytes>(shifted & 0x30303030);
}

}  // namespace edgekiln::EDGEKILN_ISA
