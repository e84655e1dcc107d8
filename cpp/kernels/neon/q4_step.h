// The steps of the tile of q4 prefill (q4_tile.h), with SMMLA where the processor has it, else with SDOT by lane.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/neon/tile_layout.h"

namespace edgekiln::EDGEKILN_ISA {

inline constexpr std::size_t kStripColumns = 4;

namespace detail {

using Sums = int32x4_t[8];
using Totals = float32x4_t[8];

}  // namespace detail

// The strip of weights has for 16 values of k
//   SMMLA  [k / 8][2 pairs of columns][2][8]   and sums [4 pairs of tokens][2 pairs of columns][2][2]
//   SDOT   [k / 4][4 columns][4]               and sums [8 tokens][4 columns]
#if defined(__ARM_FEATURE_MATMUL_INT8)

// One of the factors of a tile for one span, each token's twice; scales of a strip for one span, each pair of columns'
// twice.
inline constexpr std::size_t kTokenFactors = 2 * kTileTokens, kColumnScales = 2 * kStripColumns;

inline void store_token_factor(float* to, std::size_t token, float factor) {
  vst1_f32(to + 2 * token, vdup_n_f32(factor));
}

inline void store_column_scales(float* to, float32x4_t scales) {
  const float64x2_t pairs = vreinterpretq_f64_f32(scales);
  vst1q_f32(to, vreinterpretq_f32_f64(vdupq_laneq_f64(pairs, 0)));
  vst1q_f32(to + 4, vreinterpretq_f32_f64(vdupq_laneq_f64(pairs, 1)));
}

namespace detail {

// sums += kCodesK values of k; advances a and b. All in assembly, as LD1 of four registers needs neighbours, which GCC
// 12 gets by copying, and has no offset.
[[gnu::always_inline]] inline void multiply_step(Sums& sums, const std::int8_t*& a, const std::int8_t*& b) {
  asm("ld1 {v0.16b-v3.16b}, [%[a]], #64\n\t"
      "ld1 {v4.16b-v7.16b}, [%[b]], #64\n\t"
      "smmla %0.4s, v0.16b, v4.16b\n\t"
      "smmla %1.4s, v0.16b, v5.16b\n\t"
      "smmla %2.4s, v1.16b, v4.16b\n\t"
      "smmla %3.4s, v1.16b, v5.16b\n\t"
      "smmla %4.4s, v2.16b, v4.16b\n\t"
      "smmla %5.4s, v2.16b, v5.16b\n\t"
      "smmla %6.4s, v3.16b, v4.16b\n\t"
      "smmla %7.4s, v3.16b, v5.16b\n\t"
      "ld1 {v0.16b-v3.16b}, [%[a]], #64\n\t"
      "smmla %0.4s, v0.16b, v6.16b\n\t"
      "smmla %1.4s, v0.16b, v7.16b\n\t"
      "smmla %2.4s, v1.16b, v6.16b\n\t"
      "smmla %3.4s, v1.16b, v7.16b\n\t"
      "smmla %4.4s, v2.16b, v6.16b\n\t"
      "smmla %5.4s, v2.16b, v7.16b\n\t"
      "smmla %6.4s, v3.16b, v6.16b\n\t"
      "smmla %7.4s, v3.16b, v7.16b"
      : "+w"(sums[0]), "+w"(sums[1]), "+w"(sums[2]), "+w"(sums[3]), "+w"(sums[4]), "+w"(sums[5]), "+w"(sums[6]),
        "+w"(sums[7]), [a] "+r"(a), [b] "+r"(b)
      : "m"(*reinterpret_cast<const std::int8_t (*)[kTileTokens * kCodesK]>(a)),
        "m"(*reinterpret_cast<const std::int8_t (*)[kStripColumns * kCodesK]>(b))
      : "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7");
}

using Factors = float32x4x4_t;
using Scales = float32x4x2_t;

inline Factors load_factors(const float* from) { return vld1q_f32_x4(from); }
inline Scales load_scales(const float* from) { return vld1q_f32_x2(from); }

// Of element I: the first value, value + sum * factor, and total + value * scale.
template <int I>
inline float32x4_t start(const Factors& starts) {
  return starts.val[I / 2];
}
template <int I>
inline float32x4_t scaled(float32x4_t value, int32x4_t sum, const Factors& factors) {
  return vfmaq_f32(value, vreinterpretq_f32_s32(sum), factors.val[I / 2]);
}
template <int I>
inline float32x4_t weighted(float32x4_t total, float32x4_t value, const Scales& scales) {
  return vfmaq_f32(total, value, scales.val[I % 2]);
}

template <int Token>
inline float32x4_t tile_row(const Totals& totals) {
  const float64x2_t a = vreinterpretq_f64_f32(totals[Token / 2 * 2]);
  const float64x2_t b = vreinterpretq_f64_f32(totals[Token / 2 * 2 + 1]);
  return vreinterpretq_f32_f64(Token % 2 ? vzip2q_f64(a, b) : vzip1q_f64(a, b));
}

}  // namespace detail

#else

inline constexpr std::size_t kTokenFactors = kTileTokens, kColumnScales = kStripColumns;

inline void store_token_factor(float* to, std::size_t token, float factor) { to[token] = factor; }

inline void store_column_scales(float* to, float32x4_t scales) { vst1q_f32(to, scales); }

namespace detail {

[[gnu::always_inline]] inline void multiply_step(Sums& sums, const std::int8_t*& a, const std::int8_t*& b) {
  asm("ld1 {v0.16b-v3.16b}, [%[a]], #64\n\t"
      "ld1 {v4.16b-v7.16b}, [%[b]], #64\n\t"
      "sdot %0.4s, v4.16b, v0.4b[0]\n\t"
      "sdot %1.4s, v4.16b, v1.4b[0]\n\t"
      "sdot %2.4s, v4.16b, v2.4b[0]\n\t"
      "sdot %3.4s, v4.16b, v3.4b[0]\n\t"
      "sdot %0.4s, v5.16b, v0.4b[1]\n\t"
      "sdot %1.4s, v5.16b, v1.4b[1]\n\t"
      "sdot %2.4s, v5.16b, v2.4b[1]\n\t"
      "sdot %3.4s, v5.16b, v3.4b[1]\n\t"
      "sdot %0.4s, v6.16b, v0.4b[2]\n\t"
      "sdot %1.4s, v6.16b, v1.4b[2]\n\t"
      "sdot %2.4s, v6.16b, v2.4b[2]\n\t"
      "sdot %3.4s, v6.16b, v3.4b[2]\n\t"
      "sdot %0.4s, v7.16b, v0.4b[3]\n\t"
      "sdot %1.4s, v7.16b, v1.4b[3]\n\t"
      "sdot %2.4s, v7.16b, v2.4b[3]\n\t"
      "sdot %3.4s, v7.16b, v3.4b[3]\n\t"
      "ld1 {v0.16b-v3.16b}, [%[a]], #64\n\t"
      "sdot %4.4s, v4.16b, v0.4b[0]\n\t"
      "sdot %5.4s, v4.16b, v1.4b[0]\n\t"
      "sdot %6.4s, v4.16b, v2.4b[0]\n\t"
      "sdot %7.4s, v4.16b, v3.4b[0]\n\t"
      "sdot %4.4s, v5.16b, v0.4b[1]\n\t"
      "sdot %5.4s, v5.16b, v1.4b[1]\n\t"
      "sdot %6.4s, v5.16b, v2.4b[1]\n\t"
      "sdot %7.4s, v5.16b, v3.4b[1]\n\t"
      "sdot %4.4s, v6.16b, v0.4b[2]\n\t"
      "sdot %5.4s, v6.16b, v1.4b[2]\n\t"
      "sdot %6.4s, v6.16b, v2.4b[2]\n\t"
      "sdot %7.4s, v6.16b, v3.4b[2]\n\t"
      "sdot %4.4s, v7.16b, v0.4b[3]\n\t"
      "sdot %5.4s, v7.16b, v1.4b[3]\n\t"
      "sdot %6.4s, v7.16b, v2.4b[3]\n\t"
      "sdot %7.4s, v7.16b, v3.4b[3]"
      : "+w"(sums[0]), "+w"(sums[1]), "+w"(sums[2]), "+w"(sums[3]), "+w"(sums[4]), "+w"(sums[5]), "+w"(sums[6]),
        "+w"(sums[7]), [a] "+r"(a), [b] "+r"(b)
      : "m"(*reinterpret_cast<const std::int8_t (*)[kTileTokens * kCodesK]>(a)),
        "m"(*reinterpret_cast<const std::int8_t (*)[kStripColumns * kCodesK]>(b))
      : "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7");
}

using Factors = float32x4x2_t;
using Scales = float32x4_t;

inline Factors load_factors(const float* from) { return vld1q_f32_x2(from); }
inline Scales load_scales(const float* from) { return vld1q_f32(from); }

template <int I>
inline float32x4_t start(const Factors& starts) {
  return vdupq_laneq_f32(starts.val[I / 4], I % 4);
}
template <int I>
inline float32x4_t scaled(float32x4_t value, int32x4_t sum, const Factors& factors) {
  return vfmaq_laneq_f32(value, vreinterpretq_f32_s32(sum), factors.val[I / 4], I % 4);
}
template <int I>
inline float32x4_t weighted(float32x4_t total, float32x4_t value, Scales scales) {
  return vfmaq_f32(total, value, scales);
}

template <int Token>
inline float32x4_t tile_row(const Totals& totals) {
  return totals[Token];
}

}  // namespace detail

#endif

}  // namespace edgekiln::EDGEKILN_ISA
