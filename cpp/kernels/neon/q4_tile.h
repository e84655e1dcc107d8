// The register tile of q4 prefill: 8 tokens times a strip of 4 columns, over all of k.
//
// Its activations have one scale for kActivationK values of k (a chunk), its weights for kRequantizeK (a span). All
// chunks of a span are added to the same int32 sums, which are read after each of them:
//
//   t0 * (sum of chunk 0) + t1 * (sum of chunk 1) = (t0 - t1) * (sums after chunk 0) + t1 * (sums after chunk 1)
//
// so that the sums are set once a span. They begin at the bits of kOffset, a float with steps of 1, so that they are
// kOffset + sum as floats without conversion. The factors -kOffset * t0, t0 - t1 and t1 are prepared with the
// activations. They are rounded, by a sum of about t0, where quantization errs by a hundred times that.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/neon/q4_step.h"
#include "kernels/pack/packed_nbits.h"

namespace edgekiln::EDGEKILN_ISA {

inline constexpr std::size_t kActivationK = 64;  // values of k that share a scale of the activations
inline constexpr std::size_t kSpanK = kRequantizeK;
inline constexpr std::size_t kSpanChunks = kSpanK / kActivationK;
inline constexpr float kOffset = 12582912.0f;  // 1.5 * 2^23
static_assert(kSpanK * 127 * 127 < 1 << 22);   // so that sums stay between 2^23 and 2^24

inline constexpr std::size_t kSpanFactors = (1 + kSpanChunks) * kTokenFactors;

// Stores the factors of a token for one span, from the scales of its chunks, zero past k.
inline void store_span_factors(float* to, std::size_t token, const float (&scales)[kSpanChunks]) {
  store_token_factor(to, token, -kOffset * scales[0]);
  for (std::size_t chunk = 0; chunk < kSpanChunks; ++chunk)
    store_token_factor(to + (1 + chunk) * kTokenFactors, token,
                       scales[chunk] - (chunk + 1 < kSpanChunks ? scales[chunk + 1] : 0.0f));
}

// Values of k with those that pad the last chunk, whose activation codes are zero.
inline std::size_t padded_to_chunks(std::size_t k) { return (k + kActivationK - 1) / kActivationK * kActivationK; }

// What a span's sums begin at.
inline constexpr float kOffsets[16] = {kOffset, kOffset, kOffset, kOffset, kOffset, kOffset, kOffset, kOffset,
                                       kOffset, kOffset, kOffset, kOffset, kOffset, kOffset, kOffset, kOffset};

// One tile: `chunks` chunks of the activations `a`, which it advances, as `factors`, times the weights `b`. Stores
// eight rows of four columns, `stride` apart. All in assembly: LD1 of four registers, and LD4R, need neighbours, which
// GCC 12 gets by copying.
[[gnu::always_inline]] inline void multiply_tile(const std::int8_t*& a, const std::int8_t* b, const float*& factors,
                                                 const float* scales, std::size_t chunks, float* out,
                                                 std::size_t stride) {
  static_assert(kActivationK == 4 * kCodesK && kSpanChunks == 2);
#define EDGEKILN_CHUNK EDGEKILN_STEP EDGEKILN_STEP EDGEKILN_STEP EDGEKILN_STEP
#define EDGEKILN_FIRST_CHUNK              \
  "ld1 {v16.4s-v19.4s}, [%[offsets]]\n\t" \
  "ld1 {v20.4s-v23.4s}, [%[offsets]]\n\t" EDGEKILN_CHUNK EDGEKILN_START EDGEKILN_ADD_CHUNK
#define EDGEKILN_FMLA(total, value, scale) "fmla v" #total ".4s, v" #value ".4s, " scale "\n\t"
// totals += values * scales
#define EDGEKILN_ADD_SPAN               \
  EDGEKILN_LOAD_SCALES                  \
  EDGEKILN_FMLA(8, 24, EDGEKILN_LEFT)   \
  EDGEKILN_FMLA(9, 25, EDGEKILN_LEFT)   \
  EDGEKILN_FMLA(10, 26, EDGEKILN_LEFT)  \
  EDGEKILN_FMLA(11, 27, EDGEKILN_LEFT)  \
  EDGEKILN_FMLA(12, 28, EDGEKILN_RIGHT) \
  EDGEKILN_FMLA(13, 29, EDGEKILN_RIGHT) \
  EDGEKILN_FMLA(14, 30, EDGEKILN_RIGHT) \
  EDGEKILN_FMLA(15, 31, EDGEKILN_RIGHT)
#define EDGEKILN_STORE_ROW(row) "st1 {v" #row ".4s}, [%[out]], %[stride]\n\t"
  asm volatile(
      "movi v8.4s, #0\n\t"
      "movi v9.4s, #0\n\t"
      "movi v10.4s, #0\n\t"
      "movi v11.4s, #0\n\t"
      "movi v12.4s, #0\n\t"
      "movi v13.4s, #0\n\t"
      "movi v14.4s, #0\n\t"
      "movi v15.4s, #0\n\t"
      "subs %[chunks], %[chunks], #2\n\t"
      "b.lo 2f\n"
      "1:\n\t"  // a span of two chunks
      EDGEKILN_FIRST_CHUNK EDGEKILN_CHUNK EDGEKILN_ADD_CHUNK EDGEKILN_ADD_SPAN
      "subs %[chunks], %[chunks], #2\n\t"
      "b.hs 1b\n"
      "2:\n\t"
      "tbz %[chunks], #0, 3f\n\t"  // -1 where a chunk is left, else -2
      EDGEKILN_FIRST_CHUNK EDGEKILN_ADD_SPAN
      "add %[factors], %[factors], %[second]\n"  // of the chunk that is not there
      "3:\n\t"                                   //
      EDGEKILN_ROWS EDGEKILN_STORE_ROWS(EDGEKILN_STORE_ROW)
      : [a] "+r"(a), [b] "+r"(b), [factors] "+r"(factors), [scales] "+r"(scales), [chunks] "+r"(chunks), [out] "+r"(out)
      : [stride] "r"(stride * sizeof(float)), [offsets] "r"(kOffsets), [second] "i"(kTokenFactors * sizeof(float))
      : "cc", "memory", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14",
        "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30",
        "v31");
}

#undef EDGEKILN_SMMLA
#undef EDGEKILN_SDOT
#undef EDGEKILN_HALF
#undef EDGEKILN_STEP
#undef EDGEKILN_START
#undef EDGEKILN_ADD_CHUNK
#undef EDGEKILN_LOAD_SCALES
#undef EDGEKILN_LEFT
#undef EDGEKILN_RIGHT
#undef EDGEKILN_ROWS
#undef EDGEKILN_STORE_ROWS
#undef EDGEKILN_CHUNK
#undef EDGEKILN_FIRST_CHUNK
#undef EDGEKILN_FMLA
#undef EDGEKILN_ADD_SPAN
#undef EDGEKILN_STORE_ROW

// out [m, columns], rows `stride` apart = activations * weights of a strip, for `chunks` chunks of k. `a` has the codes
// of all tiles one after another, `factors` those of the spans of all tiles, `scales` those of the strip's spans.
// `columns` may be more than a strip's.
[[gnu::noinline]] inline void multiply_strip(const std::int8_t* a, const std::int8_t* weights, const float* factors,
                                             const float* scales, std::size_t chunks, std::size_t m,
                                             std::size_t columns, float* out, std::size_t stride) {
  for (std::size_t token = 0; token < m; token += kTileTokens, out += kTileTokens * stride) {
    const bool whole = m - token >= kTileTokens && columns >= kStripColumns;
    float part[kTileTokens][kStripColumns];
    multiply_tile(a, weights, factors, scales, chunks, whole ? out : part[0], whole ? stride : kStripColumns);
    if (whole) continue;
    for (std::size_t row = 0; row < std::min(m - token, kTileTokens); ++row)
      std::memcpy(out + row * stride, part[row], std::min(columns, kStripColumns) * sizeof(float));
  }
}

}  // namespace edgekiln::EDGEKILN_ISA
