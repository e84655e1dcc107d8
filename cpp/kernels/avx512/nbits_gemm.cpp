// GEMM and GEMV with a packed 4- or 8-bit weight: int8 dot products of unsigned weight codes and signed activation
// codes, which are quantized in blocks of 32 with one scale each. For AVX512-VNNI.
//
// Per block of 32 the int32 accumulator starts at the compensation, -midpoint * the sum of the activation codes, so
// that the midpoint of the codes costs nothing. Zero points and group biases cost one more multiplication a group.
//
// Two cases go elsewhere: 4 bits and m >= kPrefillMinM to q4_prefill(); 8 bits and m > kGemvMaxM multiply in float, as
// group-wise 8-bit weights are chosen for precision.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/avx512/group_params.h"
#include "kernels/avx512/packed_gemm.h"
#include "kernels/avx512/q4_prefill.h"
#include "kernels/isa_kernels.h"
#include "kernels/vector/dequantized_gemm.h"
#include "kernels/vector/for_each_row.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

constexpr int kPanelsPerTile = 2;  // of a GEMM

// Activation codes are in the order of the weight's: for 4 bits the even and then the odd ones of each eight.
struct GemmArgs {
  const PackedNBits& weight;
  const float* a;
  std::size_t m, blocks, groups;
  float* out;
  std::int8_t* codes;          // [m, k]
  std::int32_t* compensation;  // [blocks, m]; 0 with zero points
  float* scales;               // [blocks, m]
  float* sums;                 // [groups, m], of the activations; of the quantized ones if codes are relative to those
};

float sum_of(const float* block) {
  return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_loadu_ps(block), _mm512_loadu_ps(block + kLanes)));
}

template <int Bits>
void quantize_token(const GemmArgs& args, std::size_t token) {
  const PackedNBits& weight = args.weight;
  const std::size_t m = args.m;
  const float* a = args.a + token * weight.k;
  for (std::size_t group = 0; group < args.groups; ++group) args.sums[group * m + token] = 0.0f;
  const bool zero_points = weight.scheme == WeightScheme::kZeroPoints;
  const bool quantized_sums = zero_points || weight.code_offset != 0.0f;
  const __m256i order =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15));
  for (std::size_t block = 0; block < args.blocks; ++block) {
    const QuantizedBlock quantized = quantize_block(a + block * kBlock);
    __m256i codes = _mm256_set_m128i(quantized.codes[1], quantized.codes[0]);
    if constexpr (Bits == 4) codes = _mm256_shuffle_epi8(codes, order);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(args.codes + token * weight.k + block * kBlock), codes);
    args.compensation[block * m + token] = zero_points ? 0 : -(1 << (Bits - 1)) * quantized.sum;
    args.scales[block * m + token] = quantized.scale;
    // std::fma, as whether the compiler contracts the expression depends on how it inlines this function.
    float& sum = args.sums[block * kBlock / weight.group_size * m + token];
    if (quantized_sums) {
      sum = std::fma(quantized.scale, static_cast<float>(quantized.sum), sum);
    } else {
      sum += sum_of(a + block * kBlock);
    }
  }
}

// Tokens [token, token + TileM) times panels [panel, panel + TilePanels).
template <int Bits, bool HasFloat16, int TileM, int TilePanels>
void tile(const GemmArgs& args, std::size_t token, std::size_t panel) {
  const PackedNBits& weight = args.weight;
  const std::size_t blocks_per_group = weight.group_size / kBlock, block_bytes = weight.block_bytes();
  const std::size_t k = weight.k, panel_bytes = weight.panel_bytes(), m = args.m;
  const bool has_bias = weight.scheme != WeightScheme::kSymmetric || weight.code_offset != 0.0f;
  const std::int8_t* a = args.codes + token * k;
  const std::int32_t* compensation = args.compensation + token;
  const float *scales = args.scales + token, *group_sums = args.sums + token;
  const std::uint8_t* group_block = weight.panel(panel);
  Floats totals[TileM][TilePanels];
#pragma GCC unroll 8
  for (int i = 0; i < TileM; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < TilePanels; ++j) totals[i][j] = Floats{};
  for (std::size_t group = 0; group < args.groups; ++group, group_block += block_bytes, group_sums += m) {
    if constexpr (TilePanels == 1) {
      for (std::size_t line = 0; line < block_bytes; line += sizeof(__m512i)) prefetch_ahead(group_block + line);
    }
    const std::uint8_t* codes = group_block;
    for (std::size_t block = 0; block < blocks_per_group; ++block, a += kBlock, compensation += m, scales += m) {
      __m512i sums[TileM][TilePanels];
#pragma GCC unroll 8
      for (int i = 0; i < TileM; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < TilePanels; ++j) sums[i][j] = _mm512_set1_epi32(compensation[i]);
#pragma GCC unroll 8
      for (int vector = 0; vector < Bits; ++vector, codes += sizeof(__m512i)) {
        __m512i low[TilePanels], high[TilePanels];
#pragma GCC unroll 2
        for (int j = 0; j < TilePanels; ++j) {
          low[j] = _mm512_loadu_si512(codes + j * panel_bytes);
          if constexpr (Bits == 4) {
            high[j] = _mm512_and_si512(_mm512_srli_epi16(low[j], 4), _mm512_set1_epi8(15));
            low[j] = _mm512_and_si512(low[j], _mm512_set1_epi8(15));
          }
        }
#pragma GCC unroll 8
        for (int i = 0; i < TileM; ++i) {
          const std::int8_t* four = a + i * k + vector * 32 / Bits;
#pragma GCC unroll 2
          for (int j = 0; j < TilePanels; ++j) {
            sums[i][j] = _mm512_dpbusd_epi32(sums[i][j], low[j], broadcast_4(four));
            if constexpr (Bits == 4) sums[i][j] = _mm512_dpbusd_epi32(sums[i][j], high[j], broadcast_4(four + 4));
          }
        }
      }
#pragma GCC unroll 2
      for (int j = 0; j < TilePanels; ++j) {
        const Floats scale = GroupParams<HasFloat16>(weight, group_block + j * panel_bytes).scale;
#pragma GCC unroll 8
        for (int i = 0; i < TileM; ++i)
          totals[i][j] += reinterpret_cast<Floats>(_mm512_cvtepi32_ps(sums[i][j])) * (scale * scales[i]);
      }
    }
    if (!has_bias) continue;
#pragma GCC unroll 2
    for (int j = 0; j < TilePanels; ++j) {
      const Floats bias = GroupParams<HasFloat16>(weight, group_block + j * panel_bytes).bias;
#pragma GCC unroll 8
      for (int i = 0; i < TileM; ++i) totals[i][j] += bias * group_sums[i];
    }
  }
  Floats results[TileM * TilePanels];
#pragma GCC unroll 8
  for (int i = 0; i < TileM; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < TilePanels; ++j) results[i * TilePanels + j] = totals[i][j];
  for (int j = 0; j < TilePanels; ++j) {
    const std::size_t column = (panel + j) * kPanelWidth, width = std::min(kPanelWidth, weight.n - column);
    for (int i = 0; i < TileM; ++i)
      std::memcpy(args.out + (token + i) * weight.n + column, &results[i * TilePanels + j], width * sizeof(float));
  }
}

// Up to TileM tokens from `token` on.
template <int Bits, bool HasFloat16, int TilePanels, int TileM = kTileM<TilePanels>>
void tile_of(const GemmArgs& args, std::size_t token, std::size_t panel) {
  if (args.m - token >= TileM) {
    tile<Bits, HasFloat16, TileM, TilePanels>(args, token, panel);
  } else if constexpr (TileM > 1) {
    tile_of<Bits, HasFloat16, TilePanels, TileM - 1>(args, token, panel);
  }
}

struct Task {
  const GemmArgs& args;
  std::size_t panels_per_task;
};

// A GEMV computes one panel at a time, in the order of memory; a GEMM computes two, so that each activation load serves
// both.
template <int Bits, bool HasFloat16, int TilePanels>
void panels_task(void* context, std::size_t index) {
  const auto& [args, panels_per_task] = *static_cast<const Task*>(context);
  const std::size_t last = std::min((index + 1) * panels_per_task, args.weight.panels());
  std::size_t panel = index * panels_per_task;
  for (; panel + TilePanels <= last; panel += TilePanels)
    for (std::size_t token = 0; token < args.m; token += kTileM<TilePanels>)
      tile_of<Bits, HasFloat16, TilePanels>(args, token, panel);
  for (; panel < last; ++panel)
    for (std::size_t token = 0; token < args.m; token += kTileM<1>) tile_of<Bits, HasFloat16, 1>(args, token, panel);
}

struct FloatGemmArgs {
  const PackedNBits& weight;
  const float* a;
  std::size_t m;
  float* out;
};

// to[count_k, kFloatColumns] = the 8-bit weights of `count` columns from `column` on, from `first_k` on.
template <bool HasFloat16>
void dequantize(const PackedNBits& weight, std::size_t column, std::size_t count, std::size_t first_k,
                std::size_t count_k, float* to) {
  for (std::size_t at = 0; at < count; at += kPanelWidth) {
    const std::uint8_t* panel = weight.panel((column + at) / kPanelWidth);
    for (std::size_t k = 0; k < count_k; ++k) {
      const std::size_t group = (first_k + k) / weight.group_size, within = (first_k + k) % weight.group_size;
      const std::uint8_t* block = panel + group * weight.block_bytes();
      const __m512i four = _mm512_loadu_si512(block + within / 4 * sizeof(__m512i));
      const __m512i codes = _mm512_and_si512(_mm512_srli_epi32(four, within % 4 * 8), _mm512_set1_epi32(255));
      const GroupParams<HasFloat16> params(weight, block);
      const float midpoint = weight.scheme == WeightScheme::kZeroPoints ? 0.0f : 128.0f;
      store(to + k * kFloatColumns + at,
            (reinterpret_cast<Floats>(_mm512_cvtepi32_ps(codes)) - midpoint) * params.scale + params.bias);
    }
  }
}

template <bool HasFloat16>
void float_task(void* context, std::size_t index) {
  const FloatGemmArgs& args = *static_cast<const FloatGemmArgs*>(context);
  const PackedNBits& weight = args.weight;
  dequantized_gemm(args.a, args.m, weight.k, weight.n, index * kFloatColumns, args.out,
                   [&](std::size_t first, std::size_t count, std::size_t k, std::size_t count_k, float* to) {
                     dequantize<HasFloat16>(weight, first, count, k, count_k, to);
                   });
}

template <int Bits, bool HasFloat16>
void run(const GemmArgs& args, const Parallel& parallel) {
  const std::size_t panels = args.weight.panels();
  for_each_row(args.m, args.weight.k, parallel, [&](std::size_t token) { quantize_token<Bits>(args, token); });
  if (args.m <= kGemvMaxM) {
    Task task{args, panels_per_task(panels, args.weight.panel_bytes())};
    parallel.run(parallel.self, panels_task<Bits, HasFloat16, 1>, ceil_div(panels, task.panels_per_task), &task);
  } else {
    Task task{args, kPanelsPerTile};
    parallel.run(parallel.self, panels_task<Bits, HasFloat16, kPanelsPerTile>, ceil_div(panels, kPanelsPerTile), &task);
  }
}

}  // namespace

void nbits_gemm(const PackedNBits& weight, const float* a, std::size_t m, float* out, const Parallel& parallel,
                Scratch& scratch) {
  if (weight.bits == 8 && m > kGemvMaxM) {
    FloatGemmArgs args{weight, a, m, out};
    auto* task = weight.float16_params ? float_task<true> : float_task<false>;
    return parallel.run(parallel.self, task, ceil_div(weight.n, kFloatColumns), &args);
  }
  if (weight.bits == 4 && m >= kPrefillMinM) return q4_prefill(weight, a, m, out, parallel, scratch);
  const std::size_t blocks = weight.k / kBlock, groups = weight.groups();
  float* memory = at_least(scratch, m * (weight.k / sizeof(float) + 2 * blocks + groups));
  float* scales = memory + m * weight.k / sizeof(float);
  float* sums = scales + m * blocks;
  const GemmArgs args{
      .weight = weight,
      .a = a,
      .m = m,
      .blocks = blocks,
      .groups = groups,
      .out = out,
      .codes = reinterpret_cast<std::int8_t*>(memory),
      .compensation = reinterpret_cast<std::int32_t*>(sums + m * groups),
      .scales = scales,
      .sums = sums,
  };
  if (weight.bits == 4) {
    weight.float16_params ? run<4, true>(args, parallel) : run<4, false>(args, parallel);
  } else {
    weight.float16_params ? run<8, true>(args, parallel) : run<8, false>(args, parallel);
  }
}

}  // namespace edgekiln::EDGEKILN_ISA
