// The register tile of the per-token int8 GEMM: 16 accumulators over all of k. For NEON.
//
//          tile                       its weights for 16 values of k
//   SMMLA  8 tokens times 8 columns   [k / 8][4 pairs of columns][2][8]
//   SDOT   4 tokens times 16 columns  [k / 4][16 columns][4], a panel as it is packed
//
// Activations are as tile_layout.h says: with SDOT, two tiles share them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/neon/tile_layout.h"

namespace edgekiln::EDGEKILN_ISA {

inline constexpr std::size_t kStepK = 32;  // values of k in a step
inline constexpr int kAccumulators = 16;

namespace detail {

using Int8Results = float32x4_t[kAccumulators];

}  // namespace detail

// The multiplication is all in assembly, as in q4_tile.h: the sums are in v16 to v31.
#define EDGEKILN_ZERO_SUMS \
  "movi v16.4s, #0\n\t"    \
  "movi v17.4s, #0\n\t"    \
  "movi v18.4s, #0\n\t"    \
  "movi v19.4s, #0\n\t"    \
  "movi v20.4s, #0\n\t"    \
  "movi v21.4s, #0\n\t"    \
  "movi v22.4s, #0\n\t"    \
  "movi v23.4s, #0\n\t"    \
  "movi v24.4s, #0\n\t"    \
  "movi v25.4s, #0\n\t"    \
  "movi v26.4s, #0\n\t"    \
  "movi v27.4s, #0\n\t"    \
  "movi v28.4s, #0\n\t"    \
  "movi v29.4s, #0\n\t"    \
  "movi v30.4s, #0\n\t"    \
  "movi v31.4s, #0\n"

#define EDGEKILN_STORE_SUMS                 \
  "st1 {v16.4s-v19.4s}, [%[sums]], #64\n\t" \
  "st1 {v20.4s-v23.4s}, [%[sums]], #64\n\t" \
  "st1 {v24.4s-v27.4s}, [%[sums]], #64\n\t" \
  "st1 {v28.4s-v31.4s}, [%[sums]]"

#define EDGEKILN_CLOBBERED                                                                                         \
  "cc", "memory", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v16", "v17", "v18", "v19", "v20", "v21", "v22", \
      "v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30", "v31"

#if defined(__ARM_FEATURE_MATMUL_INT8)

inline constexpr std::size_t kInt8TileTokens = 8, kInt8TileColumns = 8;

namespace detail {

// sums [4 pairs of tokens][4 pairs of columns][2][2] = `steps` steps
inline void multiply_int8(const std::int8_t* a, const std::int8_t* b, std::size_t steps, std::int32_t* sums) {
  asm volatile(EDGEKILN_ZERO_SUMS
               "1:\n\t"
               ".rept 4\n\t"
               "ld1 {v0.16b-v3.16b}, [%[a]], #64\n\t"
               "ld1 {v4.16b-v7.16b}, [%[b]], #64\n\t"
               "smmla v16.4s, v0.16b, v4.16b\n\t"
               "smmla v17.4s, v0.16b, v5.16b\n\t"
               "smmla v18.4s, v0.16b, v6.16b\n\t"
               "smmla v19.4s, v0.16b, v7.16b\n\t"
               "smmla v20.4s, v1.16b, v4.16b\n\t"
               "smmla v21.4s, v1.16b, v5.16b\n\t"
               "smmla v22.4s, v1.16b, v6.16b\n\t"
               "smmla v23.4s, v1.16b, v7.16b\n\t"
               "smmla v24.4s, v2.16b, v4.16b\n\t"
               "smmla v25.4s, v2.16b, v5.16b\n\t"
               "smmla v26.4s, v2.16b, v6.16b\n\t"
               "smmla v27.4s, v2.16b, v7.16b\n\t"
               "smmla v28.4s, v3.16b, v4.16b\n\t"
               "smmla v29.4s, v3.16b, v5.16b\n\t"
               "smmla v30.4s, v3.16b, v6.16b\n\t"
               "smmla v31.4s, v3.16b, v7.16b\n\t"
               ".endr\n\t"
               "subs %[steps], %[steps], #1\n\t"
               "b.ne 1b\n\t" EDGEKILN_STORE_SUMS
               : [a] "+r"(a), [b] "+r"(b), [steps] "+r"(steps), [sums] "+r"(sums)
               :
               : EDGEKILN_CLOBBERED);
}

// results = sums * scales of the tile's tokens and columns, as rows: results[2 * token + column / 4]
[[gnu::always_inline]] inline void finish(const std::int32_t* sums, const float* token_scales,
                                          const float* column_scales, Int8Results& results) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const float32x2_t two = vld1_f32(token_scales + 2 * i);
    const float32x4_t tokens = vzip1q_f32(vcombine_f32(two, two), vcombine_f32(two, two));
    float64x2_t pairs[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const float32x2_t columns = vld1_f32(column_scales + 2 * j);
      const float32x4_t scales = vmulq_f32(vcombine_f32(columns, columns), tokens);
      pairs[j] = vreinterpretq_f64_f32(vmulq_f32(vcvtq_f32_s32(vld1q_s32(sums + 4 * (4 * i + j))), scales));
    }
    results[4 * i] = vreinterpretq_f32_f64(vzip1q_f64(pairs[0], pairs[1]));
    results[4 * i + 1] = vreinterpretq_f32_f64(vzip1q_f64(pairs[2], pairs[3]));
    results[4 * i + 2] = vreinterpretq_f32_f64(vzip2q_f64(pairs[0], pairs[1]));
    results[4 * i + 3] = vreinterpretq_f32_f64(vzip2q_f64(pairs[2], pairs[3]));
  }
}

}  // namespace detail

#else

inline constexpr std::size_t kInt8TileTokens = 4, kInt8TileColumns = 16;

// Multiplies four values of k, which lane `lane` of v0 to v3 has for four tokens, with their weights for 16 columns.
#define EDGEKILN_SDOT_LANE(lane)         \
  "ld1 {v4.16b-v7.16b}, [%[b]], #64\n\t" \
  "sdot v16.4s, v4.16b, v0.4b[" #lane    \
  "]\n\t"                                \
  "sdot v20.4s, v4.16b, v1.4b[" #lane    \
  "]\n\t"                                \
  "sdot v24.4s, v4.16b, v2.4b[" #lane    \
  "]\n\t"                                \
  "sdot v28.4s, v4.16b, v3.4b[" #lane    \
  "]\n\t"                                \
  "sdot v17.4s, v5.16b, v0.4b[" #lane    \
  "]\n\t"                                \
  "sdot v21.4s, v5.16b, v1.4b[" #lane    \
  "]\n\t"                                \
  "sdot v25.4s, v5.16b, v2.4b[" #lane    \
  "]\n\t"                                \
  "sdot v29.4s, v5.16b, v3.4b[" #lane    \
  "]\n\t"                                \
  "sdot v18.4s, v6.16b, v0.4b[" #lane    \
  "]\n\t"                                \
  "sdot v22.4s, v6.16b, v1.4b[" #lane    \
  "]\n\t"                                \
  "sdot v26.4s, v6.16b, v2.4b[" #lane    \
  "]\n\t"                                \
  "sdot v30.4s, v6.16b, v3.4b[" #lane    \
  "]\n\t"                                \
  "sdot v19.4s, v7.16b, v0.4b[" #lane    \
  "]\n\t"                                \
  "sdot v23.4s, v7.16b, v1.4b[" #lane    \
  "]\n\t"                                \
  "sdot v27.4s, v7.16b, v2.4b[" #lane    \
  "]\n\t"                                \
  "sdot v31.4s, v7.16b, v3.4b[" #lane "]\n\t"

namespace detail {

// sums [4 tokens][16 columns] = `steps` steps
inline void multiply_int8(const std::int8_t* a, const std::int8_t* b, std::size_t steps, std::int32_t* sums) {
  asm volatile(
      EDGEKILN_ZERO_SUMS
      "1:\n\t"
      ".rept 2\n\t"
      "ld1 {v0.16b-v3.16b}, [%[a]], %[stride]\n\t"
      EDGEKILN_SDOT_LANE(0)
      EDGEKILN_SDOT_LANE(1)
      EDGEKILN_SDOT_LANE(2)
      EDGEKILN_SDOT_LANE(3)
      ".endr\n\t"
      "subs %[steps], %[steps], #1\n\t"
      "b.ne 1b\n\t"
      EDGEKILN_STORE_SUMS
      : [a] "+r"(a), [b] "+r"(b), [steps] "+r"(steps), [sums] "+r"(sums)
      : [stride] "r"(kTileTokens * kCodesK)
      : EDGEKILN_CLOBBERED);
}

// results = sums * scales of the tile's tokens and columns, as rows: results[4 * token + column / 4]
[[gnu::always_inline]] inline void finish(const std::int32_t* sums, const float* token_scales,
                                          const float* column_scales, Int8Results& results) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const float32x4_t scales = vmulq_n_f32(vld1q_f32(column_scales + 4 * j), token_scales[i]);
      results[4 * i + j] = vmulq_f32(vcvtq_f32_s32(vld1q_s32(sums + 4 * (4 * i + j))), scales);
    }
}

}  // namespace detail

#undef EDGEKILN_SDOT_LANE

#endif

#undef EDGEKILN_ZERO_SUMS
#undef EDGEKILN_STORE_SUMS
#undef EDGEKILN_CLOBBERED

// out [tokens, columns], rows `stride` apart = activations * weights * scales, for `steps` * kStepK values of k.
// `tokens` and `columns` may be more than a tile's.
[[gnu::noinline]] inline void int8_tile(const std::int8_t* a, const std::int8_t* b, std::size_t steps,
                                        const float* token_scales, const float* column_scales, std::size_t tokens,
                                        std::size_t columns, float* out, std::size_t stride) {
  using namespace detail;
  std::int32_t sums[4 * kAccumulators];
  multiply_int8(a, b, steps, sums);
  Int8Results results;
  finish(sums, token_scales, column_scales, results);
  constexpr int kVectors = kInt8TileColumns / 4;
  if (tokens >= kInt8TileTokens && columns >= kInt8TileColumns) {
#pragma GCC unroll 8
    for (std::size_t token = 0; token < kInt8TileTokens; ++token, out += stride)
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) vst1q_f32(out + 4 * j, results[token * kVectors + j]);
    return;
  }
  Int8Results rows;
#pragma GCC unroll 16
  for (int i = 0; i < kAccumulators; ++i) rows[i] = results[i];
  for (std::size_t token = 0; token < std::min(tokens, kInt8TileTokens); ++token, out += stride)
    std::memcpy(out, &rows[token * kVectors], std::min(columns, kInt8TileColumns) * sizeof(float));
}

}  // namespace edgekiln::EDGEKILN_ISA
