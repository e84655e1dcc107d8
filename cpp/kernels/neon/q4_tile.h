// The register tile of q4 prefill: 8 tokens times a strip of 4 columns, over all of k.
//
// Its activations have one scale for kActivationK values of k, two of which (a span) share the scales of the weights.
// Both chunks of a span are added to the same int32 sums, which are read after each of them:
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
static_assert(kSpanK == 2 * kActivationK);
inline constexpr float kOffset = 12582912.0f;  // 1.5 * 2^23
static_assert(kSpanK * 127 * 127 < 1 << 22);   // so that sums stay between 2^23 and 2^24

inline constexpr std::size_t kSpanFactors = 3 * kTokenFactors;

// Stores the factors of a token for one span, from the scales of its two chunks.
inline void store_span_factors(float* to, std::size_t token, float first, float second) {
  store_token_factor(to, token, -kOffset * first);
  store_token_factor(to + kTokenFactors, token, first - second);
  store_token_factor(to + 2 * kTokenFactors, token, second);
}

namespace detail {

// A whole span, its first chunk, or less than either and no multiple of kActivationK.
enum class Span { kWhole, kFirstChunk, kPart };

// totals += a span, or the first `k` values of k of it. Element by element: GCC 12 keeps in memory what it finds
// in loops and lambdas.
template <Span kSpan>
[[gnu::always_inline]] inline void add_span(Totals& totals, const std::int8_t*& a, const std::int8_t*& b,
                                            const float* factors, const float* scales, std::size_t k = kSpanK) {
  const int32x4_t offset = vreinterpretq_s32_f32(vdupq_n_f32(kOffset));
  Sums sums = {offset, offset, offset, offset, offset, offset, offset, offset};
  static_assert(kActivationK == 4 * kCodesK);
  const auto* const middle = a + std::min(k, kActivationK) * kTileTokens;
  const auto* const end = a + k * kTileTokens;
  if constexpr (kSpan == Span::kPart) {
    while (a != middle) multiply_step(sums, a, b);
  } else {
    multiply_step(sums, a, b);
    multiply_step(sums, a, b);
    multiply_step(sums, a, b);
    multiply_step(sums, a, b);
  }
  const Factors starts = load_factors(factors), first = load_factors(factors + kTokenFactors);
  Totals values = {scaled<0>(starts, sums[0], first), scaled<1>(starts, sums[1], first),
                   scaled<2>(starts, sums[2], first), scaled<3>(starts, sums[3], first),
                   scaled<4>(starts, sums[4], first), scaled<5>(starts, sums[5], first),
                   scaled<6>(starts, sums[6], first), scaled<7>(starts, sums[7], first)};
  // Computed here: later, they would need more registers than there are.
  asm(""
      : "+w"(values[0]), "+w"(values[1]), "+w"(values[2]), "+w"(values[3]), "+w"(values[4]), "+w"(values[5]),
        "+w"(values[6]), "+w"(values[7]));
  if constexpr (kSpan == Span::kWhole) {
    multiply_step(sums, a, b);
    multiply_step(sums, a, b);
    multiply_step(sums, a, b);
    multiply_step(sums, a, b);
  } else if constexpr (kSpan == Span::kPart) {
    while (a != end) multiply_step(sums, a, b);
  }
  const Factors second = load_factors(factors + 2 * kTokenFactors);
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
      add_span<Span::kFirstChunk>(totals, a, b, factors, column_scales, rest);
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
