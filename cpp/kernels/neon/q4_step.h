// The assembly of the tile of q4 prefill (q4_tile.h) that differs between SMMLA and SDOT, and the layout of what it
// reads.
//
// The weights of a strip are for 16 values of k, sums and results of 8 tokens times 4 columns in eight registers:
//
//   SMMLA  weights [k / 8][2 pairs of columns][2][8], sums [2 pairs of columns][4 pairs of tokens][2][2]
//   SDOT   weights [k / 4][4 columns][4],             sums [8 tokens][4 columns]
//
// v0 .. v7 are operands, v8 .. v15 totals, v16 .. v23 sums, v24 .. v31 the values of a span.
#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

#include "kernels/neon/tile_layout.h"

namespace edgekiln::EDGEKILN_ISA {

inline constexpr std::size_t kStripColumns = 4;

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

#define EDGEKILN_SMMLA(s0, s1, s2, s3, weights) \
  "smmla v" #s0 ".4s, v0.16b, v" #weights       \
  ".16b\n\t"                                    \
  "smmla v" #s1 ".4s, v1.16b, v" #weights       \
  ".16b\n\t"                                    \
  "smmla v" #s2 ".4s, v2.16b, v" #weights       \
  ".16b\n\t"                                    \
  "smmla v" #s3 ".4s, v3.16b, v" #weights ".16b\n\t"
#define EDGEKILN_HALF(left, right) \
  "ld1 {v0.16b-v3.16b}, [%[a]], #64\n\t" EDGEKILN_SMMLA(16, 17, 18, 19, left) EDGEKILN_SMMLA(20, 21, 22, 23, right)

// sums += kCodesK values of k.
#define EDGEKILN_STEP "ld1 {v4.16b-v7.16b}, [%[b]], #64\n\t" EDGEKILN_HALF(4, 5) EDGEKILN_HALF(6, 7)

// The values of a span before its first chunk.
#define EDGEKILN_START                    \
  "ld1 {v24.4s-v27.4s}, [%[factors]]\n\t" \
  "ld1 {v28.4s-v31.4s}, [%[factors]], #64\n\t"

// values += sums * factors of a chunk
#define EDGEKILN_ADD_CHUNK                   \
  "ld1 {v0.4s-v3.4s}, [%[factors]], #64\n\t" \
  "fmla v24.4s, v16.4s, v0.4s\n\t"           \
  "fmla v25.4s, v17.4s, v1.4s\n\t"           \
  "fmla v26.4s, v18.4s, v2.4s\n\t"           \
  "fmla v27.4s, v19.4s, v3.4s\n\t"           \
  "fmla v28.4s, v20.4s, v0.4s\n\t"           \
  "fmla v29.4s, v21.4s, v1.4s\n\t"           \
  "fmla v30.4s, v22.4s, v2.4s\n\t"           \
  "fmla v31.4s, v23.4s, v3.4s\n\t"

// The scales of the strip's columns in a span, for EDGEKILN_LEFT and EDGEKILN_RIGHT, which multiply v24 .. and v28 ..
#define EDGEKILN_LOAD_SCALES "ld1 {v0.4s, v1.4s}, [%[scales]], #32\n\t"
#define EDGEKILN_LEFT "v0.4s"
#define EDGEKILN_RIGHT "v1.4s"

// Totals to rows of four columns, in v8 .. v15 in the order 0, 2, 4, 6, 1, 3, 5, 7.
#define EDGEKILN_ROWS               \
  "zip1 v0.2d, v8.2d, v12.2d\n\t"   \
  "zip2 v12.2d, v8.2d, v12.2d\n\t"  \
  "zip1 v1.2d, v9.2d, v13.2d\n\t"   \
  "zip2 v13.2d, v9.2d, v13.2d\n\t"  \
  "zip1 v2.2d, v10.2d, v14.2d\n\t"  \
  "zip2 v14.2d, v10.2d, v14.2d\n\t" \
  "zip1 v3.2d, v11.2d, v15.2d\n\t"  \
  "zip2 v15.2d, v11.2d, v15.2d\n\t"
#define EDGEKILN_STORE_ROWS(row) row(0) row(12) row(1) row(13) row(2) row(14) row(3) row(15)

#else

inline constexpr std::size_t kTokenFactors = kTileTokens, kColumnScales = kStripColumns;

inline void store_token_factor(float* to, std::size_t token, float factor) { to[token] = factor; }

inline void store_column_scales(float* to, float32x4_t scales) { vst1q_f32(to, scales); }

#define EDGEKILN_SDOT(s0, s1, s2, s3, weights, lane)  \
  "sdot v" #s0 ".4s, v" #weights ".16b, v0.4b[" #lane \
  "]\n\t"                                             \
  "sdot v" #s1 ".4s, v" #weights ".16b, v1.4b[" #lane \
  "]\n\t"                                             \
  "sdot v" #s2 ".4s, v" #weights ".16b, v2.4b[" #lane \
  "]\n\t"                                             \
  "sdot v" #s3 ".4s, v" #weights ".16b, v3.4b[" #lane "]\n\t"
#define EDGEKILN_HALF(s0, s1, s2, s3)                                                                            \
  "ld1 {v0.16b-v3.16b}, [%[a]], #64\n\t" EDGEKILN_SDOT(s0, s1, s2, s3, 4, 0) EDGEKILN_SDOT(s0, s1, s2, s3, 5, 1) \
      EDGEKILN_SDOT(s0, s1, s2, s3, 6, 2) EDGEKILN_SDOT(s0, s1, s2, s3, 7, 3)

#define EDGEKILN_STEP "ld1 {v4.16b-v7.16b}, [%[b]], #64\n\t" EDGEKILN_HALF(16, 17, 18, 19) EDGEKILN_HALF(20, 21, 22, 23)

#define EDGEKILN_START                          \
  "ld4r {v24.4s-v27.4s}, [%[factors]], #16\n\t" \
  "ld4r {v28.4s-v31.4s}, [%[factors]], #16\n\t"

#define EDGEKILN_ADD_CHUNK                    \
  "ld1 {v0.4s, v1.4s}, [%[factors]], #32\n\t" \
  "fmla v24.4s, v16.4s, v0.s[0]\n\t"          \
  "fmla v25.4s, v17.4s, v0.s[1]\n\t"          \
  "fmla v26.4s, v18.4s, v0.s[2]\n\t"          \
  "fmla v27.4s, v19.4s, v0.s[3]\n\t"          \
  "fmla v28.4s, v20.4s, v1.s[0]\n\t"          \
  "fmla v29.4s, v21.4s, v1.s[1]\n\t"          \
  "fmla v30.4s, v22.4s, v1.s[2]\n\t"          \
  "fmla v31.4s, v23.4s, v1.s[3]\n\t"

#define EDGEKILN_LOAD_SCALES "ld1 {v0.4s}, [%[scales]], #16\n\t"
#define EDGEKILN_LEFT "v0.4s"
#define EDGEKILN_RIGHT "v0.4s"

#define EDGEKILN_ROWS
#define EDGEKILN_STORE_ROWS(row) row(8) row(9) row(10) row(11) row(12) row(13) row(14) row(15)

#endif

}  // namespace edgekiln::EDGEKILN_ISA
