// The q4 prefill GEMM in bfloat16 tiles. For AMX.
//
// Four panels at a time are dequantized to bfloat16, into memory that stays in the L2 cache; then all tokens, rounded
// to bfloat16 too, are multiplied with them, with float accumulators over all of k. Tiles of int8 are twice as fast,
// but their accumulators would have to be scaled every few values of k, which takes longer than that saves.
#include "kernels/packed/q4_prefill.h"

#include <algorithm>

#include "kernels/amx/amx.h"
#include "kernels/packed/codebook.h"
#include "kernels/packed/group_params.h"
#include "kernels/packed/packed_gemm.h"
#include "kernels/vector/for_each_row.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

constexpr std::size_t kPanels = 4;                                             // of a task
constexpr std::size_t kTokens = 2 * tiles::kRows, kColumns = 2 * kPanelWidth;  // multiplied at once
constexpr std::size_t kTileK = 2 * tiles::kRows;                               // values of k in a tile

struct PrefillArgs {
  const PackedNBits& weight;
  std::size_t m, stride;  // stride: pairs between two tokens
  float* out;
  Bf16Pair* a;  // [m, stride]
};

// One row of a B tile: pairs (first, second) of 16 columns, rounded half up to bfloat16.
inline __m512i to_bf16_pairs(Floats first, Floats second) {
  const auto rounded = [](Floats x) {
    return _mm512_add_epi32(reinterpret_cast<__m512i>(x), _mm512_set1_epi32(0x8000));
  };
  const __m512i low = _mm512_srli_epi32(rounded(first), 16);
  return _mm512_or_si512(low, _mm512_andnot_si512(_mm512_set1_epi32(0xffff), rounded(second)));
}

// to[k / 2, 16 columns] = the weights of a panel, in pairs along k. A lane of codes holds four pairs.
template <bool HasFloat16>
void dequantize(const PackedNBits& weight, std::size_t panel, std::uint8_t* to) {
  const std::uint8_t* block = weight.panel(panel);
  const __m512i nibble = _mm512_set1_epi32(15);
  for (std::size_t group = 0; group < weight.groups(); ++group, block += weight.block_bytes()) {
    const GroupParams<HasFloat16> params(weight, block);
    const auto weights = [&](__m512i codes) {
      return params.min + params.scale * reinterpret_cast<Floats>(_mm512_cvtepi32_ps(_mm512_and_si512(codes, nibble)));
    };
    for (std::size_t at = 0; at < weight.codes_bytes(); at += sizeof(__m512i)) {
      const __m512i codes = _mm512_loadu_si512(block + at);
#pragma GCC unroll 4
      for (int pair = 0; pair < 4; ++pair, to += sizeof(__m512i))
        _mm512_store_si512(to, to_bf16_pairs(weights(_mm512_srli_epi32(codes, 8 * pair)),
                                             weights(_mm512_srli_epi32(codes, 8 * pair + 4))));
    }
  }
}

// The same for a codebook.
template <bool HasFloat16>
void look_up(const PackedNBits& weight, std::size_t panel, std::uint8_t* to) {
  const CodeTable<kCodebookCodes> table(weight);
  const std::uint8_t* block = weight.panel(panel);
  for (std::size_t group = 0; group < weight.groups(); ++group, block += weight.block_bytes()) {
    const GroupParams<HasFloat16> params(weight, block);
    const auto weights = [&](Ints codes) { return (to_floats(codes & 255) - 128.0f) * params.scale; };
    for (std::size_t at = 0; at < weight.codes_bytes(); at += sizeof(__m512i)) {
      const Bytes codes = load_bytes(block + at);
      const auto even = reinterpret_cast<Ints>(table(low_nibbles(codes)));
      const auto odd = reinterpret_cast<Ints>(table(high_nibbles(codes)));
#pragma GCC unroll 4
      for (int pair = 0; pair < 4; ++pair, to += sizeof(__m512i))
        _mm512_store_si512(to, to_bf16_pairs(weights(even >> 8 * pair), weights(odd >> 8 * pair)));
    }
  }
}

// Panels [first, first + count) as [count, k / 2, 16 pairs], in memory of this thread.
const std::uint8_t* dequantized(const PackedNBits& weight, std::size_t first, std::size_t count) {
  const std::size_t panel_bytes = weight.k * tiles::kBytes / 2;
  thread_local Scratch memory;
  auto* weights = reinterpret_cast<std::uint8_t*>(at_least(memory, count * panel_bytes / sizeof(float)));
  auto* const convert = weight.scheme == WeightScheme::kCodebook
                            ? weight.float16_params ? look_up<true> : look_up<false>
                        : weight.float16_params ? dequantize<true>
                                                : dequantize<false>;
  for (std::size_t i = 0; i < count; ++i) convert(weight, first + i, weights + i * panel_bytes);
  return weights;
}

// Tokens [token, token + kTokens) times `count` panels from `panel` on, at most two, dequantized at `weights`.
void multiply(const PrefillArgs& args, std::size_t token, std::size_t panel, std::size_t count,
              const std::uint8_t* weights) {
  const std::size_t k = args.weight.k, n = args.weight.n;
  const std::size_t tokens = std::min(kTokens, args.m - token), line = args.stride * sizeof(Bf16Pair);
  alignas(tiles::kBytes) float sums[kTokens][kColumns];
  const tiles::Layout a_at{line, tiles::kBytes, tiles::kRows * line};
  const tiles::Layout b_at{tiles::kBytes, tiles::kTileBytes, k * tiles::kBytes / 2};
  const tiles::Layout c_at{sizeof sums[0], tiles::kBytes, tiles::kRows * sizeof sums[0]};
  tiles::matmul<tiles::Type::kBf16>(ceil_div(tokens, tiles::kRows), count, args.a + token * args.stride, a_at, weights,
                                    b_at, k / kTileK, sums, c_at, false);
  const std::size_t column = panel * kPanelWidth, width = std::min(count * kPanelWidth, n - column);
  float* out = args.out + token * n + column;
  if (width == kColumns) {
    for (std::size_t i = 0; i < tokens; ++i, out += n) std::memcpy(out, sums[i], sizeof sums[0]);
  } else {
    for (std::size_t i = 0; i < tokens; ++i, out += n) std::memcpy(out, sums[i], width * sizeof(float));
  }
}

void panels_task(void* context, std::size_t index) {
  const PrefillArgs& args = *static_cast<const PrefillArgs*>(context);
  const PackedNBits& weight = args.weight;
  const std::size_t first = index * kPanels, count = std::min(kPanels, weight.panels() - first);
  const std::uint8_t* weights = dequantized(weight, first, count);
  const tiles::Configured configured;
  for (std::size_t j = 0; j < count; j += 2, weights += weight.k * tiles::kBytes)
    for (std::size_t token = 0; token < args.m; token += kTokens)
      multiply(args, token, first + j, std::min<std::size_t>(2, count - j), weights);
}

}  // namespace

void q4_prefill(const PackedNBits& weight, const float* a, std::size_t m, float* out, const Parallel& parallel,
                Scratch& scratch) {
  const std::size_t stride = tiles::stride_of(weight.k / 2 * sizeof(Bf16Pair)) / sizeof(Bf16Pair);
  const std::size_t size = tiles::whole_rows(m) * stride;
  PrefillArgs args{weight, m, stride, out, reinterpret_cast<Bf16Pair*>(at_least(scratch, size))};
  for_each_row(m, weight.k, parallel,
               [&](std::size_t token) { to_bf16(a + token * weight.k, weight.k, args.a + token * stride); });
  parallel.run(parallel.self, panels_task, ceil_div(weight.panels(), kPanels), &args);
}

}  // namespace edgekiln::EDGEKILN_ISA
