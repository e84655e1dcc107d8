// The q4 prefill GEMM in int8: a packed 4-bit weight times many tokens. For NEON.
//
// One panel at a time is requantized from 4-bit groups to 8 bits with one scale for kRequantizeK values of k, into
// memory that stays in the L1 or L2 cache; then all tokens are multiplied with it. A group's own scale so costs one
// table of 16 codes, not one multiplication a weight and token. Activations are quantized to int8 in blocks of
// kActivationK.
#include "kernels/packed/q4_prefill.h"

#include <algorithm>
#include <type_traits>

#include "kernels/neon/block_gemm.h"
#include "kernels/neon/quantize.h"
#include "kernels/vector/float16_load.h"
#include "kernels/vector/for_each_row.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

constexpr float kMaxCode = 127.0f;
constexpr float kSmallestMaximum = 1e-30f;  // keeps the scale of an all-zero column finite
constexpr std::size_t kActivationK = 64;    // values of k that share a scale of the activations
constexpr std::size_t kChunkSteps = kActivationK / kStepK;

struct PrefillArgs {
  const PackedNBits& weight;
  const float* a;
  std::size_t m, tiles, chunks;  // tiles of kTileTokens tokens, chunks of kActivationK values of k
  float* out;
  std::int8_t* codes;  // [tiles, k, kTileTokens] as block_gemm.h says; of each eight values of k the even ones first
  float* scales;       // [chunks, tiles * kTileTokens]
};

void quantize_token(const PrefillArgs& args, std::size_t token) {
  const std::size_t k = args.weight.k, stride = args.tiles * kTileTokens;
  const float* a = args.a + token * k;
  std::int8_t* tile = args.codes + token / kTileTokens * kTileTokens * k;
  for (std::size_t chunk = 0; chunk < args.chunks; ++chunk) {
    const std::size_t first = chunk * kActivationK, last = std::min(first + kActivationK, k);
    const float largest = largest_magnitude(a + first, last - first);
    const float inverse = largest == 0.0f ? 0.0f : 127.0f / largest;
    for (std::size_t i = first; i < last; i += kCodesK)
      store_codes(tile, token % kTileTokens, i, even_then_odd(quantize_16(a + i, inverse)));
    args.scales[chunk * stride + token] = largest / 127.0f;
  }
}

// The requantized values of the 16 codes of a column: (start + code * factor) / 256, modulo 2^16, which is exact as the
// result is within 127 steps.
template <int Column>
inline uint8x16_t table_of(int16x8_t factors, int16x8_t starts) {
  static constexpr std::int16_t kCodes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const int16x8_t start = vdupq_laneq_s16(starts, Column);
  const int16x8_t low = vmlaq_laneq_s16(start, vld1q_s16(kCodes), factors, Column);
  const int16x8_t high = vmlaq_laneq_s16(start, vld1q_s16(kCodes + 8), factors, Column);
  return vreinterpretq_u8_s8(vshrn_high_n_s16(vshrn_n_s16(low, 8), high, 8));
}

// Requantizes four columns of a group, whose factors and starts are lanes First .. First + 3.
template <int First>
inline void requantize_quad(const std::uint8_t* codes, std::size_t group_size, int16x8_t factors, int16x8_t starts,
                            std::int8_t* to) {
  // A code selects in the table of its column: of two columns beside each other with SMMLA, else of four.
#if defined(__ARM_FEATURE_MATMUL_INT8)
  static constexpr std::uint8_t kTables[16] = {0, 0, 0, 0, 16, 16, 16, 16, 0, 0, 0, 0, 16, 16, 16, 16};
  const uint8x16x2_t left{table_of<First>(factors, starts), table_of<First + 1>(factors, starts)};
  const uint8x16x2_t right{table_of<First + 2>(factors, starts), table_of<First + 3>(factors, starts)};
#else
  static constexpr std::uint8_t kTables[16] = {0, 0, 0, 0, 16, 16, 16, 16, 32, 32, 32, 32, 48, 48, 48, 48};
  const uint8x16x4_t tables{table_of<First>(factors, starts), table_of<First + 1>(factors, starts),
                            table_of<First + 2>(factors, starts), table_of<First + 3>(factors, starts)};
#endif
  const uint8x16_t table = vld1q_u8(kTables), nibble = vdupq_n_u8(15);
  const std::uint8_t* const end = codes + group_size * kPanelWidth / 2;
  do {
#pragma GCC unroll 4
    for (int eight = 0; eight < 4; ++eight, codes += 8 * kPanelWidth / 2, to += 8 * kPanelWidth) {
      const uint8x16_t both = vld1q_u8(codes);
      const uint8x16_t even = vorrq_u8(vandq_u8(both, nibble), table), odd = vorrq_u8(vshrq_n_u8(both, 4), table);
#if defined(__ARM_FEATURE_MATMUL_INT8)
      const uint32x4_t even_words = vreinterpretq_u32_u8(even), odd_words = vreinterpretq_u32_u8(odd);
      const uint8x16_t first = vreinterpretq_u8_u32(vzip1q_u32(even_words, odd_words));
      const uint8x16_t second = vreinterpretq_u8_u32(vzip2q_u32(even_words, odd_words));
      vst1q_s8(to, vreinterpretq_s8_u8(vqtbl2q_u8(left, first)));
      vst1q_s8(to + 16, vreinterpretq_s8_u8(vqtbl2q_u8(right, second)));
#else
      vst1q_s8(to, vreinterpretq_s8_u8(vqtbl4q_u8(tables, even)));
      vst1q_s8(to + 4 * kPanelWidth, vreinterpretq_s8_u8(vqtbl4q_u8(tables, odd)));
#endif
    }
  } while (codes != end);
}

// The bytes between two quads of columns in a requantized panel.
#if defined(__ARM_FEATURE_MATMUL_INT8)
constexpr std::size_t kQuadBytes = 32;
#else
constexpr std::size_t kQuadBytes = 16;
#endif

// The weights of codes 0 and 1 less 0 in a group, of columns [4 * quad, 4 * quad + 4).
struct Steps {
  float32x4_t min, scale;
};

template <typename Param, WeightScheme kScheme>
inline Steps load_steps(const PackedNBits& weight, const std::uint8_t* block, int quad) {
  const auto* params = reinterpret_cast<const Param*>(block + weight.codes_bytes());
  const float32x4_t scale = load(params + 4 * quad);
  if constexpr (kScheme == WeightScheme::kZeroPoints) {
    const auto* zero_points = reinterpret_cast<const std::uint8_t*>(params + kPanelWidth);
    return {-scale * load(zero_points + 4 * quad), scale};
  } else if constexpr (kScheme == WeightScheme::kGroupBias) {
    const float32x4_t stored = load(params + kPanelWidth + 4 * quad);
    return {std::is_same_v<Param, Float16> ? stored : stored - scale * 8.0f, scale};
  } else {
    return {scale * -8.0f, scale};
  }
}

inline int16x8_t to_int16(float32x4_t low, float32x4_t high) {
  return vuzp1q_s16(vreinterpretq_s16_s32(vcvtnq_s32_f32(low)), vreinterpretq_s16_s32(vcvtnq_s32_f32(high)));
}

// The weights of a panel as scale * code: codes [k, 16] in the order of block_gemm.h, scales [ceil(k / kRequantizeK),
// 16].
template <typename Param, WeightScheme kScheme>
void requantize(const PackedNBits& weight, std::size_t panel, std::int8_t* to, float* scales) {
  const std::size_t block_bytes = weight.block_bytes(), group_size = weight.group_size;
  const std::size_t groups_per_scale = kRequantizeK / group_size;
  const std::uint8_t* block = weight.panel(panel);
  for (std::size_t first = 0; first < weight.groups(); first += groups_per_scale, scales += kPanelWidth) {
    const std::size_t groups = std::min(groups_per_scale, weight.groups() - first);
    float32x4_t most[4];
    for (float32x4_t& quad : most) quad = vdupq_n_f32(kSmallestMaximum);
    Steps steps[kRequantizeK / kBlock][4];
    for (std::size_t group = 0; group < groups; ++group) {
#pragma GCC unroll 4
      for (int quad = 0; quad < 4; ++quad) {
        const Steps loaded = load_steps<Param, kScheme>(weight, block + group * block_bytes, quad);
        const float32x4_t max = vfmaq_n_f32(loaded.min, loaded.scale, 15.0f);
        most[quad] = vmaxq_f32(most[quad], vmaxq_f32(vabsq_f32(loaded.min), vabsq_f32(max)));
        steps[group][quad] = loaded;
      }
    }
    float32x4_t inverse[4];
#pragma GCC unroll 4
    for (int quad = 0; quad < 4; ++quad) {
      const float32x4_t scale = most[quad] / kMaxCode;
      vst1q_f32(scales + 4 * quad, scale);
      inverse[quad] = 256.0f / scale;
    }
    for (std::size_t group = 0; group < groups; ++group, block += block_bytes, to += group_size * kPanelWidth) {
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        const Steps &a = steps[group][2 * half], &b = steps[group][2 * half + 1];
        const float32x4_t scale_a = inverse[2 * half], scale_b = inverse[2 * half + 1];
        const int16x8_t factors = to_int16(a.scale * scale_a, b.scale * scale_b);
        const int16x8_t starts = vaddq_s16(to_int16(a.min * scale_a, b.min * scale_b), vdupq_n_s16(128));
        const std::uint8_t* codes = block + 32 * half;
        requantize_quad<0>(codes, group_size, factors, starts, to + 2 * half * kQuadBytes);
        requantize_quad<4>(codes + 16, group_size, factors, starts, to + (2 * half + 1) * kQuadBytes);
      }
    }
  }
}

template <typename Param>
void requantize_with(const PackedNBits& weight, std::size_t panel, std::int8_t* to, float* scales) {
  switch (weight.scheme) {
    case WeightScheme::kSymmetric:
      return requantize<Param, WeightScheme::kSymmetric>(weight, panel, to, scales);
    case WeightScheme::kZeroPoints:
      return requantize<Param, WeightScheme::kZeroPoints>(weight, panel, to, scales);
    case WeightScheme::kGroupBias:
      return requantize<Param, WeightScheme::kGroupBias>(weight, panel, to, scales);
  }
}

// All tokens times half a panel: `weights` and `scales` [ceil(k / kRequantizeK), 16] are its first
// columns'.
void multiply_half(const PrefillArgs& args, std::size_t column, const std::int8_t* weights, const float* scales) {
  const std::size_t k = args.weight.k, n = args.weight.n, stride = args.tiles * kTileTokens;
  for (std::size_t tile = 0; tile < args.tiles; ++tile) {
    const std::int8_t* a = args.codes + tile * kTileTokens * k;
    const std::int8_t* b = weights;
    const float* a_scales = args.scales + tile * kTileTokens;
    TileTotals totals{};
    for (std::size_t chunk = 0; chunk < args.chunks; ++chunk, a_scales += stride) {
      const std::size_t steps = std::min(kChunkSteps, k / kStepK - chunk * kChunkSteps);
      add_tile(totals, a, b, steps, a_scales, scales + chunk * kActivationK / kRequantizeK * kPanelWidth);
      a += steps * kStepCodes;
      b += steps * kStepWeights;
    }
    const std::size_t token = tile * kTileTokens;
    store_tile(totals, args.m - token, n - column, args.out + token * n + column, n);
  }
}

void panel_task(void* context, std::size_t panel) {
  const PrefillArgs& args = *static_cast<const PrefillArgs*>(context);
  const PackedNBits& weight = args.weight;
  thread_local Scratch memory;
  float* scales = at_least(memory, kPanelWidth * (weight.k / sizeof(float) + args.chunks));
  auto* codes = reinterpret_cast<std::int8_t*>(scales + args.chunks * kPanelWidth);
  (weight.float16_params ? requantize_with<Float16> : requantize_with<float>)(weight, panel, codes, scales);
  const std::size_t column = panel * kPanelWidth;
  multiply_half(args, column, codes, scales);
  if (column + kTileColumns < weight.n)
    multiply_half(args, column + kTileColumns, codes + kHalfPanel, scales + kTileColumns);
}

}  // namespace

void q4_prefill(const PackedNBits& weight, const float* a, std::size_t m, float* out, const Parallel& parallel,
                Scratch& scratch) {
  const std::size_t tiles = (m + kTileTokens - 1) / kTileTokens, chunks = (weight.k + kActivationK - 1) / kActivationK;
  const std::size_t padded = tiles * kTileTokens;
  float* memory = at_least(scratch, padded * (weight.k / sizeof(float) + chunks));
  PrefillArgs args{
      .weight = weight,
      .a = a,
      .m = m,
      .tiles = tiles,
      .chunks = chunks,
      .out = out,
      .codes = reinterpret_cast<std::int8_t*>(memory),
      .scales = memory + padded * weight.k / sizeof(float),
  };
  // Tokens past the last are multiplied, too, and dropped: their codes may be anything, their scales finite.
  for (std::size_t chunk = 0; chunk < chunks; ++chunk)
    std::fill(args.scales + chunk * padded + m, args.scales + (chunk + 1) * padded, 0.0f);
  for_each_row(m, weight.k, parallel, [&](std::size_t token) { quantize_token(args, token); });
  parallel.run(parallel.self, panel_task, weight.panels(), &args);
}

}  // namespace edgekiln::EDGEKILN_ISA
