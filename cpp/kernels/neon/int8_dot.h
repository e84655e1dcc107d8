// Int8 dot products of NEON with FEAT_DotProd; see packed/int8_dot.h.
//
// SDOT multiplies signed bytes and adds four products to each int32 lane: activation codes need no zero point, and
// weight codes of 8 bits are packed less 128 (kPackedZero).
#pragma once

#include "kernels/matmul_nbits.h"
#include "kernels/neon/dot_lane.h"
#include "kernels/neon/quantize.h"

namespace edgekiln::EDGEKILN_ISA {

// The hardware prefetchers of Arm's cores follow the one stream that a GEMV reads.
inline void prefetch_ahead(const void*) {}
inline constexpr bool kPrefetchesPanels = false;

// As many accumulators and totals as fit the 32 registers.
template <int Vectors>
inline constexpr int kGemvTileM = Vectors == 1 ? static_cast<int>(kGemvMaxM) : 3;
inline constexpr int kNBitsTileM = 3, kNBitsTilePanels = 1;

inline QuantizedBlock quantize_block(const float* a) {
  const float largest = largest_magnitude(a, kBlock);
  const float inverse = largest == 0.0f ? 0.0f : 127.0f / largest;
  const int8x16_t halves[2] = {quantize_16(a, inverse), quantize_16(a + 16, inverse)};
  const int8x16_t ones = vdupq_n_s8(1);
  BlockCodes codes;
  std::memcpy(&codes, halves, sizeof codes);
  const std::int32_t sum = vaddvq_s32(vdotq_s32(vdotq_s32(vdupq_n_s32(0), halves[0], ones), halves[1], ones));
  return {codes, largest / 127.0f, sum};
}

template <int Bits>
struct NBitsDot {
  using Weights = int8x16_t;
  using Sum = int32x4_t;

  static Weights weights(Bytes codes) { return reinterpret_cast<int8x16_t>(codes); }
  static std::int32_t compensation(BlockCodes, std::int32_t sum, bool zero_points) {
    if constexpr (Bits == 8) return zero_points ? kPackedZero * sum : 0;
    return zero_points ? 0 : -(1 << (Bits - 1)) * sum;
  }
  static Sum start(std::int32_t compensation) { return vdupq_n_s32(compensation); }
  template <int Lane>
  static void add_lane(Sum& sum, Weights weights, int8x16_t codes) {
    sdot_lane<Lane>(sum, weights, codes);
  }
  static Floats finish(Sum sum) { return reinterpret_cast<Floats>(vcvtq_f32_s32(sum)); }
};

}  // namespace edgekiln::EDGEKILN_ISA
