// Per-token int8 GEMM (W8A8): quantize each token, multiply with the packed weight, scale in the epilogue. For NEON
// with FEAT_DotProd.
//
// SDOT multiplies signed bytes, so that neither activations nor weights need a zero point. m <= kGemvMaxM is a
// GEMV, SDOT by lane: each panel is read once for all tokens. Larger m multiplies tiles.
#include <algorithm>
#include <cstring>

#include "kernels/isa_kernels.h"
#include "kernels/matmul_nbits.h"
#include "kernels/neon/int8_sdot_tile.h"
#include "kernels/neon/per_token_int8.h"
#include "kernels/vector/for_each_row.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

constexpr int kGemvTokens = 4;  // of a tile

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
  constexpr std::size_t kCodesWeights = kSdotK * PackedInt8::kPanelWidth;
  for (std::size_t at = 0; at < stride; at += kSdotK, a += kSdotK, weights += kCodesWeights) {
    int8x16_t sixteen[TileM];
#pragma GCC unroll 4
    for (int i = 0; i < TileM; ++i) sixteen[i] = vld1q_s8(a + i * stride);
    const auto add_row = [&]<int Row>() {
      const int8x16x4_t codes = vld1q_s8_x4(weights + Row * 64);
#pragma GCC unroll 4
      for (int quad = 0; quad < 4; ++quad)
#pragma GCC unroll 4
        for (int i = 0; i < TileM; ++i)
          sums[i][quad] = vdotq_laneq_s32(sums[i][quad], codes.val[quad], sixteen[i], Row);
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
    float* out = args.out + (token + i) * n + column;
    if (width == PackedInt8::kPanelWidth) {
#pragma GCC unroll 4
      for (int quad = 0; quad < 4; ++quad) vst1q_f32(out + 4 * quad, results[quad]);
      continue;
    }
    std::memcpy(out, results, width * sizeof(float));
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

void panel_task(void* context, std::size_t panel) {
  const Int8GemmArgs& args = *static_cast<const Int8GemmArgs*>(context);
  // In registers over the tiles, which the compiler takes to write all memory.
  const std::size_t m = args.m, n = args.weight.n, steps = args.steps, column = panel * PackedInt8::kPanelWidth;
  const auto* weights = reinterpret_cast<const std::int8_t*>(args.weight.panel(panel));
  const std::size_t width = std::min(PackedInt8::kPanelWidth, n - column);
  const float *scales = args.scales, *const column_scales = args.weight.scales.data() + column;
  const std::int8_t* a = args.codes;
  float* out = args.out + column;
  std::size_t token = 0;
  if (width == PackedInt8::kPanelWidth)
    for (; token + kSdotTokens <= m; token += kSdotTokens, scales += kSdotTokens)
      sdot_tile(a, weights, steps, scales, column_scales, out, n * sizeof(float));
  for (; token < m; token += kSdotTokens, scales += kSdotTokens) {
    float results[kSdotTokens][PackedInt8::kPanelWidth], *to = results[0];
    sdot_tile(a, weights, steps, scales, column_scales, to, sizeof *results);
    for (std::size_t row = 0; row < std::min(kSdotTokens, m - token); ++row, out += n)
      std::memcpy(out, results[row], width * sizeof(float));
  }
}

}  // namespace

void per_token_int8_gemm(const PackedInt8& weight, const float* a, std::size_t m, float* out, const Parallel& parallel,
                         Scratch& scratch) {
  const Int8GemmArgs args = int8_gemm_args(weight, a, m, kSdotTokens, out, scratch);
  const std::size_t k = args.steps * kStepK;
  if (m <= kGemvMaxM) {
    for_each_row(m, k, parallel, [&](std::size_t token) {
      std::int8_t* to = args.codes + token * k;
      args.scales[token] = quantize_token(a + token * weight.k, weight.k, [&](int8x16_t codes) {
        vst1q_s8(to, codes);
        to += kSdotK;
      });
    });
    parallel.run(parallel.self, gemv_task, ceil_div(weight.panels(), args.panels_per_task),
                 const_cast<Int8GemmArgs*>(&args));
  } else {
    for_each_row(m, k, parallel, [&](std::size_t token) {
      std::int8_t* to = args.codes + token / kSdotTokens * kSdotTokens * k + token % kSdotTokens * kSdotK;
      args.scales[token] = quantize_token(a + token * weight.k, weight.k, [&](int8x16_t codes) {
        vst1q_s8(to, codes);
        to += kSdotTokens * kSdotK;
      });
    });
    parallel.run(parallel.self, panel_task, weight.panels(), const_cast<Int8GemmArgs*>(&args));
  }
}

}  // namespace edgekiln::EDGEKILN_ISA
