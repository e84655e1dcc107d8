// The q4 prefill GEMM in int8: a packed 4-bit weight times many tokens. For NEON.
//
// One panel at a time is requantized to 8 bits (q4_requantize.h), into memory that stays in the L1 or L2 cache; then
// all tokens are multiplied with it (q4_tile.h). Activations are quantized to int8 in blocks of kActivationK.
#include "kernels/packed/q4_prefill.h"

#include <algorithm>

#include "kernels/neon/q4_requantize.h"
#include "kernels/neon/q4_tile.h"
#include "kernels/neon/quantize.h"
#include "kernels/vector/for_each_row.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

struct PrefillArgs {
  const PackedNBits& weight;
  const float* a;
  std::size_t m, tiles, padded_k, spans;  // tiles of kTileTokens tokens, spans of kSpanK values of k
  float* out;
  std::int8_t* codes;  // [tiles, padded_k, kTileTokens] as tile_layout.h says, in the order of kOrder
  float* factors;      // [tiles, spans, kSpanFactors]
};

// The order of 16 values of k in the requantized weights, whose nibbles are even and odd ones.
#if defined(__ARM_FEATURE_MATMUL_INT8)
constexpr std::uint8_t kOrder[kCodesK] = {0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15};
#else
constexpr std::uint8_t kOrder[kCodesK] = {0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15};
#endif

// Stores the codes of a token's values [first, last), and returns their scale.
float quantize_chunk(const float* a, std::size_t first, std::size_t last, std::int8_t* tile, std::size_t token) {
  const uint8x16_t order = vld1q_u8(kOrder);
  static_assert(kActivationK == 64);
  if (last - first == kActivationK) {
    int8x16_t codes[4];
    const float scale = quantize_64(a + first, codes);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) store_codes(tile, token, first + i * kCodesK, vqtbl1q_s8(codes[i], order));
    return scale;
  }
  const float largest = largest_magnitude(a + first, last - first);
  const float inverse = largest == 0.0f ? 0.0f : 127.0f / largest;
  for (std::size_t i = first; i < last; i += kCodesK)
    store_codes(tile, token, i, vqtbl1q_s8(quantize_16(a + i, inverse), order));
  for (std::size_t i = last; i < first + kActivationK; i += kCodesK) store_codes(tile, token, i, vdupq_n_s8(0));
  return largest / 127.0f;
}

void quantize_token(const PrefillArgs& args, std::size_t index) {
  const std::size_t k = args.weight.k, tile = index / kTileTokens, token = index % kTileTokens;
  const float* a = args.a + index * k;
  std::int8_t* codes = args.codes + tile * kTileTokens * args.padded_k;
  float* factors = args.factors + tile * args.spans * kSpanFactors;
  for (std::size_t first = 0; first < k; first += kSpanK, factors += kSpanFactors) {
    float scales[kSpanChunks] = {};
    const std::size_t end = std::min(first + kSpanK, k);
    for (std::size_t at = first, chunk = 0; at < end; at += kActivationK, ++chunk)
      scales[chunk] = quantize_chunk(a, at, std::min(at + kActivationK, end), codes, token);
    store_span_factors(factors, token, scales);
  }
}

template <typename Param, WeightScheme kScheme>
void requantize_as(const PackedNBits& weight, std::size_t panel, std::int8_t* to, float* scales) {
  (weight.group_size == kBlock ? requantize<Param, kScheme, kBlock> : requantize<Param, kScheme, 0>)(weight, panel, to,
                                                                                                     scales);
}

template <typename Param>
void requantize_with(const PackedNBits& weight, std::size_t panel, std::int8_t* to, float* scales) {
  switch (weight.scheme) {
    case WeightScheme::kSymmetric:
      return requantize_as<Param, WeightScheme::kSymmetric>(weight, panel, to, scales);
    case WeightScheme::kZeroPoints:
      return requantize_as<Param, WeightScheme::kZeroPoints>(weight, panel, to, scales);
    case WeightScheme::kGroupBias:
      return requantize_as<Param, WeightScheme::kGroupBias>(weight, panel, to, scales);
    case WeightScheme::kCodebook:
      return requantize_as<Param, WeightScheme::kCodebook>(weight, panel, to, scales);
  }
}

void panel_task(void* context, std::size_t panel) {
  const PrefillArgs& args = *static_cast<const PrefillArgs*>(context);
  const PackedNBits& weight = args.weight;
  const std::size_t k = args.padded_k, n = weight.n, scales_stride = args.spans * kColumnScales;
  thread_local Scratch memory;
  float* scales = at_least(memory, kPanelWidth * k / sizeof(float) + kStrips * scales_stride);
  auto* codes = reinterpret_cast<std::int8_t*>(scales + kStrips * scales_stride);
  (weight.float16_params ? requantize_with<Float16> : requantize_with<float>)(weight, panel, codes, scales);
  for (std::size_t strip = 0; strip < kStrips; ++strip, codes += kStripColumns * k, scales += scales_stride) {
    const std::size_t column = panel * kPanelWidth + strip * kStripColumns;
    if (column >= n) return;
    // The padding is multiplied by zero, but should not be what was never written.
    std::fill(codes + kStripColumns * weight.k, codes + kStripColumns * k, 0);
    multiply_strip(args.codes, codes, args.factors, scales, k / kActivationK, args.m, n - column, args.out + column, n);
  }
}

}  // namespace

void q4_prefill(const PackedNBits& weight, const float* a, std::size_t m, float* out, const Parallel& parallel,
                Scratch& scratch) {
  const std::size_t tiles = (m + kTileTokens - 1) / kTileTokens, padded_k = padded_to_chunks(weight.k);
  const std::size_t spans = (padded_k + kSpanK - 1) / kSpanK, tile_factors = spans * kSpanFactors;
  const std::size_t codes = tiles * kTileTokens * padded_k / sizeof(float);
  float* memory = at_least(scratch, codes + tiles * tile_factors);
  PrefillArgs args{
      .weight = weight,
      .a = a,
      .m = m,
      .tiles = tiles,
      .padded_k = padded_k,
      .spans = spans,
      .out = out,
      .codes = reinterpret_cast<std::int8_t*>(memory),
      .factors = memory + codes,
  };
  // Tokens past the last are multiplied, too, and dropped: their codes may be anything, their factors finite.
  if (m % kTileTokens) std::fill_n(args.factors + (tiles - 1) * tile_factors, tile_factors, 0.0f);
  for_each_row(m, weight.k, parallel, [&](std::size_t token) { quantize_token(args, token); });
  parallel.run(parallel.self, panel_task, weight.panels(), &args);
}

}  // namespace edgekiln::EDGEKILN_ISA
