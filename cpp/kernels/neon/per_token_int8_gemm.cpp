// Per-token int8 GEMM (W8A8): quantize each token, multiply with the packed weight, scale in the epilogue. For NEON.
//
// SDOT and SMMLA multiply signed bytes, so that neither activations nor weights need a zero point. m <= kGemvMaxM is a
// GEMV, SDOT by lane: each panel is read once for all tokens. Larger m multiplies tiles (int8_tile.h).
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/isa_kernels.h"
#include "kernels/matmul_nbits.h"
#include "kernels/neon/int8_tile.h"
#include "kernels/neon/quantize.h"
#include "kernels/packed/packed_gemm.h"
#include "kernels/vector/for_each_row.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

constexpr int kGemvTokens = 4;  // of a tile

struct Int8GemmArgs {
  const PackedInt8& weight;
  const float* a;        // [m, k]
  std::size_t m, steps;  // steps of kStepK values of k
  float* out;            // [m, n]
  std::int8_t* codes;    // GEMV: [m, steps * kStepK]; else tiles as tile_layout.h says; zero past k
  float* scales;         // [m], rounded up to whole tiles
  std::size_t panels_per_task;
};

// Calls store(first_k, codes of kCodesK) for a token, up to a multiple of kStepK; returns its scale, 1 / 127 of the
// largest magnitude.
template <typename Store>
float quantize_token(const float* a, std::size_t k, const Store& store) {
  constexpr float kSmallestMaximum = 1e-10f;  // keeps the scale of an all-zero token finite
  const std::size_t whole = k / kStepK * kStepK;
  float rest[kStepK] = {};
  std::copy(a + whole, a + k, rest);
  const float largest = std::max({largest_magnitude(a, whole), largest_magnitude(rest, kStepK), kSmallestMaximum});
  const float inverse = 127.0f / largest;
#pragma GCC unroll 2
  for (std::size_t i = 0; i < whole; i += kCodesK) store(i, quantize_16(a + i, inverse));
  if (whole < k)
    for (std::size_t i = 0; i < kStepK; i += kCodesK) store(whole + i, quantize_16(rest + i, inverse));
  return largest / 127.0f;
}

// Tokens [token, token + TileM) times one panel.
template <int TileM>
void gemv_tile(const Int8GemmArgs& args, std::size_t token, std::size_t panel) {
  const std::size_t stride = args.steps * kStepK, column = panel * PackedInt8::kPanelWidth;
  const std::int8_t* a = args.codes + token * stride;
  const auto* weights = reinterpret_cast<const std::int8_t*>(args.weight.panel(panel));
  int32x4_t sums[TileM][4];
#pragma GCC unroll 4
  for (int i = 0; i < TileM; ++i)
#pragma GCC unroll 4
    for (int quad = 0; quad < 4; ++quad) sums[i][quad] = vdupq_n_s32(0);
  constexpr std::size_t kCodesWeights = kCodesK * PackedInt8::kPanelWidth;
  for (std::size_t at = 0; at < stride; at += kCodesK, a += kCodesK, weights += kCodesWeights) {
    int8x16_t sixteen[TileM];
#pragma GCC unroll 4
    for (int i = 0; i < TileM; ++i) sixteen[i] = vld1q_s8(a + i * stride);
    const auto add_row = [&]<int Row>() {
      int8x16_t codes[4];
#pragma GCC unroll 4
      for (int quad = 0; quad < 4; ++quad) codes[quad] = vld1q_s8(weights + Row * 64 + quad * 16);
#pragma GCC unroll 4
      for (int quad = 0; quad < 4; ++quad)
#pragma GCC unroll 4
        for (int i = 0; i < TileM; ++i) sums[i][quad] = vdotq_laneq_s32(sums[i][quad], codes[quad], sixteen[i], Row);
    };
    add_row.template operator()<0>();
    add_row.template operator()<1>();
    add_row.template operator()<2>();
    add_row.template operator()<3>();
  }
  const std::size_t n = args.weight.n, width = std::min(PackedInt8::kPanelWidth, n - column);
  for (int i = 0; i < TileM; ++i) {
    float32x4_t results[4];
#pragma GCC unroll 4
    for (int quad = 0; quad < 4; ++quad) {
      const float32x4_t scale =
          vmulq_n_f32(vld1q_f32(args.weight.scales.data() + column + 4 * quad), args.scales[token + i]);
      results[quad] = vmulq_f32(vcvtq_f32_s32(sums[i][quad]), scale);
    }
    std::memcpy(args.out + (token + i) * n + column, results, width * sizeof(float));
  }
}

// Up to TileM tokens from `token` on.
template <int TileM = kGemvTokens>
void gemv_tile_of(const Int8GemmArgs& args, std::size_t token, std::size_t panel) {
  if (args.m - token >= TileM) {
    gemv_tile<TileM>(args, token, panel);
  } else if constexpr (TileM > 1) {
    gemv_tile_of<TileM - 1>(args, token, panel);
  }
}

void gemv_task(void* context, std::size_t index) {
  const Int8GemmArgs& args = *static_cast<const Int8GemmArgs*>(context);
  const std::size_t last = std::min((index + 1) * args.panels_per_task, args.weight.panels());
  for (std::size_t panel = index * args.panels_per_task; panel < last; ++panel)
    for (std::size_t token = 0; token < args.m; token += kGemvTokens) gemv_tile_of(args, token, panel);
}

#if defined(__ARM_FEATURE_MATMUL_INT8)
// The weights of a panel in the order of SMMLA: two halves of 8 columns. Reads whole steps, past k: the activations are
// zero there.
const std::int8_t* tile_weights(const Int8GemmArgs& args, std::size_t panel) {
  thread_local Scratch memory;
  const std::size_t half = args.steps * kStepK * kInt8TileColumns;
  auto* const ordered = reinterpret_cast<std::int8_t*>(at_least(memory, 2 * half / sizeof(float)));
  const auto* from = reinterpret_cast<const std::int8_t*>(args.weight.panel(panel));
  auto *left = ordered, *right = ordered + half;
  static_assert(kStepK == 4 * 8);  // 8 values of k of 16 columns, four times
  for (const auto* const end = left + half; left != end;)
    asm volatile(
        ".rept 4\n\t"
        "ld1 {v0.4s-v3.4s}, [%[from]], #64\n\t"
        "ld1 {v4.4s-v7.4s}, [%[from]], #64\n\t"
        "zip1 v16.4s, v0.4s, v4.4s\n\t"
        "zip2 v17.4s, v0.4s, v4.4s\n\t"
        "zip1 v18.4s, v1.4s, v5.4s\n\t"
        "zip2 v19.4s, v1.4s, v5.4s\n\t"
        "zip1 v20.4s, v2.4s, v6.4s\n\t"
        "zip2 v21.4s, v2.4s, v6.4s\n\t"
        "zip1 v22.4s, v3.4s, v7.4s\n\t"
        "zip2 v23.4s, v3.4s, v7.4s\n\t"
        "st1 {v16.4s-v19.4s}, [%[left]], #64\n\t"
        "st1 {v20.4s-v23.4s}, [%[right]], #64\n\t"
        ".endr"
        : [from] "+r"(from), [left] "+r"(left), [right] "+r"(right)
        :
        : "memory", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v16", "v17", "v18", "v19", "v20", "v21", "v22",
          "v23");
  return ordered;
}
#else
const std::int8_t* tile_weights(const Int8GemmArgs& args, std::size_t panel) {
  return reinterpret_cast<const std::int8_t*>(args.weight.panel(panel));
}
#endif

void panel_task(void* context, std::size_t panel) {
  const Int8GemmArgs& args = *static_cast<const Int8GemmArgs*>(context);
  const std::int8_t* weights = tile_weights(args, panel);
  const std::size_t n = args.weight.n, k = args.steps * kStepK;
  for (std::size_t column = panel * PackedInt8::kPanelWidth, i = 0; i < PackedInt8::kPanelWidth && column + i < n;
       i += kInt8TileColumns, weights += k * kInt8TileColumns)
    for (std::size_t token = 0; token < args.m; token += kInt8TileTokens) {
      const std::int8_t* a = args.codes + token / kTileTokens * kTileTokens * k + token % kTileTokens * kCodesK;
      int8_tile(a, weights, args.steps, args.scales + token, args.weight.scales.data() + column + i, args.m - token,
                n - column - i, args.out + token * n + column + i, n);
    }
}

}  // namespace

void per_token_int8_gemm(const PackedInt8& weight, const float* a, std::size_t m, float* out, const Parallel& parallel,
                         Scratch& scratch) {
  const std::size_t steps = ceil_div(weight.k, kStepK), k = steps * kStepK;
  const std::size_t held = m <= kGemvMaxM ? m : ceil_div(m, kTileTokens) * kTileTokens;
  float* memory = at_least(scratch, held * (k / sizeof(float) + 1));
  const Int8GemmArgs args{
      .weight = weight,
      .a = a,
      .m = m,
      .steps = steps,
      .out = out,
      .codes = reinterpret_cast<std::int8_t*>(memory),
      .scales = memory + held * k / sizeof(float),
      .panels_per_task = panels_per_task(weight.panels(), weight.panel_bytes()),
  };
  if (m <= kGemvMaxM) {
    for_each_row(m, k, parallel, [&](std::size_t token) {
      args.scales[token] = quantize_token(a + token * weight.k, weight.k, [&](std::size_t first, int8x16_t codes) {
        vst1q_s8(args.codes + token * k + first, codes);
      });
    });
    parallel.run(parallel.self, gemv_task, ceil_div(weight.panels(), args.panels_per_task),
                 const_cast<Int8GemmArgs*>(&args));
  } else {
    // Tokens past the last are multiplied, too, and dropped.
    std::fill(args.scales + m, args.scales + held, 0.0f);
    for_each_row(m, k, parallel, [&](std::size_t token) {
      std::int8_t* tile = args.codes + token / kTileTokens * kTileTokens * k;
      args.scales[token] = quantize_token(a + token * weight.k, weight.k, [&](std::size_t first, int8x16_t codes) {
        store_codes(tile, token % kTileTokens, first, codes);
      });
    });
    parallel.run(parallel.self, panel_task, weight.panels(), const_cast<Int8GemmArgs*>(&args));
  }
}

}  // namespace edgekiln::EDGEKILN_ISA
