// The two ends of the per-token int8 GEMM (W8A8): quantizing activations, and the epilogue that scales the
// accumulators.
//
// VPDPBUSD and TDPBUSD multiply unsigned by signed bytes, so with them activation codes are stored with zero point 128.
// The epilogue adds each column's compensation, -128 * the sum of its weight codes, which makes the result that of
// signed codes. Where products are of signed codes, neither is needed.
#pragma once

#include <algorithm>
#include <cstring>

#include "kernels/pack/packed_int8.h"
#include "kernels/packed/packed_gemm.h"

namespace edgekiln::EDGEKILN_ISA {

struct Int8GemmArgs {
  const PackedInt8& weight;
  const float* a;  // [m, k]
  std::size_t m;
  float* out;           // [m, n]
  std::size_t stride;   // bytes between the codes of two tokens, zero past k
  std::uint8_t* codes;  // [m, stride], quantized activations
  float* scales;        // [m]
  std::size_t panels_per_task, tokens_per_task;
};

// Tokens [first, last) times panels [panel, panel + count), count <= kInt8GemmPanels: in registers
// (packed/int8_gemm.cpp) or AMX tiles (amx/int8_gemm.cpp).
inline constexpr int kInt8GemmPanels = 4;
void int8_gemm(const Int8GemmArgs& args, std::size_t first, std::size_t last, std::size_t panel, std::size_t count);

// What int8_gemm() expects of its arguments: the multiple of tokens in a task, the stride of k codes of one byte, and
// how many tokens' codes the memory must hold.
std::size_t int8_gemm_token_multiple();
std::size_t int8_gemm_stride(std::size_t k);
std::size_t int8_gemm_held_tokens(std::size_t m);

// Quantizes one token to 127 steps of its largest magnitude, for the dot products `Dot`.
template <typename Dot>
void quantize_token(const Int8GemmArgs& args, std::size_t token) {
  constexpr float kSmallestMaximum = 1e-10f;  // keeps the scale of an all-zero token finite
  constexpr std::size_t kFour = 4 * kLanes;
  const std::size_t k = args.weight.k, fours = k / kFour * kFour;
  const float* a = args.a + token * k;
  std::uint8_t* codes = args.codes + token * args.stride;
  float rest[kFour];
  if (fours < k) {
    std::fill(rest, rest + kFour, 0.0f);
    std::copy(a + fours, a + k, rest);
  }
  // Four maxima, so that no vector waits for the one before.
  Floats most[4] = {};
  const auto update = [&](const float* from) {
    for (int j = 0; j < 4; ++j) most[j] = larger(most[j], magnitude(load(from + j * kLanes)));
  };
  for (std::size_t i = 0; i < fours; i += kFour) update(a + i);
  if (fours < k) update(rest);
  const float largest =
      std::max(largest_lane(larger(larger(most[0], most[1]), larger(most[2], most[3]))), kSmallestMaximum);
  const float inverse = 127.0f / largest;
  const auto store_four = [&](std::uint8_t* to, const float* from) {
    Floats x[4];
    for (int j = 0; j < 4; ++j) x[j] = load(from + j * kLanes) * inverse;
    Dot::store_codes(to, x);
  };
  for (std::size_t i = 0; i < fours; i += kFour) store_four(codes + i * Dot::kCodeBytes, a + i);
  // Past k up to a multiple of kDotK the weights are zero.
  const std::size_t stored = ceil_div(k, PackedInt8::kDotK) * PackedInt8::kDotK * Dot::kCodeBytes;
  const std::size_t at = fours * Dot::kCodeBytes;
  if (fours < k) {
    std::uint8_t last[kFour * Dot::kCodeBytes];
    store_four(last, rest);
    std::memcpy(codes + at, last, stored - at);
  }
  std::memset(codes + stored, 0, args.stride - stored);
  args.scales[token] = largest / 127.0f;
}

// Turns the int32 accumulators of one token and kLanes columns into floats: adds the compensation, scales, stores.
class Epilogue {
 public:
  Epilogue(const Int8GemmArgs& args, std::size_t column)
      : args_(args), column_(column), scale_(load(args.weight.scales.data() + column)) {
    static_assert(sizeof compensation_ == kLanes * sizeof(std::int32_t));
    std::memcpy(&compensation_, args.weight.compensation.data() + column, sizeof compensation_);
  }

  template <typename Dot>
  void store(std::size_t token, Ints sum) const {
    if constexpr (Dot::kActivationZeroPoint != 0) sum += compensation_;
    const Floats scale = scale_ * args_.scales[token];
    const std::size_t n = args_.weight.n;
    store_columns(args_.out + token * n, n, column_, __builtin_convertvector(sum, Floats) * scale);
  }

 private:
  const Int8GemmArgs& args_;
  std::size_t column_;
  Floats scale_;
  Ints compensation_;
};

}  // namespace edgekiln::EDGEKILN_ISA
