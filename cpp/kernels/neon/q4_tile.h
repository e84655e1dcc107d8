// The register tile of q4 prefill: 8 tokens times a strip of 4 columns, over all of k.
//
// Its activations have one scale for kActivationK values of k, two of which (a span) share the scales of the weights.
// Both chunks of a span are added to the same int32 sums, which are read after each of them:
//
//   t0 * (sum of chunk 0) + t1 * (sum of chunk 1) = (t0 - t1) * (sums after chunk 0) + t1 * (sums after chunk 1)
//
// so that the sums are cleared once a span. The factors t0 - t1 and t1 are prepared with the activations.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/neon/tile_layout.h"
#include "kernels/pack/packed_nbits.h"

namespace edgekiln::EDGEKILN_ISA {

inline constexpr std::size_t kActivationK = 64;  // values of k that share a scale of the activations
inline constexpr std::size_t kSpanK = kRequantizeK;
inline constexpr std::size_t kStripColumns = 4;
static_assert(kSpanK == 2 * kActivationK);

namespace detail {

using Sums = int32x4_t[8];
using Totals = float32x4_t[8];

}  // namespace detail

// The strip of weights has for 16 values of k
//   SMMLA  [k / 8][2 pairs of columns][2][8]   and sums [4 pairs of tokens][2 pairs of columns][2][2]
//   SDOT   [k / 4][4 columns][4]               and sums [8 tokens][4 columns]
#if defined(__ARM_FEATURE_MATMUL_INT8)

// Factors of a tile for one chunk, each token's twice; scales of a strip for one span, each pair of columns' twice.
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

// Of element I of the sums: sum * factor
template <int I>
inline float32x4_t scaled(int32x4_t sum, const Factors& factors) {
  return vmulq_f32(vcvtq_f32_s32(sum), factors.val[I / 2]);
}

// total + (value + sum * factor) * scale
template <int I>
inline float32x4_t added(float32x4_t total, float32x4_t value, int32x4_t sum, const Factors& factors,
                         const Scales& scales) {
  return vfmaq_f32(total, vfmaq_f32(value, vcvtq_f32_s32(sum), factors.val[I / 2]), scales.val[I % 2]);
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
inline float32x4_t scaled(int32x4_t sum, const Factors& factors) {
  return vmulq_laneq_f32(vcvtq_f32_s32(sum), factors.val[I / 4], I % 4);
}

template <int I>
inline float32x4_t added(float32x4_t total, float32x4_t value, int32x4_t sum, const Factors& factors, Scales scales) {
  return vfmaq_f32(total, vfmaq_laneq_f32(value, vcvtq_f32_s32(sum), factors.val[I / 4], I % 4), scales);
}

template <int Token>
inline float32x4_t tile_row(const Totals& totals) {
  return totals[Token];
}

}  // namespace detail

#endif

namespace detail {

// totals += a span, or the first `k` values of k of it. Element by element: GCC 12 keeps in memory what it finds
// in loops and lambdas.
template <bool Whole>
[[gnu::always_inline]] inline void add_span(Totals& totals, const std::int8_t*& a, const std::int8_t*& b,
                                            const float* factors, const float* scales, std::size_t k = kSpanK) {
  const int32x4_t zero = vdupq_n_s32(0);
  Sums sums = {zero, zero, zero, zero, zero, zero, zero, zero};
  static_assert(kActivationK == 4 * kCodesK);
  const auto* const middle = a + std::min(k, kActivationK) * kTileTokens;
  const auto* const end = a + k * kTileTokens;
  if constexpr (Whole) {
    multiply_step(sums, a, b);
    multiply_step(sums, a, b);
    multiply_step(sums, a, b);
    multiply_step(sums, a, b);
  } else {
    while (a != middle) multiply_step(sums, a, b);
  }
  const Factors first = load_factors(factors);
  Totals values = {scaled<0>(sums[0], first), scaled<1>(sums[1], first), scaled<2>(sums[2], first),
                   scaled<3>(sums[3], first), scaled<4>(sums[4], first), scaled<5>(sums[5], first),
                   scaled<6>(sums[6], first), scaled<7>(sums[7], first)};
  // Computed here: later, they would need more registers than there are.
  asm(""
      : "+w"(values[0]), "+w"(values[1]), "+w"(values[2]), "+w"(values[3]), "+w"(values[4]), "+w"(values[5]),
        "+w"(values[6]), "+w"(values[7]));
  if constexpr (Whole) {
    multiply_step(sums, a, b);
    multiply_step(sums, a, b);
    multiply_step(sums, a, b);
    multiply_step(sums, a, b);
  } else {
    while (a != end) multiply_step(sums, a, b);
  }
  const Factors second = load_factors(factors + kTokenFactors);
  const Scales columns = load_scales(scales);
  totals[0] = added<0>(totals[0], values[0], sums[0], second, columns);
  totals[1] = added<1>(totals[1], values[1], sums[1], second, columns);
  totals[2] = added<2>(totals[2], values[2], sums[2], second, columns);
  totals[3] = added<3>(totals[3], values[3], sums[3], second, columns);
  totals[4] = added<4>(totals[4], values[4], sums[4], second, columns);
  totals[5] = added<5>(totals[5], values[5], sums[5], second, columns);
  totals[6] = added<6>(totals[6], values[6], sums[6], second, columns);
  totals[7] = added<7>(totals[7], values[7], sums[7], second, columns);
}

// Stores the first `tokens` rows and `columns` columns of a tile.
[[gnu::noinline]] inline void store_part(const Totals& totals, std::size_t tokens, std::size_t columns, float* out,
                                         std::size_t stride) {
  const float32x4_t rows[kTileTokens] = {tile_row<0>(totals), tile_row<1>(totals), tile_row<2>(totals),
                                         tile_row<3>(totals), tile_row<4>(totals), tile_row<5>(totals),
                                         tile_row<6>(totals), tile_row<7>(totals)};
  for (std::size_t token = 0; token < std::min(tokens, kTileTokens); ++token)
    std::memcpy(out + token * stride, &rows[token], std::min(columns, kStripColumns) * sizeof(float));
}

}  // namespace detail

// out [m, columns], rows `stride` apart = activations * weights of a strip, for k values of k. `a` has the codes of all
// tiles one after another, `factors` those of the chunks of all tiles, `scales` those of the strip's spans. `columns`
// may be more than a strip's.
[[gnu::noinline]] inline void multiply_strip(const std::int8_t* a, const std::int8_t* weights, const float* factors,
                                             const float* scales, std::size_t k, std::size_t m, std::size_t columns,
                                             float* out, std::size_t stride) {
  using namespace detail;
  const std::size_t spans = k / kSpanK, rest = k % kSpanK;
  for (std::size_t token = 0; token < m; token += kTileTokens, out += kTileTokens * stride) {
    const std::int8_t* b = weights;
    const float* column_scales = scales;
    const float32x4_t zero = vdupq_n_f32(0.0f);
    Totals totals = {zero, zero, zero, zero, zero, zero, zero, zero};
    for (std::size_t span = 0; span < spans; ++span, factors += 2 * kTokenFactors, column_scales += kColumnScales)
      add_span<true>(totals, a, b, factors, column_scales);
    if (rest) {
      add_span<false>(totals, a, b, factors, column_scales, rest);
      factors += 2 * kTokenFactors;
    }
    if (m - token < kTileTokens || columns < kStripColumns) {
      const Totals copy = {totals[0], totals[1], totals[2], totals[3], totals[4], totals[5], totals[6], totals[7]};
      store_part(copy, m - token, columns, out, stride);
      continue;
    }
    vst1q_f32(out, tile_row<0>(totals));
    vst1q_f32(out + stride, tile_row<1>(totals));
    vst1q_f32(out + 2 * stride, tile_row<2>(totals));
    vst1q_f32(out + 3 * stride, tile_row<3>(totals));
    vst1q_f32(out + 4 * stride, tile_row<4>(totals));
    vst1q_f32(out + 5 * stride, tile_row<5>(totals));
    vst1q_f32(out + 6 * stride, tile_row<6>(totals));
    vst1q_f32(out + 7 * stride, tile_row<7>(totals));
  }
}

}  // namespace edgekiln::EDGEKILN_ISA
