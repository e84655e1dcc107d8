// The register tile of the int8 GEMMs, 8 tokens times 8 columns: SMMLA where the processor has it, else SDOT by lane.
//
// Both read 8 * 16 codes of activations and of weights for 16 values of k, and have 16 accumulators:
//
//          activations, 8 tokens            weights of a panel, 16 columns       accumulators
//   SMMLA  [k / 8][4 pairs of tokens][2][8]  [k / 8][8 pairs of columns][2][8]    [pair of tokens][pair of
//   columns][2][2] SDOT   [k / 16][8 tokens][16]            [k / 4][16 columns][4]               [token][4 columns],
//   [2]
#pragma once

#include <arm_neon.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/pack/packed_nbits.h"

namespace edgekiln::EDGEKILN_ISA {

inline constexpr std::size_t kTileTokens = 8, kTileColumns = 8;
inline constexpr std::size_t kStepK = 32;                        // values of k in a step of multiply_tile()
inline constexpr std::size_t kCodesK = 16;                       // of which store_codes() stores so many
inline constexpr std::size_t kStepCodes = kTileTokens * kStepK;  // bytes of activations a step
inline constexpr std::size_t kStepWeights = 16 * kStepK;         // bytes of a panel a step
inline constexpr int kAccumulators = 16;

#if defined(__ARM_FEATURE_MATMUL_INT8)

inline constexpr std::size_t kHalfPanel = 64;  // bytes from the columns 0..7 of a panel to the columns 8..15

// Where the codes of token `token` of a tile for values [k, k + 8) are; k is a multiple of 8.
inline std::size_t code_offset(std::size_t token, std::size_t k) { return k * kTileTokens + token * 8; }

// Stores the codes of a token for values [k, k + 16) of a tile's activations.
inline void store_codes(std::int8_t* tile, std::size_t token, std::size_t k, int8x16_t codes) {
  std::int8_t* to = tile + code_offset(token, k);
  vst1_s8(to, vget_low_s8(codes));
  vst1_s8(to + 8 * kTileTokens, vget_high_s8(codes));
}

// sum + rows * columns. In assembly, as GCC 12 copies accumulators of the intrinsic from register to register.
inline void multiply_add(int32x4_t& sum, int8x16_t rows, int8x16_t columns) {
#if defined(__clang__)
  sum = vmmlaq_s32(sum, rows, columns);
#else
  asm("smmla %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(rows), "w"(columns));
#endif
}

// sums += activations * weights, for `steps` * kStepK values of k.
inline void multiply_tile(int32x4_t (&sums)[kAccumulators], const std::int8_t* a, const std::int8_t* b,
                          std::size_t steps) {
  for (; steps; --steps, a += kStepCodes, b += kStepWeights)
#pragma GCC unroll 4
    for (int eight = 0; eight < 4; ++eight) {
      int8x16_t rows[4], columns[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) rows[i] = vld1q_s8(a + eight * 64 + 16 * i);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) columns[j] = vld1q_s8(b + eight * 128 + 16 * j);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) multiply_add(sums[4 * i + j], rows[i], columns[j]);
    }
}

// Factors of the accumulators: `tokens` [8], or `columns` [8] of a panel's half.
struct TileFactors {
  float32x4_t tokens[4], columns[4];

  TileFactors(const float* token_scales, const float* column_scales) {
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const float32x4_t four = vld1q_f32(token_scales + 4 * i);
      tokens[2 * i] = vzip1q_f32(four, four);
      tokens[2 * i + 1] = vzip2q_f32(four, four);
      const float64x2_t pairs = vreinterpretq_f64_f32(vld1q_f32(column_scales + 4 * i));
      columns[2 * i] = vreinterpretq_f32_f64(vdupq_laneq_f64(pairs, 0));
      columns[2 * i + 1] = vreinterpretq_f32_f64(vdupq_laneq_f64(pairs, 1));
    }
  }

  // total + sum * the factors of accumulator i
  float32x4_t added(float32x4_t total, int32x4_t sum, int i) const {
    return vfmaq_f32(total, vmulq_f32(vcvtq_f32_s32(sum), tokens[i / 4]), columns[i % 4]);
  }
};

// The columns [4 * quad, 4 * quad + 4) of a tile for `token`.
inline float32x4_t tile_row(const float32x4_t (&totals)[kAccumulators], int token, int quad) {
  const float64x2_t a = vreinterpretq_f64_f32(totals[token / 2 * 4 + 2 * quad]);
  const float64x2_t b = vreinterpretq_f64_f32(totals[token / 2 * 4 + 2 * quad + 1]);
  return vreinterpretq_f32_f64(token % 2 ? vzip2q_f64(a, b) : vzip1q_f64(a, b));
}

#else

inline constexpr std::size_t kHalfPanel = 32;

inline void store_codes(std::int8_t* tile, std::size_t token, std::size_t k, int8x16_t codes) {
  vst1q_s8(tile + k * kTileTokens + token * 16, codes);
}

inline void multiply_tile(int32x4_t (&sums)[kAccumulators], const std::int8_t* a, const std::int8_t* b,
                          std::size_t steps) {
  for (steps *= 2; steps; --steps, a += kStepCodes / 2, b += kStepWeights / 2) {
    int8x16_t rows[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) rows[i] = vld1q_s8(a + 16 * i);
    const auto add_four = [&]<int Lane>() {
      const int8x16_t first = vld1q_s8(b + Lane * 64), second = vld1q_s8(b + Lane * 64 + 16);
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        sums[2 * i] = vdotq_laneq_s32(sums[2 * i], first, rows[i], Lane);
        sums[2 * i + 1] = vdotq_laneq_s32(sums[2 * i + 1], second, rows[i], Lane);
      }
    };
    add_four.template operator()<0>();
    add_four.template operator()<1>();
    add_four.template operator()<2>();
    add_four.template operator()<3>();
  }
}

struct TileFactors {
  float32x4_t tokens[2], columns[2];

  TileFactors(const float* token_scales, const float* column_scales)
      : tokens{vld1q_f32(token_scales), vld1q_f32(token_scales + 4)},
        columns{vld1q_f32(column_scales), vld1q_f32(column_scales + 4)} {}

  float32x4_t added(float32x4_t total, int32x4_t sum, int i) const {
    const float32x4_t scaled = vmulq_f32(vcvtq_f32_s32(sum), columns[i % 2]);
    const float32x4_t four = tokens[i / 8];
    switch (i / 2 % 4) {
      case 0:
        return vfmaq_laneq_f32(total, scaled, four, 0);
      case 1:
        return vfmaq_laneq_f32(total, scaled, four, 1);
      case 2:
        return vfmaq_laneq_f32(total, scaled, four, 2);
      default:
        return vfmaq_laneq_f32(total, scaled, four, 3);
    }
  }
};

inline float32x4_t tile_row(const float32x4_t (&totals)[kAccumulators], int token, int quad) {
  return totals[2 * token + quad];
}

#endif

// The accumulators of a tile as floats, in memory: in registers, they would displace those of multiply_tile().
struct TileTotals {
  float32x4_t values[kAccumulators];
};

// totals += activations * weights * scales, for `steps` * kStepK values of k; scales of 8 tokens and of 8 columns. Not
// inlined, so that the compiler has all registers for one loop.
[[gnu::noinline]] inline void add_tile(TileTotals& totals, const std::int8_t* a, const std::int8_t* b,
                                       std::size_t steps, const float* token_scales, const float* column_scales) {
  int32x4_t sums[kAccumulators];
#pragma GCC unroll 16
  for (int i = 0; i < kAccumulators; ++i) sums[i] = vdupq_n_s32(0);
  multiply_tile(sums, a, b, steps);
  const TileFactors factors(token_scales, column_scales);
#pragma GCC unroll 16
  for (int i = 0; i < kAccumulators; ++i) totals.values[i] = factors.added(totals.values[i], sums[i], i);
}

// Stores the first `tokens` rows and `columns` columns of a tile to `out`, rows `stride` apart.
inline void store_tile(const TileTotals& totals, std::size_t tokens, std::size_t columns, float* out,
                       std::size_t stride) {
  if (tokens >= kTileTokens && columns >= kTileColumns) {
#pragma GCC unroll 8
    for (int token = 0; token < static_cast<int>(kTileTokens); ++token, out += stride) {
      vst1q_f32(out, tile_row(totals.values, token, 0));
      vst1q_f32(out + 4, tile_row(totals.values, token, 1));
    }
    return;
  }
  float32x4_t rows[kTileTokens][2];
#pragma GCC unroll 8
  for (int token = 0; token < static_cast<int>(kTileTokens); ++token)
#pragma GCC unroll 2
    for (int quad = 0; quad < 2; ++quad) rows[token][quad] = tile_row(totals.values, token, quad);
  for (std::size_t token = 0; token < std::min(tokens, kTileTokens); ++token, out += stride)
    std::memcpy(out, rows[token], std::min(columns, kTileColumns) * sizeof(float));
}

}  // namespace edgekiln::EDGEKILN_ISA
