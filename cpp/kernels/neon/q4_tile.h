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

namespace detail {

// Element by element below: GCC 12 keeps in memory what it finds in loops and lambdas.

// values += sums * factors
[[gnu::always_inline]] inline void add_chunk(Totals& values, const Sums& sums, const float* from) {
  const Factors factors = load_factors(from);
  values[0] = scaled<0>(values[0], sums[0], factors);
  values[1] = scaled<1>(values[1], sums[1], factors);
  values[2] = scaled<2>(values[2], sums[2], factors);
  values[3] = scaled<3>(values[3], sums[3], factors);
  values[4] = scaled<4>(values[4], sums[4], factors);
  values[5] = scaled<5>(values[5], sums[5], factors);
  values[6] = scaled<6>(values[6], sums[6], factors);
  values[7] = scaled<7>(values[7], sums[7], factors);
}

// sums += a chunk, or its first `k` values of k.
template <bool kWhole>
[[gnu::always_inline]] inline void multiply_chunk(Sums& sums, const std::int8_t*& a, const std::int8_t*& b,
                                                  std::size_t k) {
  if constexpr (kWhole) {
    static_assert(kActivationK == 4 * kCodesK);
    multiply_step(sums, a, b);
    multiply_step(sums, a, b);
    multiply_step(sums, a, b);
    multiply_step(sums, a, b);
  } else {
    for (const auto* const end = a + std::min(k, kActivationK) * kTileTokens; a != end;) multiply_step(sums, a, b);
  }
}

// A whole span, its first chunk, or some of it.
enum class Span { kWhole, kChunk, kPart };

// totals += a span, or the first `k` values of k of it.
template <Span kSpan>
[[gnu::always_inline]] inline void add_span(Totals& totals, const std::int8_t*& a, const std::int8_t*& b,
                                            const float* factors, const float* scales, std::size_t k = kSpanK) {
  const int32x4_t offset = vreinterpretq_s32_f32(vdupq_n_f32(kOffset));
  Sums sums = {offset, offset, offset, offset, offset, offset, offset, offset};
  multiply_chunk<kSpan != Span::kPart>(sums, a, b, k);
  const Factors starts = load_factors(factors);
  Totals values = {start<0>(starts), start<1>(starts), start<2>(starts), start<3>(starts),
                   start<4>(starts), start<5>(starts), start<6>(starts), start<7>(starts)};
  add_chunk(values, sums, factors += kTokenFactors);
  // Computed here: later, they would need more registers than there are.
  asm(""
      : "+w"(values[0]), "+w"(values[1]), "+w"(values[2]), "+w"(values[3]), "+w"(values[4]), "+w"(values[5]),
        "+w"(values[6]), "+w"(values[7]));
  if constexpr (kSpan == Span::kWhole) {
#pragma GCC unroll 4
    for (std::size_t chunk = 1; chunk < kSpanChunks; ++chunk) {
      multiply_chunk<true>(sums, a, b, k);
      add_chunk(values, sums, factors += kTokenFactors);
    }
  } else if constexpr (kSpan == Span::kPart) {
    for (; k > kActivationK; add_chunk(values, sums, factors += kTokenFactors)) {
      k -= kActivationK;
      multiply_chunk<false>(sums, a, b, k);
    }
  }
  const Scales columns = load_scales(scales);
  totals[0] = weighted<0>(totals[0], values[0], columns);
  totals[1] = weighted<1>(totals[1], values[1], columns);
  totals[2] = weighted<2>(totals[2], values[2], columns);
  totals[3] = weighted<3>(totals[3], values[3], columns);
  totals[4] = weighted<4>(totals[4], values[4], columns);
  totals[5] = weighted<5>(totals[5], values[5], columns);
  totals[6] = weighted<6>(totals[6], values[6], columns);
  totals[7] = weighted<7>(totals[7], values[7], columns);
}

// Stores a row and advances by `stride`, in one instruction.
inline void store_row(float32x4_t row, float*& to, std::size_t stride) {
  asm volatile("st1 {%1.4s}, [%0], %2" : "+r"(to) : "w"(row), "r"(stride * sizeof(float)) : "memory");
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
// tiles one after another, `factors` those of the spans of all tiles, `scales` those of the strip's spans. `columns`
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
    for (std::size_t span = 0; span < spans; ++span, factors += kSpanFactors, column_scales += kColumnScales)
      add_span<Span::kWhole>(totals, a, b, factors, column_scales);
    if (rest == kActivationK) {
      add_span<Span::kChunk>(totals, a, b, factors, column_scales, rest);
      factors += kSpanFactors;
    } else if (rest) {
      add_span<Span::kPart>(totals, a, b, factors, column_scales, rest);
      factors += kSpanFactors;
    }
    if (m - token < kTileTokens || columns < kStripColumns) {
      const Totals copy = {totals[0], totals[1], totals[2], totals[3], totals[4], totals[5], totals[6], totals[7]};
      store_part(copy, m - token, columns, out, stride);
      continue;
    }
    float* to = out;
    store_row(tile_row<0>(totals), to, stride);
    store_row(tile_row<1>(totals), to, stride);
    store_row(tile_row<2>(totals), to, stride);
    store_row(tile_row<3>(totals), to, stride);
    store_row(tile_row<4>(totals), to, stride);
    store_row(tile_row<5>(totals), to, stride);
    store_row(tile_row<6>(totals), to, stride);
    store_row(tile_row<7>(totals), to, stride);
  }
}

}  // namespace edgekiln::EDGEKILN_ISA
