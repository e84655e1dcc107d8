// Per-token int8 GEMM (W8A8): quantize each token, multiply with the packed weight, scale in the epilogue. For NEON
// with FEAT_I8MM.
//
// SDOT and SMMLA multiply signed bytes, so that neither activations nor weights need a zero point. m <= kGemvMaxM is a
// GEMV: each panel is read once for all tokens. Larger m multiplies tiles.
#include <cstring>

#include "kernels/isa_kernels.h"
#include "kernels/matmul_nbits.h"
#include "kernels/neon/int8_smmla_gemv.h"
#include "kernels/neon/int8_smmla_tile.h"
#include "kernels/neon/per_token_int8.h"
#include "kernels/vector/for_each_row.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

constexpr std::size_t kDotK = PackedInt8::kSmmlaK;                  // values of k in a row of SMMLA
constexpr std::size_t kRowBytes = kDotK * PackedInt8::kPanelWidth;  // of a panel
constexpr std::size_t kSmallBlock = 4;                              // tokens

// Stores the codes of 16 values of k to the next two rows of kDotK; rows are `stride` bytes apart.
[[gnu::always_inline]] inline void store_rows(std::int8_t*& to, std::size_t stride, int8x16_t codes) {
  asm volatile(
      "st1 {%[codes].d}[0], [%[to]], %[stride]\n\t"
      "st1 {%[codes].d}[1], [%[to]], %[stride]"
      : [to] "+r"(to)
      : [codes] "w"(codes), [stride] "r"(stride)
      : "memory");
}

// Scales and stores the 16 sums of a token.
void finish_token(const Int8GemmArgs& args, std::size_t token, std::size_t column, const int32x4_t (&sums)[4]) {
  const std::size_t n = args.weight.n, width = std::min(PackedInt8::kPanelWidth, n - column);
  float32x4_t results[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const float32x4_t scale = vmulq_n_f32(vld1q_f32(args.weight.scales.data() + column + 4 * i), args.scales[token]);
    results[i] = vmulq_f32(vcvtq_f32_s32(sums[i]), scale);
  }
  float* out = args.out + token * n + column;
  if (width == PackedInt8::kPanelWidth) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) vst1q_f32(out + 4 * i, results[i]);
    return;
  }
  float last[PackedInt8::kPanelWidth];  // a copy: with the address of `results`, all of them would be in memory
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) vst1q_f32(last + 4 * i, results[i]);
  std::memcpy(out, last, width * sizeof(float));
}

// The last token, alone in its pair, times one panel.
void gemv_one(const Int8GemmArgs& args, std::size_t token, std::size_t panel) {
  detail::PanelSums sums[1];
  detail::multiply_panel_by_one(args.codes + token * args.steps * kStepK,
                                reinterpret_cast<const std::int8_t*>(args.weight.panel(panel)), args.steps, sums);
  int32x4_t row[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) row[i] = vpaddq_s32(sums[0][2 * i], sums[0][2 * i + 1]);
  finish_token(args, token, panel * PackedInt8::kPanelWidth, row);
}

// Up to 2 * Pairs tokens from `token` on times one panel.
template <int Pairs>
void gemv_pairs(const Int8GemmArgs& args, std::size_t token, std::size_t panel) {
  const std::size_t k = args.steps * kStepK;
  detail::PanelSums sums[Pairs];
  detail::multiply_panel(args.codes + token * k, reinterpret_cast<const std::int8_t*>(args.weight.panel(panel)), 2 * k,
                         args.steps, sums);
#pragma GCC unroll 2
  for (int pair = 0; pair < Pairs; ++pair, token += 2) {
    int32x4_t rows[2][4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      rows[0][i] = vuzp1q_s32(sums[pair][2 * i], sums[pair][2 * i + 1]);
      rows[1][i] = vuzp2q_s32(sums[pair][2 * i], sums[pair][2 * i + 1]);
    }
    finish_token(args, token, panel * PackedInt8::kPanelWidth, rows[0]);
    if (token + 1 < args.m) finish_token(args, token + 1, panel * PackedInt8::kPanelWidth, rows[1]);
  }
}

void gemv_task(void* context, std::size_t index) {
  const Int8GemmArgs& args = *static_cast<const Int8GemmArgs*>(context);
  const std::size_t last = std::min((index + 1) * args.panels_per_task, args.weight.panels());
  for (std::size_t panel = index * args.panels_per_task; panel < last; ++panel) {
    std::size_t token = 0;
    for (; token + 2 < args.m; token += 4) gemv_pairs<2>(args, token, panel);
    if (token + 2 == args.m) gemv_pairs<1>(args, token, panel);
    if (token + 1 == args.m) gemv_one(args, token, panel);
  }
}

// Tokens are multiplied in blocks of kSmmlaTokens, the last in one of 4, 8 or 12.
std::size_t block_tokens(std::size_t left) { return std::min(ceil_div(left, kSmallBlock) * kSmallBlock, kSmmlaTokens); }

// The blocks of tokens from `token` on times the columns from `column` on, of which the result has only a part of the
// tokens or columns.
[[gnu::noinline]] void multiply_part(const Int8GemmArgs& args, const std::int8_t* weights, std::size_t token,
                                     std::size_t column) {
  const std::size_t n = args.weight.n, k = args.steps * kStepK;
  const float* column_scales = args.weight.scales.data() + column;
  for (; token < args.m; token += kSmmlaTokens) {
    const std::size_t left = args.m - token, tokens = block_tokens(left);
    float results[kSmmlaTokens][kSmmlaColumns];
    const auto multiply = [&]<int Pairs>() {
      const std::int8_t* a = args.codes + token * k;
      float* to = results[0];
      smmla_tile<Pairs>(a, weights, kRowBytes, args.steps, args.scales + token, column_scales, to, sizeof *results);
    };
    if (tokens == 12) multiply.template operator()<6>();
    if (tokens == 8) multiply.template operator()<4>();
    if (tokens == 4) multiply.template operator()<2>();
    float* out = args.out + token * n + column;
    for (std::size_t row = 0; row < std::min(tokens, left); ++row, out += n)
      std::memcpy(out, results[row], std::min(kSmmlaColumns, n - column) * sizeof(float));
  }
}

void panel_task(void* context, std::size_t panel) {
  const Int8GemmArgs& args = *static_cast<const Int8GemmArgs*>(context);
  // In registers over the tiles, which the compiler takes to write all memory.
  const std::size_t m = args.m, n = args.weight.n, steps = args.steps;
  const auto* weights = reinterpret_cast<const std::int8_t*>(args.weight.panel(panel));
  const std::size_t first = panel * PackedInt8::kPanelWidth, end = std::min(first + PackedInt8::kPanelWidth, n);
  for (std::size_t column = first; column < end; column += kSmmlaColumns, weights += kDotK * kSmmlaColumns) {
    std::size_t token = 0;
    if (column + kSmmlaColumns <= end) {
      const float *scales = args.scales, *const column_scales = args.weight.scales.data() + column;
      const std::int8_t* a = args.codes;
      float* out = args.out + column;
      for (; token + kSmmlaTokens <= m; token += kSmmlaTokens, scales += kSmmlaTokens)
        smmla_tile<6>(a, weights, kRowBytes, steps, scales, column_scales, out, n * sizeof(float));
      if (token + 8 == m) {  // as of 32 tokens
        smmla_tile<4>(a, weights, kRowBytes, steps, scales, column_scales, out, n * sizeof(float));
        continue;
      }
    }
    if (token < m) multiply_part(args, weights, token, column);
  }
}

}  // namespace

void per_token_int8_gemm(const PackedInt8& weight, const float* a, std::size_t m, float* out, const Parallel& parallel,
                         Scratch& scratch) {
  const bool gemv = m <= kGemvMaxM;
  const Int8GemmArgs args = int8_gemm_args(weight, a, m, kSmallBlock, out, scratch);
  const std::size_t k = args.steps * kStepK;
  for_each_row(m, k, parallel, [&](std::size_t token) {
    const std::size_t block = gemv ? 2 : kSmmlaTokens, first = token / block * block, in_block = token - first;
    const std::size_t tokens = gemv ? 2 : block_tokens(m - first), stride = tokens * kDotK;
    std::int8_t *to = args.codes + first * k + in_block * kDotK, *copy = to + kDotK;
    const float* from = a + token * weight.k;
    if (gemv && token + 1 == m && in_block == 0) {
      args.scales[token] = quantize_token(from, weight.k, [&](int8x16_t codes) {
        store_rows(to, stride, codes);
        store_rows(copy, stride, codes);
      });
    } else {
      args.scales[token] = quantize_token(from, weight.k, [&](int8x16_t codes) { store_rows(to, stride, codes); });
    }
  });
  if (gemv) {
    parallel.run(parallel.self, gemv_task, ceil_div(weight.panels(), args.panels_per_task),
                 const_cast<Int8GemmArgs*>(&args));
  } else {
    parallel.run(parallel.self, panel_task, weight.panels(), const_cast<Int8GemmArgs*>(&args));
  }
}

}  // namespace edgekiln::EDGEKILN_ISA
