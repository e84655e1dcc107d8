// The q4 prefill GEMM in int8. For AVX512-VNNI without AMX.
//
// Two panels at a time are requantized from 4-bit groups to 8 bits with one scale per 128 values of k, into memory that
// stays in the L2 cache; then all tokens are multiplied with them. A group's own scale so costs one operation a weight,
// not one a weight and token.
//
// Activations are quantized to int8 in blocks of 32. VPDPBUSD takes unsigned weights, so these have zero point 128, and
// each accumulator starts at the compensation, -128 * the sum of the block's activation codes.
#include "kernels/packed/q4_prefill.h"

#include <algorithm>
#include <cstring>

#include "kernels/packed/group_params.h"
#include "kernels/packed/packed_gemm.h"
#include "kernels/vector/for_each_row.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

constexpr int kTokens = 6, kPanels = 2;  // of a tile: int32 and float accumulators fill the registers
constexpr int kZeroPoint = 128;
constexpr float kMaxCode = 127.0f;
constexpr float kSmallestMaximum = 1e-30f;  // keeps the scale of an all-zero column finite

struct PrefillArgs {
  const PackedNBits& weight;
  const float* a;
  std::size_t m, blocks;
  float* out;
  std::int8_t* codes;          // [m, k]; of each eight the even and then the odd ones, as the weight's
  std::int32_t* compensation;  // [blocks, m]
  float* scales;               // [blocks, m]
};

void quantize_token(const PrefillArgs& args, std::size_t token) {
  const std::size_t k = args.weight.k;
  const float* a = args.a + token * k;
  std::int8_t* codes = args.codes + token * k;
  for (std::size_t block = 0; block < args.blocks; ++block, a += kBlock, codes += kBlock) {
    const QuantizedBlock quantized = quantize_block(a);
    const BlockCodes ordered = even_then_odd(quantized.codes);
    std::memcpy(codes, &ordered, sizeof ordered);
    args.compensation[block * args.m + token] = -kZeroPoint * quantized.sum;
    args.scales[block * args.m + token] = quantized.scale;
  }
}

// 16 columns' values rounded to 16 bits, each in both halves of its lane.
inline __m512i to_int16_twice(Floats x) {
  const __m512i word = _mm512_cvtps_epi32(reinterpret_cast<__m512>(x));
  return _mm512_or_si512(_mm512_and_si512(word, _mm512_set1_epi32(0xffff)), _mm512_slli_epi32(word, 16));
}

// codes[k / 4, 16 columns, 4] = the weights of a panel as 128 + w / scale, with scales[k / kRequantizeK, 16].
//
// A 4-bit code times its group's scale, in 256ths of the new scale, plus the group's min: computed modulo 2^16, which
// is exact as the result is within 127 steps, however large the terms are.
template <bool HasFloat16>
void requantize(const PackedNBits& weight, std::size_t panel, std::uint8_t* to, float* scales) {
  const std::size_t block_bytes = weight.block_bytes(), codes_bytes = weight.codes_bytes();
  const std::size_t groups_per_scale = std::max<std::size_t>(kRequantizeK / weight.group_size, 1);
  const std::uint8_t* block = weight.panel(panel);
  const __m512i nibble = _mm512_set1_epi8(15), low_byte = _mm512_set1_epi16(255);
  for (std::size_t first = 0; first < weight.groups(); first += groups_per_scale, scales += kPanelWidth) {
    const std::size_t groups = std::min(groups_per_scale, weight.groups() - first);
    Floats most = broadcast(kSmallestMaximum);
    for (std::size_t group = 0; group < groups; ++group) {
      const GroupParams<HasFloat16> params(weight, block + group * block_bytes);
      const Floats min = params.min, max = params.min + params.scale * 15.0f;
      most = larger(most, larger(larger(min, -min), larger(max, -max)));
    }
    const Floats scale = most / kMaxCode, inverse = 256.0f / scale;
    store(scales, scale);
    for (std::size_t group = 0; group < groups; ++group, block += block_bytes) {
      const GroupParams<HasFloat16> params(weight, block);
      const __m512i factor = to_int16_twice(params.scale * inverse);
      const __m512i start = to_int16_twice(params.min * inverse + (kZeroPoint * 256.0f + 128.0f));
      const auto requantized = [&](__m512i codes) {
        const auto of = [&](__m512i words) { return _mm512_add_epi16(_mm512_mullo_epi16(words, factor), start); };
        const __m512i even = of(_mm512_and_si512(codes, low_byte)), odd = of(_mm512_srli_epi16(codes, 8));
        return _mm512_or_si512(_mm512_srli_epi16(even, 8), _mm512_andnot_si512(low_byte, odd));
      };
      for (std::size_t at = 0; at < codes_bytes; at += sizeof(__m512i), to += 2 * sizeof(__m512i)) {
        const __m512i codes = _mm512_loadu_si512(block + at);
        _mm512_store_si512(to, requantized(_mm512_and_si512(codes, nibble)));
        _mm512_store_si512(to + sizeof(__m512i), requantized(_mm512_and_si512(_mm512_srli_epi16(codes, 4), nibble)));
      }
    }
  }
}

struct RequantizedPanels {
  const std::uint8_t* codes;  // [panels, k / 4, 16, 4]
  const float* scales;        // [panels, ceil(k / kRequantizeK), 16]
};

// Tokens [token, token + TileM) times panels [panel, panel + TilePanels), which are the first of `weights`.
template <int TileM, int TilePanels>
void tile(const PrefillArgs& args, std::size_t token, std::size_t panel, RequantizedPanels weights) {
  const std::size_t k = args.weight.k, panel_bytes = k * kPanelWidth;
  const std::size_t panel_scales = ceil_div(k, kRequantizeK) * kPanelWidth;
  const std::int8_t* a = args.codes + token * k;
  const std::int32_t* compensation = args.compensation + token;
  const float* scales = args.scales + token;
  Floats results[TileM * TilePanels];
  for (Floats& result : results) result = Floats{};
  for (std::size_t first = 0; first < args.blocks; first += kRequantizeK / kBlock, weights.scales += kPanelWidth) {
    const std::size_t last = std::min(first + kRequantizeK / kBlock, args.blocks);
    Floats totals[TileM][TilePanels];
#pragma GCC unroll 8
    for (int i = 0; i < TileM; ++i)
#pragma GCC unroll 2
      for (int j = 0; j < TilePanels; ++j) totals[i][j] = Floats{};
    for (std::size_t block = first; block < last; ++block, compensation += args.m, scales += args.m) {
      __m512i sums[TileM][TilePanels];
#pragma GCC unroll 8
      for (int i = 0; i < TileM; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < TilePanels; ++j) sums[i][j] = _mm512_set1_epi32(compensation[i]);
#pragma GCC unroll 8
      for (std::size_t at = 0; at < kBlock; at += 4, a += 4, weights.codes += sizeof(__m512i)) {
        __m512i codes[TilePanels];
#pragma GCC unroll 2
        for (int j = 0; j < TilePanels; ++j) codes[j] = _mm512_load_si512(weights.codes + j * panel_bytes);
#pragma GCC unroll 8
        for (int i = 0; i < TileM; ++i) {
          const auto four = reinterpret_cast<__m512i>(broadcast_4(a + i * k));
#pragma GCC unroll 2
          for (int j = 0; j < TilePanels; ++j) sums[i][j] = _mm512_dpbusd_epi32(sums[i][j], codes[j], four);
        }
      }
#pragma GCC unroll 8
      for (int i = 0; i < TileM; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < TilePanels; ++j)
          totals[i][j] += reinterpret_cast<Floats>(_mm512_cvtepi32_ps(sums[i][j])) * scales[i];
    }
#pragma GCC unroll 2
    for (int j = 0; j < TilePanels; ++j) {
      const Floats scale = load(weights.scales + j * panel_scales);
#pragma GCC unroll 8
      for (int i = 0; i < TileM; ++i) results[i * TilePanels + j] += totals[i][j] * scale;
    }
  }
  const std::size_t n = args.weight.n;
  for (int j = 0; j < TilePanels; ++j) {
    const std::size_t column = (panel + j) * kPanelWidth, width = std::min(kPanelWidth, n - column);
    for (int i = 0; i < TileM; ++i)
      std::memcpy(args.out + (token + i) * n + column, &results[i * TilePanels + j], width * sizeof(float));
  }
}

// Up to TileM tokens from `token` on.
template <int TilePanels, int TileM = kTokens>
void tile_of(const PrefillArgs& args, std::size_t token, std::size_t panel, const RequantizedPanels& weights) {
  if (args.m - token >= TileM) {
    tile<TileM, TilePanels>(args, token, panel, weights);
  } else if constexpr (TileM > 1) {
    tile_of<TilePanels, TileM - 1>(args, token, panel, weights);
  }
}

template <int TilePanels>
void all_tokens(const PrefillArgs& args, std::size_t panel, const RequantizedPanels& weights) {
  for (std::size_t token = 0; token < args.m; token += kTokens) tile_of<TilePanels>(args, token, panel, weights);
}

void panels_task(void* context, std::size_t index) {
  const PrefillArgs& args = *static_cast<const PrefillArgs*>(context);
  const PackedNBits& weight = args.weight;
  const std::size_t panel = index * kPanels, count = std::min<std::size_t>(kPanels, weight.panels() - panel);
  const std::size_t panel_bytes = weight.k * kPanelWidth;
  const std::size_t panel_scales = ceil_div(weight.k, kRequantizeK) * kPanelWidth;
  thread_local Scratch memory;
  float* scales = at_least(memory, kPanels * (panel_bytes / sizeof(float) + panel_scales));
  auto* codes = reinterpret_cast<std::uint8_t*>(scales + kPanels * panel_scales);
  auto* const convert = weight.float16_params ? requantize<true> : requantize<false>;
  for (std::size_t j = 0; j < count; ++j)
    convert(weight, panel + j, codes + j * panel_bytes, scales + j * panel_scales);
  (count == kPanels ? all_tokens<kPanels> : all_tokens<1>)(args, panel, {codes, scales});
}

}  // namespace

void q4_prefill(const PackedNBits& weight, const float* a, std::size_t m, float* out, const Parallel& parallel,
                Scratch& scratch) {
  const std::size_t blocks = weight.k / kBlock;
  float* memory = at_least(scratch, m * (weight.k / sizeof(float) + 2 * blocks));
  float* scales = memory + m * weight.k / sizeof(float);
  PrefillArgs args{
      .weight = weight,
      .a = a,
      .m = m,
      .blocks = blocks,
      .out = out,
      .codes = reinterpret_cast<std::int8_t*>(memory),
      .compensation = reinterpret_cast<std::int32_t*>(scales + m * blocks),
      .scales = scales,
  };
  for_each_row(m, weight.k, parallel, [&](std::size_t token) { quantize_token(args, token); });
  parallel.run(parallel.self, panels_task, ceil_div(weight.panels(), kPanels), &args);
}

}  // namespace edgekiln::EDGEKILN_ISA
