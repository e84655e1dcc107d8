// The q4 prefill GEMM in int8, for VNNI without AMX, of 256 or 512 bits.
//
// A panel or two at a time are requantized from 4-bit groups to 8 bits with one scale per 128 values of k, into memory
// that stays in the L2 cache; then all tokens are multiplied with them. A group's own scale so costs one operation a
// weight, not one a weight and token.
//
// Activations are quantized to int8 in blocks of 32. VPDPBUSD takes unsigned weights, so these have zero point 128, and
// each accumulator starts at the compensation, -128 * the sum of the block's activation codes.
#include <algorithm>
#include <cstring>

#include "kernels/common/prefetch.h"
#include "kernels/packed/codebook.h"
#include "kernels/packed/group_params.h"
#include "kernels/packed/packed_gemm.h"
#include "kernels/packed/q4_prefill.h"
#include "kernels/vector/for_each_row.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

// Of a tile: as many accumulators as fit the registers.
constexpr int kTokens = kLanes == 16 ? 6 : 5, kPanels = kLanes == 16 ? 2 : 1;
constexpr std::size_t kRowBytes = kPanelWidth * sizeof(std::int32_t);  // four values of k
constexpr int kZeroPoint = 128;
constexpr float kMaxCode = 127.0f;
constexpr float kSmallestMaximum = 1e-30f;  // keeps the scale of an all-zero column finite

// A block of the quantized activations of a tile's tokens, in the order in which the tile reads it.
struct TileBlock {
  std::int8_t codes[kTokens][kBlock];  // of each eight the even and then the odd ones, as the weight's
  std::int32_t compensation[kTokens];
  float scales[kTokens];
};

struct PrefillArgs {
  const PackedNBits& weight;
  const float* a;
  std::size_t m, blocks;
  float* out;
  TileBlock* tiles;  // [ceil(m / kTokens), blocks]
};

void quantize_token(const PrefillArgs& args, std::size_t token) {
  const float* a = args.a + token * args.weight.k;
  TileBlock* to = args.tiles + token / kTokens * args.blocks;
  const std::size_t row = token % kTokens;
  for (std::size_t block = 0; block < args.blocks; ++block, a += kBlock, ++to) {
    const QuantizedBlock quantized = quantize_block(a);
    const BlockCodes ordered = even_then_odd(quantized.codes);
    std::memcpy(to->codes[row], &ordered, sizeof ordered);
    to->compensation[row] = -kZeroPoint * quantized.sum;
    to->scales[row] = quantized.scale;
  }
}

using Words = std::uint16_t __attribute__((vector_size(kLanes * sizeof(std::int32_t))));

// The values of kLanes columns rounded to 16 bits, each in both halves of its lane.
inline Words to_int16_twice(Floats x) {
  const Ints word = to_ints(x);
  return reinterpret_cast<Words>((word & 0xffff) | word << 16);
}

// 4-bit codes of kLanes columns as (start + code * factor) / 256, modulo 2^16.
inline Bytes requantized(Bytes bytes, Words factor, Words start) {
  const auto codes = reinterpret_cast<Words>(bytes);
  const Words even = (codes & 255) * factor + start, odd = (codes >> 8) * factor + start;
  return reinterpret_cast<Bytes>(even >> 8 | (odd & 0xff00));
}

inline void store_bytes(std::uint8_t* to, Bytes bytes) { std::memcpy(to, &bytes, sizeof bytes); }

// codes[k / 4, 16 columns, 4] = the weights of a panel as 128 + w / scale, with scales[k / kRequantizeK, 16].
//
// A 4-bit code times its group's scale, in 256ths of the new scale, plus the group's min: computed modulo 2^16, which
// is exact as the result is within 127 steps, however large the terms are. A codebook's value v is looked up as v +
// 128.
template <int Bits, bool HasFloat16>
void requantize(const PackedNBits& weight, std::size_t panel, std::uint8_t* codes, float* scales) {
  constexpr bool kHasCodebook = Bits == kCodebookCodes;
  const CodeTable<Bits> table(weight);
  const Floats largest = broadcast(static_cast<float>(weight.largest_of_codebook()));
  const std::size_t block_bytes = weight.block_bytes(), codes_bytes = weight.codes_bytes();
  const std::size_t groups_per_scale = std::max<std::size_t>(kRequantizeK / weight.group_size, 1);
  for (std::size_t column = 0; column < kPanelWidth; column += kLanes) {
    const std::uint8_t* block = weight.panel(panel);
    std::uint8_t* to = codes + column * sizeof(std::int32_t);
    float* to_scales = scales + column;
    for (std::size_t first = 0; first < weight.groups(); first += groups_per_scale, to_scales += kPanelWidth) {
      const std::size_t groups = std::min(groups_per_scale, weight.groups() - first);
      Floats most = broadcast(kSmallestMaximum);
      for (std::size_t group = 0; group < groups; ++group) {
        const GroupParams<HasFloat16> params(weight, block + group * block_bytes, column);
        const Floats min = kHasCodebook ? params.scale * largest : params.min;
        const Floats max = kHasCodebook ? min : added(params.min, params.scale, broadcast(15.0f));
        most = larger(most, larger(larger(min, -min), larger(max, -max)));
      }
      const Floats scale = most / kMaxCode, inverse = 256.0f / scale;
      store(to_scales, scale);
      for (std::size_t group = 0; group < groups; ++group, block += block_bytes) {
        const GroupParams<HasFloat16> params(weight, block, column);
        const Words factor = to_int16_twice(params.scale * inverse);
        const Floats middle = broadcast(kZeroPoint * 256.0f + 128.0f);
        const Words start =
            kHasCodebook ? to_int16_twice(middle) - factor * 128 : to_int16_twice(added(middle, params.min, inverse));
        for (std::size_t at = column * sizeof(std::int32_t); at < codes_bytes; at += kRowBytes, to += 2 * kRowBytes) {
          const Bytes nibbles = load_bytes(block + at);
          store_bytes(to, requantized(table(low_nibbles(nibbles)), factor, start));
          store_bytes(to + kRowBytes, requantized(table(high_nibbles(nibbles)), factor, start));
        }
      }
    }
  }
}

struct RequantizedPanels {
  const std::uint8_t* codes;  // [panels, k / 4, 16, 4]
  const float* scales;        // [panels, ceil(k / kRequantizeK), 16]
};

// Of vector j of a tile's columns.
inline Floats scales_of(const RequantizedPanels& panels, std::size_t stride, int j) {
  return load(panels.scales + j / kPanelVectors * stride + j % kPanelVectors * kLanes);
}

// Bytes of the weight that a tile fetches, `step` of them with each block.
struct Prefetch {
  const std::uint8_t* from;
  std::size_t bytes, step;

  [[gnu::always_inline]] void part(std::size_t block) const {
    const std::size_t first = std::min(block * step, bytes);
    prefetch_to_l2(from + first, std::min(step, bytes - first));
  }
};

// Tokens [token, token + TileM) times panels [panel, panel + TilePanels), which are the first of `weights`.
template <int TileM, int TilePanels>
void tile(const PrefillArgs& args, std::size_t token, std::size_t panel, RequantizedPanels weights,
          const Prefetch& prefetch) {
  constexpr int kVectors = TilePanels * kPanelVectors;
  const std::size_t k = args.weight.k, panel_bytes = k * kPanelWidth;
  const std::size_t panel_scales = ceil_div(k, kRequantizeK) * kPanelWidth;
  const TileBlock* a = args.tiles + token / kTokens * args.blocks;
  Floats results[TileM * kVectors];
  for (Floats& result : results) result = Floats{};
  for (std::size_t first = 0; first < args.blocks; first += kRequantizeK / kBlock, weights.scales += kPanelWidth) {
    const std::size_t last = std::min(first + kRequantizeK / kBlock, args.blocks);
    Floats totals[TileM][kVectors];
#pragma GCC unroll 8
    for (int i = 0; i < TileM; ++i)
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j) totals[i][j] = Floats{};
    for (std::size_t block = first; block < last; ++block, ++a) {
      prefetch.part(block);
      Ints sums[TileM][kVectors];
#pragma GCC unroll 8
      for (int i = 0; i < TileM; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < kVectors; ++j) sums[i][j] = broadcast_4(&a->compensation[i]);
#pragma GCC unroll 8
      for (std::size_t at = 0; at < kBlock; at += 4, weights.codes += kRowBytes) {
        Bytes codes[kVectors];
#pragma GCC unroll 2
        for (int j = 0; j < kVectors; ++j) codes[j] = load_bytes(weights.codes + vector_offset(0, j, panel_bytes));
#pragma GCC unroll 8
        for (int i = 0; i < TileM; ++i) {
          const Ints four = broadcast_4(a->codes[i] + at);
#pragma GCC unroll 2
          for (int j = 0; j < kVectors; ++j) sums[i][j] = dpbusd(sums[i][j], reinterpret_cast<Ints>(codes[j]), four);
        }
      }
#pragma GCC unroll 8
      for (int i = 0; i < TileM; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < kVectors; ++j) totals[i][j] += to_floats(sums[i][j]) * a->scales[i];
    }
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) {
      const Floats scale = scales_of(weights, panel_scales, j);
#pragma GCC unroll 8
      for (int i = 0; i < TileM; ++i) results[i * kVectors + j] += totals[i][j] * scale;
    }
  }
  const std::size_t n = args.weight.n;
  for (int i = 0; i < TileM; ++i)
    for (int j = 0; j < kVectors; ++j)
      store_columns(args.out + (token + i) * n, n, panel * kPanelWidth + j * kLanes, results[i * kVectors + j]);
}

// Up to TileM tokens from `token` on.
template <int TilePanels, int TileM = kTokens>
void tile_of(const PrefillArgs& args, std::size_t token, std::size_t panel, const RequantizedPanels& weights,
             const Prefetch& prefetch) {
  if (args.m - token >= TileM) {
    tile<TileM, TilePanels>(args, token, panel, weights, prefetch);
  } else if constexpr (TileM > 1) {
    tile_of<TilePanels, TileM - 1>(args, token, panel, weights, prefetch);
  }
}

// The first tile fetches the panels of the next task, whose requantization would wait for them.
template <int TilePanels>
void all_tokens(const PrefillArgs& args, std::size_t panel, const RequantizedPanels& weights) {
  const std::size_t next = panel + TilePanels, count = std::min<std::size_t>(kPanels, args.weight.panels() - next);
  const std::size_t bytes = count * args.weight.panel_bytes();
  const Prefetch prefetch{args.weight.panel(next), bytes, ceil_div(bytes, args.blocks * kAlignment) * kAlignment};
  for (std::size_t token = 0; token < args.m; token += kTokens)
    tile_of<TilePanels>(args, token, panel, weights, token ? Prefetch{} : prefetch);
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
  auto* const convert =
      weight.scheme == WeightScheme::kCodebook
          ? weight.float16_params ? requantize<kCodebookCodes, true> : requantize<kCodebookCodes, false>
      : weight.float16_params ? requantize<4, true>
                              : requantize<4, false>;
  for (std::size_t j = 0; j < count; ++j)
    convert(weight, panel + j, codes + j * panel_bytes, scales + j * panel_scales);
  (count == kPanels ? all_tokens<kPanels> : all_tokens<1>)(args, panel, {codes, scales});
}

}  // namespace

void q4_prefill(const PackedNBits& weight, const float* a, std::size_t m, float* out, const Parallel& parallel,
                Scratch& scratch) {
  const std::size_t blocks = weight.k / kBlock, tiles = ceil_div(m, kTokens);
  float* memory = at_least(scratch, tiles * blocks * sizeof(TileBlock) / sizeof(float));
  PrefillArgs args{weight, a, m, blocks, out, reinterpret_cast<TileBlock*>(memory)};
  for_each_row(m, weight.k, parallel, [&](std::size_t token) { quantize_token(args, token); });
  parallel.run(parallel.self, panels_task, ceil_div(weight.panels(), kPanels), &args);
}

}  // namespace edgekiln::EDGEKILN_ISA
