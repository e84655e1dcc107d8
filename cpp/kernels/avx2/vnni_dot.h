// Int8 dot products by VPDPBUSD, of AVX-VNNI or AVX512-VNNI; see packed/int8_dot.h.
//
// It multiplies unsigned by signed bytes and adds four products to each int32: unsigned weight codes of 4 or 8 bits by
// signed activation codes, or unsigned activation codes by int8 weights.
#pragma once

#include "kernels/pack/packed_int8.h"

namespace edgekiln::EDGEKILN_ISA {

template <int Bits>
struct NBitsDot {
  using Weights = Ints;
  using Sum = Ints;

  static Weights weights(Bytes codes) { return reinterpret_cast<Ints>(codes); }
  static std::int32_t compensation(BlockCodes, std::int32_t sum, bool zero_points) {
    return zero_points ? 0 : -(1 << (Bits - 1)) * sum;
  }
  static Sum start(std::int32_t compensation) { return broadcast_4(&compensation); }
  static Sum add(Sum sum, Weights weights, const std::int8_t* four) { return dpbusd(sum, weights, broadcast_4(four)); }
  static Floats finish(Sum sum) { return to_floats(sum); }
};

struct Int8Gemm {
  using Weights = Ints;

  static constexpr std::size_t kCodeBytes = 1;
  static constexpr int kParts = 1;
  static constexpr int kActivationZeroPoint = PackedInt8::kActivationZeroPoint;

  static void store_codes(std::uint8_t* to, const Floats (&x)[4]) {
    const Ints codes = rounded_to_bytes<true>(x, kActivationZeroPoint);
    std::memcpy(to, &codes, sizeof codes);
  }
  static Weights weights(Bytes codes, int) { return reinterpret_cast<Ints>(codes); }
  static Ints dot(Ints sum, Weights weights, const std::uint8_t* four) {
    return dpbusd(sum, broadcast_4(four), weights);
  }
};
using Int8Gemv = Int8Gemm;

}  // namespace edgekiln::EDGEKILN_ISA
